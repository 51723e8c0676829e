"""Publishing as a flow on a real Prefect server: tasks, assets, the artifact, parameters, and what no log may say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from prefect_loova import LoovaVideos, VideoRequest, generate_from_manifest, generate_videos, publish_videos
from prefect_loova.errors import InvalidRequestError
from tests.integration.conftest import block_of
from tests.support.logs import logged

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.takes, pytest.mark.one_s3_server]


@pytest.fixture
def admin(place, bucket):
    """The place of one who may do everything."""
    return replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


async def made(place, *prompts: str) -> list[str]:
    """Make videos, and return their keys."""
    requests = [VideoRequest(prompt=prompt, duration=4) for prompt in prompts]
    await generate_videos(requests, place.credentials, place.bucket, poll_seconds=0.1)
    return [request.key for request in requests]


async def publish(keys: list[str], place, **options: Any):
    return await publish_videos(keys, credentials=place.credentials, bucket=place.bucket, **options)


async def page_of_run() -> str:
    async with get_client() as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["loova-published"]))
        found = await client.read_artifacts(artifact_filter=wanted)
    return str(max(found, key=lambda one: one.created).data)


async def asset_events(uri: str, event: str) -> list[dict[str, Any]]:
    for _ in range(50):
        async with get_client() as client:
            body = {"filter": {"resource": {"id": [uri]}, "event": {"prefix": [event]}}, "limit": 50}
            found = (await client._client.post("/events/filter", json=body)).json()["events"]
        if found:
            break
        await asyncio.sleep(0.2)
    return list(found)


async def test_a_published_video_is_an_asset_made_of_the_saved_one(place):
    key, later = await made(place, "an asset to publish", "a later asset")
    published = await publish([key], place)
    (video,) = published.videos
    [event] = await asset_events(video.video, "prefect.asset.materialization.succeeded")
    assert {"prefect.resource.id": video.source, "prefect.resource.role": "asset"} in event["related"]
    told = {name: event["payload"][name] for name in ("label", "key", "credits", "sha256")}
    assert told == {"label": "", "key": key, "credits": 60, "sha256": video.sha256}
    again = await publish([key, later], place)
    assert await asset_events(again.videos[1].video, "prefect.asset.materialization")  # events come in order
    assert len(await asset_events(video.video, "prefect.asset.materialization")) == 1


async def test_a_run_shows_what_it_published(place, bucket):
    keys = await made(place, "a *boat* | <b>", "a train")
    published = await publish(keys, place)
    page = await page_of_run()
    assert published.page == f"s3://{bucket}/loova/_published/index.html"
    assert f"```\n{published.page}\n```" in page
    assert r"a\-boat\-b\-16x9\.mp4" in page
    assert r"a \*boat\* \| \<b\>" in page
    assert page.count(" | copied | 60 | ") == 2
    await publish(keys, place)
    assert (await page_of_run()).count(" | was there | 60 | ") == 2


async def test_a_presigned_query_is_only_in_the_page(place, bucket, caplog):
    keys = await made(place, "a secret link")
    caplog.set_level(logging.DEBUG, logger="prefect_loova")
    caplog.set_level(logging.INFO)
    published = await publish(keys, place, links="presigned", link_seconds=3600)
    page = bucket.client.get_object(Bucket=bucket, Key="loova/_published/index.html")["Body"].read().decode()
    signature = page.partition("X-Amz-Signature=")[2][:64]
    assert len(signature) == 64
    told = "\n".join(record.getMessage() for record in logged(caplog))
    assert "1 video, 1 copied by this run" in told
    for elsewhere in (told, await page_of_run(), published.model_dump_json(), repr(published)):
        assert signature not in elsewhere
        assert "X-Amz-" not in elsewhere


async def test_the_report_of_a_list_is_published_with_further_keys(admin, bucket, tmp_path):
    (key,) = await made(admin, "beside the list")
    (tmp_path / "prompts.csv").write_text("prompt,duration\na boat,4\na train,4\n")
    list_of = {"credentials": admin.credentials, "bucket": admin.bucket, "poll_seconds": 0.1}
    await generate_from_manifest(str(tmp_path / "prompts.csv"), **list_of)
    report = tmp_path / "prompts.report.csv"
    published = await publish([key[:12]], admin, report=str(report), to=f"s3://{bucket}/site/", name="{slug}.mp4")
    names = ["beside-the-list.mp4", "a-boat.mp4", "a-train.mp4"]
    assert [video.name for video in published.videos] == names
    bucket.client.put_object(Bucket=bucket, Key="lists/prompts.report.csv", Body=report.read_bytes())
    again = await publish([], admin, report=f"s3://{bucket}/lists/prompts.report.csv", to=f"s3://{bucket}/site/")
    assert [video.is_new for video in again.videos] == [True, True]


async def test_the_block_with_everything_publishes_too(place, bucket):
    (key,) = await made(place, "from a block")
    videos = LoovaVideos(credentials=place.credentials, bucket=place.bucket)
    published = await publish_videos([key], videos=videos, upload_options={"CacheControl": "max-age=60"})
    assert len(published.videos) == 1
    for name in ("from-a-block-16x9.mp4", "index.html"):
        assert bucket.client.head_object(Bucket=bucket, Key=f"loova/_published/{name}")["CacheControl"] == "max-age=60"


@pytest.mark.parametrize(
    ("keys", "options", "problem"),
    [
        ([], {}, "keys, report: they name no video"),
        (["ab"], {"name": "{prompt}.mp4"}, "name: .*'prompt' is no field"),
        (["ab"], {"to": "s3:/typo"}, "to: 's3:/typo' was given: must be s3://BUCKET/PREFIX/"),
        ([], {"report": "missing.csv"}, "report: missing.csv cannot be read"),
    ],
)
async def test_what_cannot_be_published_is_refused_by_parameter(place, keys, options, problem):
    with pytest.raises(InvalidRequestError, match=f"^{problem}"):
        await publish(keys, place, **options)
