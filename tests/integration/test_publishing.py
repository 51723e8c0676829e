"""Videos that are published: copied within a real S3 server, named, listed, and shown on a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from prefect_loova import VideoRequest
from prefect_loova.batches.manifest import report_as_csv
from prefect_loova.batches.publish import Publisher, find_videos, keys_of_report, target_of
from prefect_loova.batches.publish_names import NAME
from prefect_loova.errors import InvalidRequestError, StorageError
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.published import PublishedVideos
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.copies import copy_object
from prefect_loova.store.prefix import BucketPrefix
from tests.integration.conftest import block_of
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket, minimal_policy

pytestmark = pytest.mark.takes

BOAT = VideoRequest(prompt="A boat at sunset", duration=4)
SPRING = VideoRequest(prompt="A boat at sunset", duration=4, ratio="1:1", label="Spring / <b>2026</b>")
TAKE_2 = VideoRequest(prompt="A boat at sunset", duration=4, take=1)
TRAIN = VideoRequest(prompt="A train", duration=4, ratio="9:16")
MIB = 1024**2


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    with Proxy(int(bucket.endpoint_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def through(place, bucket, proxy):
    """The place by way of the proxy, with the least policy."""
    return replace(place, bucket=block_of(bucket, *bucket.limited_keys, proxy.url))


@pytest.fixture
def admin(place, bucket):
    """The place of one who may do everything."""
    return replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


@pytest.fixture
def elsewhere(bucket: Bucket) -> Iterator[Bucket]:
    """Another bucket on the same server."""
    made = bucket.server.make_bucket()
    yield made
    made.remove()


async def made(place, *requests: VideoRequest, poster: bool = True) -> list[SavedVideo]:
    """Make videos, with a picture beside each."""
    videos = []
    async with place.open() as jobs:
        for request in requests:
            submission = await submit_video(jobs, request)
            await wait_for_video(jobs, submission, max_wait=30, poll_seconds=0.1)
            saved, _ = await save_video(jobs, submission)
            if poster:
                key = jobs.records.key_of(saved.video).replace("video.mp4", "poster.jpg")
                await jobs.records.put_bytes(key, b"a picture", "image/jpeg")
            videos.append(saved)
    return videos


@asynccontextmanager
async def publisher(place, to: str = "", **options: Any):
    async with place.open() as jobs:
        yield Publisher(jobs, target_of(to, jobs.records), **options)


async def publish(place, *keys: str, to: str = "", name: str = NAME, link_seconds: int = 0, **options: Any):
    """What the flow does, without Prefect."""
    async with publisher(place, to, **options) as one:
        copies = await one.plan(await find_videos(one.jobs, keys), name)
        return await one.finish([await one.copy(copy) for copy in copies], link_seconds)


def content(bucket: Bucket, key: str) -> bytes:
    return bucket.client.get_object(Bucket=bucket, Key=key)["Body"].read()


def names(bucket: Bucket, prefix: str) -> set[str]:
    listed = bucket.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {one["Key"].removeprefix(prefix) for one in listed}


async def test_videos_are_copied_with_their_pictures_a_manifest_and_a_page(place, bucket, loova):
    boat, train = await made(place, BOAT, TRAIN)
    billed = loova.ledger["totals"]["billed"]
    published = await publish(place, boat.key, train.key)
    assert published.to == f"s3://{bucket}/loova/_published/"
    assert [video.name for video in published.videos] == ["a-boat-at-sunset-16x9.mp4", "a-train-9x16.mp4"]
    assert names(bucket, "loova/_published/") == {
        "a-boat-at-sunset-16x9.mp4",
        "a-boat-at-sunset-16x9.jpg",
        "a-train-9x16.mp4",
        "a-train-9x16.jpg",
        "manifest.csv",
        "manifest.json",
        "index.html",
    }
    video = bucket.client.get_object(Bucket=bucket, Key="loova/_published/a-boat-at-sunset-16x9.mp4")
    assert video["Body"].read() == content(bucket, f"loova/{boat.key}/video.mp4")
    assert (video["ContentType"], video["Metadata"]["sha256"]) == ("video/mp4", boat.sha256)
    assert content(bucket, "loova/_published/a-train-9x16.jpg") == b"a picture"
    assert loova.ledger["totals"]["billed"] == billed


async def test_a_label_is_a_folder_a_heading_and_a_column(place, bucket):
    (saved,) = await made(place, SPRING)
    published = await publish(place, saved.key)
    assert [video.name for video in published.videos] == ["Spring-b-2026-b/a-boat-at-sunset-1x1.mp4"]
    page = content(bucket, "loova/_published/index.html").decode()
    assert "<h2>Spring / &lt;b&gt;2026&lt;/b&gt;</h2>" in page
    assert 'src="Spring-b-2026-b/a-boat-at-sunset-1x1.mp4"' in page
    (listed,) = json.loads(content(bucket, "loova/_published/manifest.json"))["videos"]
    assert listed["label"] == "Spring / <b>2026</b>"


async def test_no_content_of_a_video_passes_through_this_machine(place, through, proxy, bucket):
    (boat,) = await made(place, BOAT)
    for _ in range(2):
        await publish(through, boat.key)
    assert boat.size_bytes > 5_000
    of_videos = [seen for seen in proxy.seen if ".mp4" in seen.path or ".jpg" in seen.path]
    assert {seen.method for seen in of_videos} == {"HEAD", "PUT"}
    assert sum(seen.body_bytes for seen in of_videos) < 2_000


async def test_a_large_object_is_copied_in_parts_within_the_server(place, through, proxy, bucket):
    data = bytes(range(256)) * (12 * MIB // 256)
    bucket.client.put_object(Bucket=bucket, Key="loova/large", Body=data)
    async with through.open() as jobs:
        await copy_object(
            jobs.records,
            "loova/large",
            jobs.records,
            "loova/copy",
            "video/mp4",
            {"sha256": "abc"},
            options={},
            part_bytes=5 * MIB,
        )
    copied = bucket.client.get_object(Bucket=bucket, Key="loova/copy")
    assert (copied["ContentType"], copied["Metadata"]) == ("video/mp4", {"sha256": "abc"})
    assert copied["Body"].read() == data
    assert sum("partNumber=" in seen.path for seen in proxy.seen) == 3
    assert sum(seen.body_bytes for seen in proxy.seen) < 10_000


async def test_a_second_run_copies_nothing(place, through, proxy, bucket):
    boat, train = await made(place, BOAT, TRAIN)
    first = await publish(through, boat.key, train.key)
    proxy.seen.clear()
    second = await publish(through, boat.key, train.key)
    written = [seen.path.rpartition("/")[2] for seen in proxy.seen if seen.method == "PUT"]
    assert written == ["manifest.csv", "manifest.json", "index.html"]
    assert [video.is_new for video in first.videos + second.videos] == [True, True, False, False]
    assert content(bucket, "loova/_published/index.html").count(b"<video ") == 2


async def test_a_changed_target_is_refused_with_all_names_before_anything_is_copied(place, bucket):
    boat, train, take_2 = await made(place, BOAT, TRAIN, TAKE_2)
    to = "loova/_published/"
    bucket.client.put_object(Bucket=bucket, Key=f"{to}a-boat-at-sunset-16x9-0.mp4", Body=b"another video")
    bucket.client.put_object(Bucket=bucket, Key=f"{to}a-train-9x16-0.jpg", Body=b"another picture")
    bucket.client.put_object(Bucket=bucket, Key=f"{to}index.html", Body=b"a home page")
    keys, name = (boat.key, train.key, take_2.key), "{slug}-{ratio}-{take}.mp4"
    before = names(bucket, to)
    with pytest.raises(InvalidRequestError, match="nothing was copied") as refused:
        await publish(place, *keys, name=name)
    listed = str(refused.value).splitlines()[1:]
    assert [line.rpartition("/")[2] for line in listed] == [
        "a-boat-at-sunset-16x9-0.mp4",
        "a-train-9x16-0.jpg",
        "index.html",
    ]
    assert names(bucket, to) == before
    await publish(place, *keys, name=name, overwrite=True)
    assert content(bucket, f"{to}a-boat-at-sunset-16x9-0.mp4") == content(bucket, f"loova/{boat.key}/video.mp4")
    assert content(bucket, f"{to}a-train-9x16-0.jpg") == b"a picture"
    assert b"a home page" not in content(bucket, f"{to}index.html")


async def test_the_same_bytes_without_our_mark_count_as_other_content(place, bucket):
    (boat,) = await made(place, BOAT)
    to = "loova/_published/a-boat-at-sunset-16x9.mp4"
    bucket.client.put_object(Bucket=bucket, Key=to, Body=b"x" * boat.size_bytes)
    with pytest.raises(InvalidRequestError, match=r"a-boat-at-sunset-16x9\.mp4"):
        await publish(place, boat.key)


async def test_a_new_picture_of_a_video_replaces_the_old_one(place, bucket):
    (boat,) = await made(place, BOAT)
    await publish(place, boat.key)
    bucket.client.put_object(Bucket=bucket, Key=f"loova/{boat.key}/poster.jpg", Body=b"a better picture")
    published = await publish(place, boat.key)
    assert content(bucket, "loova/_published/a-boat-at-sunset-16x9.jpg") == b"a better picture"
    assert not published.videos[0].is_new


async def test_a_video_without_a_picture_is_published_without_one(place, bucket):
    (boat,) = await made(place, BOAT, poster=False)
    published = await publish(place, boat.key)
    assert published.videos[0].poster == ""
    assert b"poster=" not in content(bucket, "loova/_published/index.html")


async def test_two_takes_with_one_name_are_refused_before_anything_is_copied(place, bucket):
    boat, take_2 = await made(place, BOAT, TAKE_2)
    with pytest.raises(InvalidRequestError, match=r"would be 2 videos.*\(take 1\): add \{take\} or \{key\}"):
        await publish(place, boat.key, take_2.key)
    assert names(bucket, "loova/_published/") == set()
    published = await publish(place, boat.key, take_2.key, name="{slug}/take-{take}.mp4")
    assert [video.name for video in published.videos] == ["a-boat-at-sunset/take-0.mp4", "a-boat-at-sunset/take-1.mp4"]


@pytest.mark.parametrize("at", range(4))
async def test_a_killed_run_is_finished_by_the_next_one(place, through, proxy, bucket, at):
    """The page comes last, so a page never shows a video that is not there yet."""
    boat, train = await made(place, BOAT, TRAIN)
    order = ["a-boat-at-sunset-16x9.mp4", "a-train-9x16.mp4", "manifest.csv", "index.html"]
    proxy.inject(NetworkFault(what="answer", status=403, matching=f"^PUT .*{order[at]}"))
    with pytest.raises(StorageError):
        await publish(through, boat.key, train.key)
    there = names(bucket, "loova/_published/")
    assert [name in there for name in order] == [number < at for number in range(4)]
    published = await publish(through, boat.key, train.key)
    assert {*order} < names(bucket, "loova/_published/")
    assert [video.is_new for video in published.videos] == [at < 1, at < 2]


async def test_the_manifest_says_what_each_video_is_and_holds_no_secret_and_no_formula(place, bucket):
    signed = "https://media.example.com/cat.png?X-Amz-Signature=secret-signature&X-Amz-Credential=secret-key"
    request = VideoRequest(prompt='=HYPERLINK("http://x.example")', image_urls=[signed], duration=4)
    (saved,) = await made(place, request)
    record = content(bucket, f"loova/{saved.key}/record.json")
    stored = record.replace(b"https://media.example.com/cat.png", signed.encode())  # as if a record could have it
    assert stored != record
    bucket.client.put_object(Bucket=bucket, Key=f"loova/{saved.key}/record.json", Body=stored)
    await publish(place, saved.key, name="{key}.mp4")
    raw = content(bucket, "loova/_published/manifest.csv").decode()
    (row,) = csv.DictReader(io.StringIO(raw, newline=""))
    assert row["prompt"] == '\'=HYPERLINK("http://x.example")'
    text = content(bucket, "loova/_published/manifest.json").decode()
    (listed,) = json.loads(text)["videos"]
    assert listed == {
        "name": f"{saved.key[:8]}.mp4",
        "prompt": '=HYPERLINK("http://x.example")',
        "key": saved.key,
        "take": 0,
        "label": "",
        "model": "seedance_2_0",
        "ratio": "16:9",
        "duration": 4,
        "credits": 60,
        "sha256": saved.sha256,
        "size_bytes": saved.size_bytes,
        "media": ["https://media.example.com/cat.png"],
        "source": saved.video,
    }
    assert {name: str(value) for name, value in listed.items()} == row | {
        "prompt": listed["prompt"],
        "media": str(listed["media"]),
        "credits": "60.0",
    }
    page = content(bucket, "loova/_published/index.html").decode()
    assert "secret" not in raw + text + page


@pytest.mark.one_s3_server  # moto checks no presigned URLs
async def test_a_page_of_presigned_links_plays_the_videos_and_says_until_when(place, bucket):
    (boat,) = await made(place, BOAT)
    published = await publish(place, boat.key, link_seconds=3600)
    page = content(bucket, "loova/_published/index.html").decode()
    assert "The links expire on 20" in page
    link = page.partition(' src="')[2].partition('"')[0].replace("&amp;", "&")
    assert "X-Amz-Expires=3600" in link
    with build_opener(ProxyHandler({})).open(link, timeout=10) as reply:
        assert reply.read() == content(bucket, f"loova/{boat.key}/video.mp4")
        assert reply.headers["Content-Type"] == "video/mp4"
    others = "".join(content(bucket, f"loova/_published/manifest.{kind}").decode() for kind in ("csv", "json"))
    assert "Signature" not in others + published.model_dump_json()


async def test_another_bucket_takes_the_videos_of_one_who_may_write_there(place, bucket, elsewhere):
    (boat,) = await made(place, BOAT)
    with pytest.raises(StorageError, match="S3 denied access"):
        await publish(place, boat.key, to=f"s3://{elsewhere}/boats")
    policy = minimal_policy(bucket, "loova")
    rights = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    policy["Statement"].append({"Effect": "Allow", "Action": rights, "Resource": f"arn:aws:s3:::{elsewhere}/boats/*"})
    user = replace(place, bucket=block_of(bucket, *bucket.server.add_user(policy)))
    published = await publish(user, boat.key, to=f"s3://{elsewhere}/boats/")
    assert published.page == f"s3://{elsewhere}/boats/index.html"
    assert content(elsewhere, "boats/a-boat-at-sunset-16x9.mp4") == content(bucket, f"loova/{boat.key}/video.mp4")


async def test_the_upload_options_apply_to_the_copies(admin, bucket):
    (boat,) = await made(admin, BOAT)
    options = {"Tagging": "team=film", "CacheControl": "max-age=60", "ContentType": "text/plain"}
    await publish(admin, boat.key, upload_options=options)
    for name, kind in (("a-boat-at-sunset-16x9.mp4", "video/mp4"), ("a-boat-at-sunset-16x9.jpg", "image/jpeg")):
        place = {"Bucket": bucket, "Key": f"loova/_published/{name}"}
        head = bucket.client.head_object(**place)
        assert (head["CacheControl"], head["ContentType"]) == ("max-age=60", kind)
        assert bucket.client.get_object_tagging(**place)["TagSet"] == [{"Key": "team", "Value": "film"}]


async def test_who_may_not_write_or_read_is_told_which_right_is_missing(place, bucket, admin):
    (boat,) = await made(place, BOAT)
    reader = minimal_policy(bucket, "loova")
    reader["Statement"][0]["Action"] = ["s3:GetObject"]
    user = replace(place, bucket=block_of(bucket, *bucket.server.add_user(reader)))
    with pytest.raises(
        StorageError, match=r"_published/a-boat.*denied access.*s3:GetObject there and s3:PutObject here"
    ):
        await publish(user, boat.key)
    writer = minimal_policy(bucket, "loova")
    writer["Statement"][0]["Action"] = ["s3:PutObject"]
    user = replace(place, bucket=block_of(bucket, *bucket.server.add_user(writer)))
    with pytest.raises(InvalidRequestError, match=r"its record may not be read \(s3:GetObject\)"):
        await publish(user, boat.key)


async def test_without_the_right_to_list_nothing_is_replaced_unseen(place, bucket):
    """As on AWS, where a missing object is then forbidden."""
    (boat,) = await made(place, BOAT)
    async with publisher(place) as one:
        blind = BucketPrefix(bucket.client_as_on_aws, bucket, one.target.prefix)
        videos = await find_videos(one.jobs, [boat.key])
        with pytest.raises(StorageError, match=r"the object may exist; allow .* s3:ListBucket"):
            await replace(one, target=blind).plan(videos, NAME)
        (copy,) = await replace(one, target=blind, overwrite=True).plan(videos, NAME)
        assert not copy.is_there


async def test_keys_are_found_by_their_beginnings_and_all_problems_are_listed(place, bucket, admin, loova):
    boat, train = await made(place, BOAT, TRAIN)
    async with admin.open() as jobs:
        found = await find_videos(jobs, [train.key[:6], f" {boat.key.upper()} ", train.key])
        assert [video.key for video in found] == [train.key, boat.key]
        waiting = VideoRequest(prompt="not yet", duration=4)
        await submit_video(jobs, waiting)
        bucket.client.delete_object(Bucket=bucket, Key=f"loova/{boat.key}/video.mp4")
        with pytest.raises(InvalidRequestError) as refused:
            await find_videos(jobs, ["xyz", "f" * 63, "f" * 64, waiting.key, boat.key, train.key])
    problems = str(refused.value).splitlines()
    assert [problem.partition("was given: ")[2] for problem in problems] == [
        "no job begins so",
        "no job begins so",
        "no job has this key, or its record may not be read (s3:GetObject)",
        "the job is submitted, so it has no video in the bucket",
        "the video is missing from the bucket; make the same request again to save it",
    ]
    async with place.open() as jobs:
        with pytest.raises(StorageError, match="whole key works without it"):
            await find_videos(jobs, [train.key[:6]])


async def test_a_report_names_its_saved_videos(place, bucket):
    async with place.open() as jobs:
        outcome = VideoOutcome(key="a" * 64, name="a", rows=(1,), outcome="saved", credits_estimate=60)
        made_here = f"s3://{bucket}/loova/{'b' * 64}/video-attempt-2.mp4"
        made_elsewhere = made_here.replace("/loova/", "/other/")
        report = BatchReport(
            videos=(
                outcome.model_copy(update={"video": made_here}),
                outcome.model_copy(update={"outcome": "failed", "video": None}),
                outcome.model_copy(update={"outcome": "reused", "video": made_elsewhere}),
            )
        )
        content = report_as_csv(report)
        with pytest.raises(InvalidRequestError, match=r"line 4: .* is not below"):
            keys_of_report(content, "a.report.csv", jobs.records)
        content = content.replace(made_elsewhere.encode(), made_here.encode())
        for text in (content, content.replace(b",", b";"), b"\xef\xbb\xbf" + content):
            assert keys_of_report(text, "a.report.csv", jobs.records) == ["b" * 64] * 2
        with pytest.raises(InvalidRequestError, match="is no report of a batch"):
            keys_of_report(b"prompt,duration\na boat,4\n", "a.csv", jobs.records)


@pytest.mark.parametrize(
    ("to", "rule"),
    [
        ("published", "must be s3://BUCKET/PREFIX/"),
        ("https://example.com/x?token=secret", "must be s3://BUCKET/PREFIX/"),
        ("s3://bucket//x", "must not start with /"),
        ("s3://bucket/a/../b", "must not have empty, . or .. segments"),
        ("s3://bucket/a?b", "must be s3://BUCKET/PREFIX/"),
        ("s3://bucket/a\nb", "must not have control characters"),
    ],
)
async def test_a_place_to_publish_that_is_none_is_refused(place, to, rule):
    async with place.open() as jobs:
        with pytest.raises(InvalidRequestError, match=rf"^to: .* was given: {rule}") as refused:
            target_of(to, jobs.records)
    assert "secret" not in str(refused.value)


async def test_nothing_is_published_among_the_job_records(place, bucket):
    (boat,) = await made(place, BOAT)
    for to in (f"s3://{bucket}/loova/", f"s3://{bucket}/loova/{boat.key}"):
        with pytest.raises(InvalidRequestError, match="is among the job records: publish outside of"):
            await publish(place, boat.key, to=to, name="video.mp4", overwrite=True)
    assert names(bucket, f"loova/{boat.key}/") == {"record.json", "video.mp4", "poster.jpg"}


def test_the_summary_counts_the_copies():
    assert PublishedVideos(to="s3://b/", page="s3://b/index.html", videos=()).summary == (
        "0 videos, 0 copied by this run; s3://b/index.html"
    )
