"""What the Prefect UI shows of a video: pictures, page, gallery, progress bars, tags and assets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import av
import httpx
import pytest
from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_loova import BatchReport, LoovaVideos, VideoRequest, collect_videos, generate_video, generate_videos
from prefect_loova._prefect.artifacts import artifact_key, publish_prices
from prefect_loova._prefect.context import Location
from prefect_loova._prefect.previews import show_video
from prefect_loova._prefect.progress import ProgressBar
from prefect_loova._urls import origin
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.records import JobRecords
from tests.integration.conftest import block_of
from tests.support.proxy import NetworkFault, Proxy, Seen
from tests.support.s3_servers import PREFIX, minimal_policy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]

MEDIA = "https://media.test/reference.png"
PICTURES = ["contact-sheet.jpg", "poster.jpg", "preview.webp", "thumbnail.jpg"]


@pytest.fixture
def request_of(bucket):
    """A request that no other test makes: keys of artifacts are those of requests."""

    def request_of(number: int = 0, **fields: Any) -> VideoRequest:
        return VideoRequest(prompt=f"{bucket[-12:]} {number}", duration=4, ratio="9:16", **fields)

    return request_of


def made(request: VideoRequest, place, **options: Any):
    return generate_video(request, place.credentials, place.bucket, poll_seconds=0.1, **options)


async def artifacts(key: str) -> list[Any]:
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [one.data for one in sorted(found, key=lambda one: one.created)]


async def page_of(request: VideoRequest) -> str:
    return str((await artifacts(artifact_key("video", request.key, request.name)))[-1])


async def events_of(resource: str, prefix: str, count: int) -> list[dict[str, Any]]:
    for _ in range(50):
        async with get_client() as client:
            body = {"filter": {"resource": {"id": [resource]}, "event": {"prefix": [prefix]}}, "limit": 50}
            found = (await client._client.post("/events/filter", json=body)).json()["events"]
        if len(found) >= count:
            break
        await asyncio.sleep(0.2)
    return found


def pictures_in(page: str) -> list[tuple[str, bytes]]:
    return [(kind, base64.b64decode(data)) for kind, data in re.findall(r"\(data:(image/\w+);base64,([^)]+)\)", page)]


def frames_of(picture: bytes) -> list[tuple[int, int]]:
    with av.open(io.BytesIO(picture)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def names_beside(bucket, request: VideoRequest) -> list[str]:
    below = f"{PREFIX}/{request.key}/"
    found = bucket.client.list_objects_v2(Bucket=bucket, Prefix=below)["Contents"]
    return sorted(one["Key"].removeprefix(below) for one in found)


async def test_the_page_of_a_video_moves_and_its_pictures_are_saved_beside_it(place, bucket, request_of):
    request = request_of()
    await made(request, place)
    assert names_beside(bucket, request) == sorted([*PICTURES, "record.json", "video.mp4"])
    [(kind, picture)] = pictures_in(await page_of(request))
    assert kind == "image/webp"
    stored = bucket.client.get_object(Bucket=bucket, Key=f"{PREFIX}/{request.key}/preview.webp")
    assert picture == stored["Body"].read()
    assert stored["ContentType"] == "image/webp"


@pytest.fixture
def slow_bucket(bucket):
    """The block of the bucket behind a proxy, which delays the first reads of saved videos: the pictures take long."""
    with Proxy(int(bucket.endpoint_url.rpartition(":")[2])) as proxy:
        proxy.inject(NetworkFault(what="delay", seconds=3, matching="GET .*video.mp4", times=2))
        yield block_of(bucket, *bucket.limited_keys, proxy.url), proxy


def reads_of_videos(seen: Sequence[Seen]) -> set[str]:
    return {one.path for one in seen if one.method == "GET" and "video.mp4" in one.path}


async def active_slots(limit: str) -> int:
    async with get_client() as client:
        return (await client.read_global_concurrency_limit_by_name(limit)).active_slots


@pytest.mark.parametrize("flow_", ["generate_video", "generate_videos"])
async def test_no_slot_is_held_while_the_pictures_are_made(flow_, place, slow_bucket, request_of):
    s3_block, proxy = slow_bucket
    limit = f"{flow_}-{request_of().key[:8]}"
    arguments = {"credentials": place.credentials, "bucket": s3_block, "poll_seconds": 0.1, "concurrency_limit": limit}
    if flow_ == "generate_video":
        run = asyncio.create_task(generate_video(request_of(), **arguments))
    else:
        run = asyncio.create_task(generate_videos([request_of()], **arguments))
    held = []
    while not reads_of_videos(proxy.seen):
        assert not run.done()
        with suppress(ObjectNotFound):
            held.append(await active_slots(limit))
        await asyncio.sleep(0.05)
    assert max(held) == 1
    await asyncio.sleep(0.5)
    assert await active_slots(limit) == 0
    assert not any("poster" in seen.path for seen in proxy.seen)
    await run
    assert any("poster" in seen.path for seen in proxy.seen)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one at a time on one core")
async def test_the_pictures_of_two_videos_are_made_at_once(place, slow_bucket, request_of):
    s3_block, proxy = slow_bucket
    saved = [await made(request_of(number), place, preview="none") for number in range(2)]

    @flow
    async def show() -> None:
        async with Location(place.credentials, s3_block).open() as jobs:
            showing = asyncio.gather(*(show_video(jobs, one, made=True, is_new=True) for one in saved))
            while not reads_of_videos(proxy.seen):
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)  # half of the time that the first read takes
            assert len(reads_of_videos(proxy.seen)) == 2
            await showing

    await show()


async def test_the_page_of_a_reused_video_has_its_stored_pictures(place, bucket, request_of):
    request = request_of()
    await made(request, place)
    key = f"{PREFIX}/{request.key}/preview.webp"
    bucket.client.put_object(Bucket=bucket, Key=key, Body=b"the picture of before")
    await made(request, place)
    assert pictures_in(await page_of(request)) == [("image/webp", b"the picture of before")]
    assert "by an earlier run" in await page_of(request)
    assert len(await artifacts(artifact_key("video", request.key, request.name))) == 2


async def test_without_a_preview_no_pictures_are_made(place, bucket, request_of):
    request = request_of()
    await made(request, place, preview="none")
    assert names_beside(bucket, request) == ["record.json", "video.mp4"]
    assert pictures_in(await page_of(request)) == []


async def test_a_gallery_links_the_pages_that_this_prefect_server_has(place, request_of):
    shown, shown_before, not_shown = requests = [request_of(number) for number in range(3)]
    await made(shown, place)
    videos = LoovaVideos(credentials=place.credentials, bucket=place.bucket)
    for request in (shown_before, not_shown):  # saved outside of a run, so without a page
        run = await videos.atrigger(request)
        await run.await_for_completion(poll_seconds=0.1)
        await run.afetch_result()
    former = artifact_key("video", shown_before.key)

    @flow
    async def show_as_before() -> None:
        await acreate_markdown_artifact("a page of before", key=former)

    await show_as_before()
    await generate_videos(requests, place.credentials, place.bucket, preview="still")
    links = re.findall(r"\[open\]\(\S+/artifacts/key/(\S+)\)", (await artifacts("loova-batch"))[-1])
    assert links == [artifact_key("video", shown.key, shown.name), former]


async def test_without_previews_the_page_of_a_batch_has_no_pictures(place, request_of):
    wanted = [request_of()]
    for preview in ("still", "none"):
        await generate_videos(wanted, place.credentials, place.bucket, poll_seconds=0.1, preview=preview)
    with_pictures, without = (await artifacts("loova-batch"))[-2:]
    assert "data:image" in with_pictures and "data:image" not in without


async def test_a_picture_that_cannot_be_stored_fails_neither_video_nor_page(place, bucket, loova, request_of, caplog):
    tight = minimal_policy(bucket, PREFIX)
    for statement in tight["Statement"]:
        if "s3:PutObject" in statement["Action"]:
            arn = f"arn:aws:s3:::{bucket}/{PREFIX}"
            statement["Resource"] = [f"{arn}/*.json", f"{arn}/*.mp4", f"{arn}/_*"]
    request = request_of()
    saved = await made(request, replace(place, bucket=block_of(bucket, *bucket.server.add_user(tight))))
    assert saved.state == "saved"
    assert names_beside(bucket, request) == ["record.json", "video.mp4"]
    assert "the video is saved, but has no preview" in caplog.text
    assert saved.video in await page_of(request)


async def test_the_page_links_to_play_the_video_only_on_request(place, bucket, request_of):
    request = request_of()
    await made(request, place)
    assert "Signature" not in await page_of(request)
    saved = await made(request, place, player_link_seconds=600)
    [link] = re.findall(r"\[Play it\]\((\S+)\)", await page_of(request))
    async with httpx.AsyncClient(trust_env=False) as anybody:
        answer = await anybody.get(link)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert hashlib.sha256(answer.content).hexdigest() == saved.sha256


async def test_the_run_and_its_tasks_are_tagged_by_model_and_label(place, request_of):
    request = request_of(model="seedance_2_0_fast", label="spring")
    await made(request, place)
    async with get_client() as client:
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=["model:seedance_2_0_fast"]))
        [run] = [one for one in await client.read_flow_runs(flow_run_filter=wanted) if one.name == request.name]
        tasks = await client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[UUID(str(run.id))]))
        )
    assert tasks
    assert all({"loova", "model:seedance_2_0_fast", "label:spring"} <= set(one.tags) for one in tasks)


async def test_the_timeline_of_a_batch_connects_the_steps_of_each_video_only(place, request_of):
    requests = [request_of(number) for number in range(3)]

    @flow
    async def two_batches() -> BatchReport:
        await generate_videos(requests[:2], place.credentials, place.bucket, poll_seconds=0.1)
        return await generate_videos(requests, place.credentials, place.bucket, poll_seconds=0.1)

    state = await two_batches(return_state=True)
    videos = [one.task_id for one in (await state.result()).videos]
    within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id]))
    async with get_client() as client:
        runs = await client.read_task_runs(flow_run_filter=within)
    names = {run.id: run.name for run in runs}
    arrows = {(names[one.id], run.name) for run in runs for many in run.task_inputs.values() for one in many}
    assert len(runs) == 9
    assert arrows == {
        (f"submit {request.name}", f"{step} {task}")
        for request, task in zip(requests, videos, strict=True)
        for step in ("wait", "save")
    }


async def test_a_video_is_an_asset_made_of_its_reference_media_and_used_the_second_time(place, request_of):
    request = request_of(image_urls=(f"{MEDIA}?secret=1",))
    saved = await made(request, place)
    [event] = await events_of(saved.video, "prefect.asset.materialization.succeeded", 1)
    assert {"prefect.resource.id": MEDIA, "prefect.resource.role": "asset"} in event["related"]
    assert event["payload"]["loova_task"] == saved.task_id
    assert event["payload"]["sha256"] == saved.sha256
    assert "secret" not in json.dumps(event)
    await made(request, place)
    await asyncio.sleep(1)
    assert len(await events_of(saved.video, "prefect.asset.materialization", 1)) == 1


async def test_a_running_video_has_a_progress_bar(place, loova, request_of):
    request = request_of()
    loova.fail("unknown_status", times=3)
    await made(request, place)
    [bar] = await artifacts(f"loova-progress-{request.key[:16]}")
    assert float(bar) == 100


async def test_a_prefect_server_that_stops_costs_a_page_but_no_job(caplog):
    """In a loop of its own: the run's own client would ask the server that is there."""

    async def shown_at(address: socket.socket, showing: Callable[[], Coroutine[Any, Any, None]]) -> float:
        started = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{address.getsockname()[1]}/api"}):
            await asyncio.to_thread(lambda: asyncio.run(showing()))
        return time.monotonic() - started

    @flow
    async def shows() -> float:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            await shown_at(closed, lambda: publish_prices("| A table |"))
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection, and says nothing
            return await shown_at(silent, lambda: ProgressBar("loova-hung", api_seconds=0.5).show(50.0, "half of it"))

    assert await shows() < 5
    assert "the artifact loova-prices was not created" in caplog.text


async def test_a_link_that_cannot_be_signed_does_not_fail_a_saved_video(place, bucket, request_of, caplog):
    saved = await made(request_of(), place, preview="none")
    records = JobRecords(bucket.limited_client, "arn:of:no:bucket", PREFIX, origin(place.credentials.base_url))
    async with place.credentials.get_client() as loova:
        await show_video(VideoJobs(loova, records), saved, made=True, preview="none", player_seconds=60)
    assert f"Loova task {saved.task_id}: the video is saved, but is not shown (" in caplog.text


async def test_a_batch_is_a_gallery_a_table_and_a_bar(place, loova, request_of):
    loova.fail("prompt_refused")
    requests = [request_of(number) for number in range(5)]
    report = await generate_videos(requests, place.credentials, place.bucket, poll_seconds=0.1, on_failure="report")
    page = str((await artifacts("loova-batch"))[-1])
    assert page.index("moderation") < page.index("data:image")
    assert [kind for kind, _ in pictures_in(page)] == ["image/jpeg"] * 4
    assert all(max(frames_of(picture)[0]) <= 240 for _, picture in pictures_in(page))
    rows = (await artifacts("loova-batch-table"))[-1]
    assert [row["state"] for row in json.loads(rows)] == ["content refused", *["saved"] * 4]
    assert float((await artifacts("loova-batch-progress"))[-1]) == 100
    saved = {video.key for video in report.videos if video.outcome == "saved"}  # any of them may be submitted first
    [(kind, _)] = pictures_in(await page_of(next(one for one in requests if one.key in saved)))
    assert kind == "image/jpeg"


async def test_a_job_logs_at_most_ten_lines_and_names_its_task(place, loova, request_of):
    request = request_of()
    loova.fail("unknown_status", times=12)
    saved = await made(request, place)
    async with get_client() as client:
        [run] = [one for one in await client.read_flow_runs(limit=200) if one.name == request.name]
        for _ in range(100):
            wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
            logs = [one.message for one in await client.read_logs(wanted, limit=200)]
            if sum("Finished in state" in line for line in logs) == 4:
                break
            await asyncio.sleep(0.1)
    assert len(logs) <= 10, logs
    ours = [line for line in logs if "Loova" in line]
    assert len(ours) >= 4
    assert all(saved.task_id in line for line in ours)


async def test_a_collected_video_has_a_page_and_is_an_asset(place, bucket, loova: LoovaSimulator, request_of):
    lister = replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))
    request = request_of()
    await made(request, lister, wait=False)
    await asyncio.sleep(0.5)
    [saved] = (await collect_videos(lister.credentials, lister.bucket)).saved
    assert len(pictures_in(await page_of(request))) == 1
    assert len(await events_of(saved.video, "prefect.asset.materialization.succeeded", 1)) == 1
