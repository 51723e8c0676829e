"""Copies from a misbehaving host to a real S3 server: a video arrives whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from prefect_loova.errors import IncompleteVideoError, StorageError, TransferError, VideoUrlRefusedError
from prefect_loova.transfer.copy import CopyResult, Target, copy_video
from prefect_loova.transfer.stale_uploads import abort_uploads
from tests.support.s3_servers import Bucket, S3Server
from tests.support.video_host import Reply, VideoHost, long_video, rendered

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024**2
PART = 5 * MIB
KEY = "loova/some-key/video.mp4"
LONG = 12 * MIB + 345
ETAG = '"first"'


class Store:
    """A bucket, and checks of its content."""

    def __init__(self, s3: S3Client, bucket: str) -> None:
        self.s3 = s3
        self.bucket = bucket
        self.waited: list[float] = []
        self.uploads: list[str] = []
        self.commits = 0

    def target(self, **options: Any) -> Target:
        return Target(self.bucket, KEY, {"task-id": "task_1"}, options)

    async def copy(self, url: str, **changes: Any) -> CopyResult:
        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)

        async def on_upload(upload_id: str) -> None:
            self.uploads.append(upload_id)

        async def on_commit() -> None:
            self.commits += 1

        defaults: dict[str, Any] = {
            "target": self.target(),
            "allow_private": True,
            "part_bytes": PART,
            "sleep": sleep,
            "on_upload": on_upload,
            "on_commit": on_commit,
            "read_timeout": 5.0,
            "tries": 4,
        }
        return await copy_video(url, self.s3, **(defaults | changes))

    def content(self) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=KEY)["Body"].read()

    def is_clean(self) -> bool:
        """Return whether the bucket has no object and no unfinished upload."""
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return not found and self.has_no_uploads()

    def has_no_uploads(self) -> bool:
        return not self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """One bucket for all tests here: creating boto3 clients takes longer than the tests."""
    made = s3_server.make_bucket()
    yield made
    made.remove()


@pytest.fixture
def store(bucket: Bucket) -> Iterator[Store]:
    store = Store(bucket.client, bucket)
    assert store.is_clean()
    yield store
    bucket.client.delete_object(Bucket=bucket, Key=KEY)
    for upload in bucket.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        bucket.client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def failing(real: Callable[..., Any], *, applied: bool, error: Exception, times: int = 1) -> Callable[..., Any]:
    """An S3 call that fails `times` times, before or after it was applied."""
    left = [error] * times

    def call(**arguments: Any) -> Any:
        if not left:
            return real(**arguments)
        if applied:
            real(**arguments)
        raise left.pop()

    return call


def server_error(operation: str, code: str = "InternalError", status: int = 500) -> ClientError:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


LOST = ConnectionClosedError(endpoint_url="http://s3/bucket/key?uploadId=c0ffee")


def is_copy_of(video: bytes, copied: CopyResult) -> bool:
    crc = base64.b64encode(zlib.crc32(video).to_bytes(4, "big")).decode()
    expected = (len(video), hashlib.sha256(video).hexdigest(), crc, 320, 180)
    return (copied.size_bytes, copied.sha256, copied.crc32, copied.width, copied.height) == expected


# ---- whole videos


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
async def test_a_short_video_is_copied_in_one_request(store: Store, movflags: str) -> None:
    video = rendered(movflags)
    async with VideoHost(Reply(video)) as host:
        copied = await store.copy(host.url())
    assert is_copy_of(video, copied) and copied.duration_seconds == pytest.approx(1, abs=0.1)
    assert store.content() == video and store.uploads == [] and store.has_no_uploads()


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART, 7 * PART + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_long_video_is_copied_in_parts(store: Store, size: int, chunked: bool) -> None:
    video = long_video(size)
    async with VideoHost(Reply(video, chunked=chunked)) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert store.content() == video and store.has_no_uploads()
    assert len(store.uploads) == (size > PART)
    assert store.commits == (size > PART)  # a single PutObject needs no renewal of the lease (docs/decisions/0028)


async def test_the_object_has_type_metadata_and_the_options_of_its_target(store: Store) -> None:
    for video in (rendered(), long_video(LONG)):
        async with VideoHost(Reply(video)) as host:
            options = {
                "Tagging": "team=video",
                "CacheControl": "max-age=60",
                "Metadata": {"more": "1"},
                "ChecksumAlgorithm": "SHA256",
            }
            await store.copy(host.url(), target=store.target(**options))
        head = store.s3.head_object(Bucket=store.bucket, Key=KEY)
        assert head["ContentType"] == "video/mp4" and head["CacheControl"] == "max-age=60"
        assert head["Metadata"]["task-id"] == "task_1" and head["Metadata"]["more"] == "1"
        tags = store.s3.get_object_tagging(Bucket=store.bucket, Key=KEY)["TagSet"]
        assert tags == [{"Key": "team", "Value": "video"}]


async def test_an_unknown_upload_option_is_named(store: Store) -> None:
    async with VideoHost(Reply(rendered())) as host:
        with pytest.raises(StorageError, match="Colour") as caught:
            await store.copy(host.url(), target=store.target(Colour="red"))
    assert not caught.value.transient and store.is_clean()


async def test_the_server_keeps_the_checksum_of_the_whole_object_if_it_can(store: Store, s3_server: S3Server) -> None:
    if s3_server.name == "moto":
        pytest.skip("moto computes no checksums")
    video = long_video(LONG)
    async with VideoHost(Reply(video)) as host:
        copied = await store.copy(host.url())
    head = store.s3.head_object(Bucket=store.bucket, Key=KEY, ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == copied.crc32 and head["ChecksumType"] == "FULL_OBJECT"


async def test_a_client_without_checksums_copies_too(store: Store, s3_server: S3Server) -> None:
    store.s3 = s3_server.client(Config(request_checksum_calculation="when_required"))
    sent: list[str] = []
    for operation in ("PutObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload"):
        store.s3.meta.events.register(
            f"before-send.s3.{operation}", lambda request, **_: sent.extend(name.lower() for name in request.headers)
        )
    for video in (rendered(), long_video(LONG)):
        async with VideoHost(Reply(video)) as host:
            assert is_copy_of(video, await store.copy(host.url()))
        assert store.content() == video
    assert "content-md5" in sent and not [name for name in sent if "checksum" in name]


@pytest.mark.parametrize("size", [None, LONG])
async def test_a_server_that_does_not_know_checksums_gets_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    video = long_video(size) if size else rendered()
    for method in ("put_object", "create_multipart_upload"):
        refusal = server_error(method, "NotImplemented", 501)
        monkeypatch.setattr(store.s3, method, failing(getattr(store.s3, method), applied=False, error=refusal))
    async with VideoHost(Reply(video)) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert store.content() == video and store.has_no_uploads()


@pytest.mark.parametrize("size", [None, LONG])
async def test_the_minimal_policy_is_enough(store: Store, bucket: Bucket, size: int | None) -> None:
    video, admin, store.s3 = long_video(size) if size else rendered(), store.s3, bucket.limited_client
    async with VideoHost(Reply(video), Reply(video[:-1])) as host:
        assert is_copy_of(video, await store.copy(host.url()))
        with pytest.raises(IncompleteVideoError):
            await store.copy(host.url())
        left = admin.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"]
        assert await abort_uploads(bucket.limited_client, bucket, KEY, left) == 1
    store.s3 = admin
    assert store.content() == video and store.has_no_uploads()


# ---- broken transfers


@pytest.mark.parametrize(
    "tags", [{"etag": ETAG}, {"last_modified": "Tue, 24 Nov 2026 09:00:00 GMT"}, {"etag": ETAG, "chunked": True}]
)
async def test_a_cut_transfer_resumes_where_it_stopped(store: Store, tags: dict[str, Any]) -> None:
    video = long_video(LONG)
    whole = Reply(video, **tags)
    cuts = [whole.but(cut=at) for at in (3_000_000, 1, 6_000_000)]
    async with VideoHost(*cuts, whole) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    ranges = [asked.headers.get("range") for asked in host.asked]
    assert ranges == [None, "bytes=3000000-", "bytes=3000001-", "bytes=9000001-"]
    assert all(asked.headers["if-range"] in tags.values() for asked in host.asked[1:])
    assert store.content() == video and len(store.uploads) == 1 and store.has_no_uploads()


async def test_a_stalled_transfer_resumes_over_a_new_connection(store: Store) -> None:
    video = long_video(LONG)
    async with VideoHost(Reply(video, etag=ETAG, stall=7_000_000), Reply(video, etag=ETAG)) as host:
        assert is_copy_of(video, await store.copy(host.url(), read_timeout=0.3))
    assert host.asked[1].headers["range"] == "bytes=7000000-"


@pytest.mark.parametrize(
    ("first", "second", "requests"),
    [
        ({"etag": '"other"'}, {"etag": ETAG}, 3),
        ({"etag": 'W/"weak"'}, {"etag": 'W/"weak"'}, 2),
        ({}, {}, 2),
        ({"last_modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, {"last_modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, 2),
        ({"etag": ETAG, "body": long_video(LONG - 1, seed=1)}, {"etag": ETAG}, 3),
    ],
    ids=["another ETag", "a weak ETag", "no validator", "a date of this very second", "the same ETag, another length"],
)
async def test_two_versions_are_never_mixed(
    store: Store, first: dict[str, Any], second: dict[str, Any], requests: int
) -> None:
    video = long_video(LONG)
    before = Reply(**({"body": long_video(LONG, seed=1), "cut": 11_000_000} | first))
    async with VideoHost(before, Reply(video, **second)) as host:
        copied = await store.copy(host.url())
    assert len(host.asked) == requests
    assert copied.sha256 == hashlib.sha256(video).hexdigest()
    assert store.content() == video and len(store.uploads) == 2 and store.has_no_uploads()


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": f"bytes 0-{LONG - 1}/{LONG}"},
        {"Content-Range": f"bytes 6000000-{LONG - 1}/{LONG + 1}"},
        {"Content-Range": "nonsense"},
        {"ETag": '"other"'},
    ],
)
async def test_a_range_other_than_the_requested_one_starts_the_copy_over(store: Store, lie: dict[str, str]) -> None:
    video = long_video(LONG)
    whole = Reply(video, etag=ETAG)
    async with VideoHost(whole.but(cut=6_000_000), whole.but(headers=lie), whole) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert store.content() == video and len(store.uploads) == 2 and "range" not in host.asked[2].headers


FIRST, SECOND = "Tue, 24 Nov 2026 09:00:00 GMT", "Tue, 24 Nov 2026 09:30:00 GMT"


@pytest.mark.parametrize(
    ("tags", "lie"),
    [
        ({"last_modified": FIRST}, {"Last-Modified": SECOND}),
        ({"last_modified": FIRST, "headers": {"ETag": 'W/"1"'}}, {"ETag": 'W/"2"'}),
        ({"last_modified": FIRST, "headers": {"ETag": 'W/"1"'}}, {"ETag": '"1"'}),
        ({"etag": ETAG}, {"ETag": 'W/"first"'}),
        ({"etag": ETAG, "last_modified": FIRST}, {"Last-Modified": SECOND}),
        ({"etag": ETAG, "last_modified": FIRST}, {"ETag": '"second"'}),
    ],
    ids=[
        "another date",
        "another weak ETag beside the same date",
        "a strong ETag instead of a weak one",
        "a weak ETag instead of the strong one",
        "another date beside the same ETag",
        "another ETag beside the same date",
    ],
)
async def test_a_part_that_bears_another_etag_or_date_is_never_spliced(
    store: Store, tags: dict[str, Any], lie: dict[str, str]
) -> None:
    """The two halves would pass as one video: both versions have the same length and the same index."""
    video, other = long_video(LONG), long_video(LONG, seed=1)
    whole = Reply(video, **tags)
    part = Reply(other, **(tags | {"headers": tags.get("headers", {}) | lie}))
    async with VideoHost(whole.but(cut=6_000_000), part, whole) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert len(host.asked) == 3 and "range" not in host.asked[2].headers


@pytest.mark.parametrize("tags", [{"etag": ETAG}, {"last_modified": FIRST}])
async def test_a_download_that_breaks_repeatedly_but_progresses_completes(store: Store, tags: dict[str, Any]) -> None:
    video = long_video(LONG)
    async with VideoHost(Reply(video, **tags, cut=LONG // 13)) as host:
        host.replies = [*host.replies * 13, Reply(video, **tags)]
        assert is_copy_of(video, await store.copy(host.url(), tries=3))
    assert len(host.asked) == 14 and len(store.uploads) == 1


@pytest.mark.parametrize(
    "slow",
    [
        Reply(long_video(LONG), etag=ETAG, block=1, pace=0.05),
        Reply(long_video(LONG), etag=ETAG, block=1, pace=0.05, chunked=True),
        Reply(long_video(LONG), etag=ETAG, block=2000, pace=0.1),
        Reply(long_video(LONG), etag=ETAG, head_pace=0.05),
    ],
    ids=["single bytes", "single bytes in chunks", "20,000 bytes a second", "a head that drips"],
)
async def test_a_host_that_is_too_slow_ends_the_copy_soon(store: Store, slow: Reply) -> None:
    began = time.monotonic()
    async with VideoHost(slow) as host:
        with pytest.raises(TransferError, match="too slow") as caught:
            await store.copy(host.url(), tries=100, read_timeout=0.5, least_rate=100_000, slow_seconds=0.5)
    assert time.monotonic() - began < 10 and len(host.asked) == 3 and type(caught.value) is TransferError
    assert caught.value.may_retry and store.is_clean()


async def test_another_connection_may_be_faster(store: Store) -> None:
    video = long_video(LONG)
    slow = Reply(video, etag=ETAG, block=10_000, pace=0.1)
    async with VideoHost(slow, Reply(video, etag=ETAG)) as host:
        copied = await store.copy(host.url(), least_rate=200_000, slow_seconds=0.5)
    assert is_copy_of(video, copied) and "range" in host.asked[1].headers


async def test_a_slow_s3_does_not_make_the_host_slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    video, real = long_video(4 * PART), store.s3.upload_part

    def slow(**arguments: Any) -> Any:
        time.sleep(1.0)
        return real(**arguments)

    monkeypatch.setattr(store.s3, "upload_part", slow)
    async with VideoHost(Reply(video, etag=ETAG)) as host:
        assert is_copy_of(video, await store.copy(host.url(), least_rate=MIB, slow_seconds=0.5))
    assert len(host.asked) == 1


async def test_a_host_without_ranges_is_read_from_the_start_again(store: Store) -> None:
    video = long_video(LONG)
    whole = Reply(video, etag=ETAG, ranges=False)
    async with VideoHost(whole.but(cut=6_000_000), whole) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert store.content() == video and store.has_no_uploads()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(long_video(LONG), etag=ETAG, cut=6_000_000),
        Reply(long_video(LONG), cut=6_000_000),
        Reply(long_video(LONG), etag=ETAG, cut=0),
        Reply(long_video(LONG), etag=ETAG, ranges=False, cut=6_000_000),
        Reply(long_video(LONG)[:9_000_000], etag=ETAG, announce=LONG),
        Reply(b"", status=503),
    ],
    ids=["resumable", "no validator", "no byte at all", "no ranges", "fewer bytes than announced", "always 503"],
)
async def test_a_transfer_that_breaks_repeatedly_ends_after_a_bounded_number_of_tries(
    store: Store, reply: Reply
) -> None:
    cutting = [reply.but(cut=1)] if reply.cut == 6_000_000 and reply.etag and reply.ranges else []
    async with VideoHost(reply, *cutting) as host:
        with pytest.raises(TransferError, match="too many requests failed in a row") as caught:
            await store.copy(host.url())
    assert caught.value.may_retry and caught.value.credits_spent == "yes" and "c0ffee" not in str(caught.value)
    assert 4 <= len(host.asked) <= 8 and len(store.waited) >= 2
    assert store.is_clean()


async def test_a_url_that_expires_during_the_transfer_is_refused(store: Store) -> None:
    async with VideoHost(Reply(long_video(LONG), etag=ETAG, cut=6_000_000), Reply(status=403)) as host:
        with pytest.raises(VideoUrlRefusedError, match="403"):
            await store.copy(host.url())
    assert len(store.uploads) == 1 and store.is_clean()


# ---- content that is not a video


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(status=401), VideoUrlRefusedError, "HTTP 401"),
        (Reply(status=403), VideoUrlRefusedError, "HTTP 403: it has expired"),
        (Reply(status=404), VideoUrlRefusedError, "HTTP 404"),
        (Reply(status=410), VideoUrlRefusedError, "HTTP 410"),
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), IncompleteVideoError, "text/html, not a video"),
        (Reply(b"<!doctype html><p>no"), IncompleteVideoError, "does not start like an mp4"),
        (Reply(b""), IncompleteVideoError, "the file is empty"),
        (Reply(b"", chunked=True), IncompleteVideoError, "the file is empty"),
        (Reply(rendered().replace(b"moov", b"free")), IncompleteVideoError, "no moov box"),
        (Reply(long_video(LONG).replace(b"moov", b"free", 1)), IncompleteVideoError, "no moov box"),
        (Reply(rendered()[:-10]), IncompleteVideoError, "should end at byte"),
        (Reply(rendered()[:-10], chunked=True), IncompleteVideoError, "should end at byte"),
        (Reply(long_video(LONG)[:-10]), IncompleteVideoError, "should end at byte"),
        (Reply(long_video(LONG)[:-10], chunked=True), IncompleteVideoError, "should end at byte"),
        (Reply(long_video(LONG) + b"more", chunked=True), IncompleteVideoError, "cut short"),
        (
            Reply(rendered("frag_keyframe+empty_moov")[:-110], chunked=True),
            IncompleteVideoError,
            "should end|nothing shows",
        ),
        (Reply(rendered(), headers={"Content-Encoding": "gzip"}), VideoUrlRefusedError, "Content-Encoding"),
    ],
)
async def test_an_incomplete_video_never_becomes_or_replaces_an_object(
    store: Store, reply: Reply, error: type[TransferError], message: str
) -> None:
    store.s3.put_object(Bucket=store.bucket, Key=KEY, Body=b"what was there before")
    async with VideoHost(reply) as host:
        with pytest.raises(error, match=message) as caught:
            await store.copy(host.url())
    assert caught.value.credits_spent == "yes" and "c0ffee" not in str(caught.value)
    assert len(host.asked) == 1 and store.has_no_uploads()
    assert store.content() == b"what was there before"


async def test_a_video_of_unknown_length_that_may_be_cut_between_two_fragments_is_not_saved(store: Store) -> None:
    """The part is a whole mp4 by its structure. Only its length, or its last box, shows that something is missing."""
    video = rendered("frag_keyframe+empty_moov")
    cut = video[: video.rindex(b"mfra") - 4]
    async with VideoHost(Reply(cut, chunked=True)) as host:
        with pytest.raises(IncompleteVideoError, match="nothing shows that byte"):
            await store.copy(host.url())
    assert store.is_clean()
    async with VideoHost(Reply(cut)) as host:
        assert (await store.copy(host.url())).size_bytes == len(cut)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_video_over_the_bound_is_refused_early(store: Store, chunked: bool) -> None:
    async with VideoHost(Reply(long_video(4 * LONG), chunked=chunked)) as host:
        with pytest.raises(IncompleteVideoError, match=f"larger than the bound of {LONG - 1} bytes"):
            await store.copy(host.url(), max_bytes=LONG - 1)
    assert host.sent < 3 * LONG and len(store.uploads) == chunked
    assert store.is_clean()


async def test_a_video_of_exactly_the_bound_is_accepted(store: Store) -> None:
    async with VideoHost(Reply(long_video(LONG), chunked=True)) as host:
        assert (await store.copy(host.url(), max_bytes=LONG)).size_bytes == LONG


@pytest.mark.parametrize("count", [1, 2, 3, 4])
async def test_redirects_over_the_wire(store: Store, count: int) -> None:
    video = rendered()
    async with VideoHost(
        *[Reply(status=307, headers={"Location": f"/{n}?s=c0ffee"}) for n in range(count)], Reply(video)
    ) as host:
        if count <= 3:
            assert is_copy_of(video, await store.copy(host.url()))
        else:
            with pytest.raises(VideoUrlRefusedError, match="more than 3 times"):
                await store.copy(host.url())
            assert store.is_clean()
    for asked in host.asked:
        assert set(asked.headers) == {"host", "accept", "accept-encoding", "user-agent"}


async def test_loopback_is_refused_if_the_api_is_public(store: Store) -> None:
    async with VideoHost(Reply(rendered())) as host:
        for url in (host.url(), host.url().replace("http:", "https:")):
            with pytest.raises(VideoUrlRefusedError):
                await store.copy(url, allow_private=False)
    assert host.asked == [] and store.is_clean()


async def test_a_copy_that_takes_too_long_ends_and_leaves_nothing(store: Store) -> None:
    async with VideoHost(Reply(long_video(LONG), pace=0.01)) as host:
        with pytest.raises(TransferError, match="longer than 1 s"):
            await store.copy(host.url(), total_timeout=1.0)
    assert store.is_clean()


# ---- failures of S3, cancellation


@pytest.mark.parametrize("size", [None, LONG])
@pytest.mark.parametrize(
    "error", [LOST, server_error("any"), server_error("any", "NoSuchUpload", 404)], ids=["lost", "500", "404"]
)
async def test_a_lost_response_to_the_last_request_is_resolved_by_a_head_request(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int | None, error: Exception
) -> None:
    video = long_video(size) if size else rendered()
    method = "complete_multipart_upload" if size else "put_object"
    monkeypatch.setattr(store.s3, method, failing(getattr(store.s3, method), applied=True, error=error))
    async with VideoHost(Reply(video)) as host:
        assert is_copy_of(video, await store.copy(host.url()))
    assert store.content() == video and store.has_no_uploads()


@pytest.mark.parametrize("applied", [True, False])
async def test_a_response_without_confirmation_is_not_accepted(
    store: Store, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    real = store.s3.put_object

    def put_object(**arguments: Any) -> dict[str, Any]:
        if applied:
            real(**arguments)
        return {"ResponseMetadata": {"HTTPStatusCode": 200}}

    monkeypatch.setattr(store.s3, "put_object", put_object)
    async with VideoHost(Reply(rendered())) as host:
        if applied:
            assert is_copy_of(rendered(), await store.copy(host.url()))
        else:
            with pytest.raises(StorageError, match="did not confirm"):
                await store.copy(host.url())
    assert store.is_clean() != applied and store.has_no_uploads()


@pytest.mark.parametrize("size", [None, LONG])
async def test_another_object_of_the_same_size_does_not_count_as_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    video = long_video(size) if size else rendered()
    store.s3.put_object(Bucket=store.bucket, Key=KEY, Body=bytes(len(video)), Metadata={"copy-id": "another"})
    method = "complete_multipart_upload" if size else "put_object"
    monkeypatch.setattr(store.s3, method, failing(getattr(store.s3, method), applied=False, error=LOST))
    async with VideoHost(Reply(video)) as host:
        with pytest.raises(StorageError, match="no response from S3") as caught:
            await store.copy(host.url())
    assert caught.value.transient and caught.value.credits_spent == "yes"
    assert store.content() == bytes(len(video)) and store.has_no_uploads()


@pytest.mark.parametrize("method", ["create_multipart_upload", "upload_part", "complete_multipart_upload"])
@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (LOST, True),
        (server_error("any"), True),
        (server_error("any", "SlowDown", 503), True),
        (server_error("any", "AccessDenied", 403), False),
    ],
    ids=["lost", "500", "503", "403"],
)
async def test_a_failing_request_to_s3_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, transient: bool
) -> None:
    monkeypatch.setattr(store.s3, method, failing(getattr(store.s3, method), applied=False, error=error))
    async with VideoHost(Reply(long_video(LONG))) as host:
        with pytest.raises(StorageError) as caught:
            await store.copy(host.url())
    assert caught.value.transient == transient and "c0ffee" not in str(caught.value)
    assert store.is_clean()


async def test_a_missing_bucket_is_named(store: Store) -> None:
    for video in (rendered(), long_video(LONG)):
        async with VideoHost(Reply(video)) as host:
            with pytest.raises(StorageError, match="the bucket does not exist"):
                await store.copy(host.url(), target=Target("no-such-bucket", KEY))


async def test_a_failing_abort_does_not_hide_the_first_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store.s3, "abort_multipart_upload", failing(lambda: None, applied=False, error=LOST))
    async with VideoHost(Reply(long_video(LONG)[:-1])) as host:
        with pytest.raises(IncompleteVideoError):
            await store.copy(host.url())
    assert "an unfinished upload was left behind" in caplog.text and "c0ffee" not in caplog.text


@pytest.mark.parametrize("size", [None, LONG])
async def test_a_corrupted_body_is_refused_by_the_server(store: Store, s3_server: S3Server, size: int | None) -> None:
    if s3_server.name == "moto":
        pytest.skip("moto checks no checksums")

    def corrupt(params: dict[str, Any], **_: Any) -> None:
        params["body"] = bytes([params["body"][0] ^ 1]) + bytes(params["body"][1:])

    store.s3 = s3_server.client(Config(retries={"max_attempts": 0}))
    for operation in ("PutObject", "UploadPart"):
        store.s3.meta.events.register(f"before-call.s3.{operation}", corrupt)
    async with VideoHost(Reply(long_video(size) if size else rendered())) as host:
        with pytest.raises(StorageError, match="BadDigest") as caught:
            await store.copy(host.url())
    assert caught.value.transient and store.is_clean()


async def test_wrongly_combined_parts_are_refused_by_the_checksum_of_the_whole_object(
    store: Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if s3_server.name == "moto":
        pytest.skip("moto checks no checksums")
    store.s3 = s3_server.client(Config(retries={"max_attempts": 0}))
    real = store.s3.complete_multipart_upload

    def without_a_part(**arguments: Any) -> Any:
        arguments["MultipartUpload"]["Parts"].pop(1)
        return real(**arguments)

    monkeypatch.setattr(store.s3, "complete_multipart_upload", without_a_part)
    async with VideoHost(Reply(long_video(LONG))) as host:
        with pytest.raises(StorageError):
            await store.copy(host.url())
    assert store.is_clean()


@pytest.mark.parametrize("callback", ["on_upload", "on_commit"])
async def test_an_exception_of_a_callback_ends_the_copy(store: Store, callback: str) -> None:
    async def lose_the_lease(*_: object) -> None:
        raise KeyError("taken over")

    async with VideoHost(Reply(long_video(LONG))) as host:
        with pytest.raises(KeyError, match="taken over"):
            await store.copy(host.url(), **{callback: lose_the_lease})
    assert store.is_clean()


async def test_the_upload_id_is_passed_on_before_any_part_is_sent(store: Store) -> None:
    parts: list[int] = []

    async def on_upload(upload_id: str) -> None:
        found = store.s3.list_parts(Bucket=store.bucket, Key=KEY, UploadId=upload_id).get("Parts", [])
        await asyncio.sleep(0.1)
        parts.append(len(found))

    async with VideoHost(Reply(long_video(LONG))) as host:
        await store.copy(host.url(), on_upload=on_upload)
    assert parts == [0]


@pytest.mark.parametrize("sent", [1, 6_000_000, 11_000_000, LONG])
async def test_a_cancelled_copy_leaves_nothing(store: Store, sent: int) -> None:
    async with VideoHost(Reply(long_video(LONG), stall=LONG if sent == LONG else None, chunked=sent == LONG)) as host:
        copy = asyncio.create_task(store.copy(host.url(), read_timeout=60.0))
        host.on_sent = lambda total: copy.cancel() if total >= sent else None
        with pytest.raises(asyncio.CancelledError):
            await copy
    assert store.is_clean()


async def test_a_second_cancellation_does_not_skip_the_abort(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sending = store.s3.upload_part, threading.Event()

    def slow(**arguments: Any) -> Any:
        sending.set()
        time.sleep(0.3)
        return real(**arguments)

    monkeypatch.setattr(store.s3, "upload_part", slow)
    async with VideoHost(Reply(long_video(LONG))) as host:
        copy = asyncio.create_task(store.copy(host.url()))
        await asyncio.to_thread(sending.wait, 10)
        for _ in range(3):
            copy.cancel()
            await asyncio.sleep(0.03)
        with pytest.raises(asyncio.CancelledError):
            await copy
    assert store.is_clean()


async def test_an_upload_created_during_a_cancellation_is_aborted_without_a_list(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, store.s3 = store.s3, bucket.limited_client
    real, beginning = store.s3.create_multipart_upload, threading.Event()

    def slow(**arguments: Any) -> Any:
        beginning.set()
        time.sleep(0.3)
        return real(**arguments)

    monkeypatch.setattr(store.s3, "create_multipart_upload", slow)
    async with VideoHost(Reply(long_video(LONG))) as host:
        copy = asyncio.create_task(store.copy(host.url()))
        await asyncio.to_thread(beginning.wait, 10)
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy
    store.s3 = admin
    assert store.uploads == [] and store.is_clean()


async def test_a_copy_cancelled_at_any_moment_is_whole_or_leaves_nothing(store: Store) -> None:
    video, seeded = long_video(LONG), random.Random(7)
    async with VideoHost(Reply(video)) as host:
        for _ in range(15):
            copy = asyncio.create_task(store.copy(host.url()))
            await asyncio.sleep(seeded.uniform(0, 0.35))
            copy.cancel()
            await asyncio.sleep(0)
            copy.cancel()
            ended = (await asyncio.gather(copy, return_exceptions=True))[0]
            assert isinstance(ended, asyncio.CancelledError | CopyResult)
            assert store.has_no_uploads()
            found = store.s3.list_objects_v2(Bucket=store.bucket).get("Contents", [])
            if found:
                assert store.content() == video
                store.s3.delete_object(Bucket=store.bucket, Key=KEY)


async def test_a_duplicate_upload_created_by_a_retry_of_boto3_is_aborted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.s3.create_multipart_upload

    def twice(**arguments: Any) -> Any:
        real(**arguments)
        answer = real(**arguments)
        answer["ResponseMetadata"]["RetryAttempts"] = 1
        return answer

    monkeypatch.setattr(store.s3, "create_multipart_upload", twice)
    async with VideoHost(Reply(long_video(LONG))) as host:
        await store.copy(host.url())
    assert len(store.content()) == LONG and store.has_no_uploads()


# ---- leftovers


async def test_leftovers_of_exactly_this_key_are_aborted(store: Store) -> None:
    keys = [KEY, KEY, KEY + ".other", "loova/else"]
    ids = [store.s3.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"] for key in keys]
    assert await abort_uploads(store.s3, store.bucket, KEY, ids[0], keep=ids[1]) == 1
    assert await abort_uploads(store.s3, store.bucket, KEY) == 1
    assert await abort_uploads(store.s3, store.bucket, KEY) == 0
    left = store.s3.list_multipart_uploads(Bucket=store.bucket)["Uploads"]
    assert sorted(upload["Key"] for upload in left) == sorted(keys[2:])


async def test_a_known_leftover_is_aborted_without_permission_to_list(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = store.s3.create_multipart_upload(Bucket=store.bucket, Key=KEY)["UploadId"]

    class Denied:
        def paginate(self, **_: Any) -> Iterator[Any]:
            raise server_error("ListMultipartUploads", "AccessDenied", 403)

    with monkeypatch.context() as patched:
        patched.setattr(store.s3, "get_paginator", lambda _: Denied())
        assert await abort_uploads(store.s3, store.bucket, KEY, known) == 1
    assert store.has_no_uploads()


async def test_an_upload_that_is_already_gone_is_not_an_error(store: Store) -> None:
    known = store.s3.create_multipart_upload(Bucket=store.bucket, Key=KEY)["UploadId"]
    store.s3.abort_multipart_upload(Bucket=store.bucket, Key=KEY, UploadId=known)
    await abort_uploads(store.s3, store.bucket, KEY, known)


async def test_an_unreachable_s3_server_is_named(s3_server: S3Server) -> None:
    away: Any = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:9",
        aws_access_key_id="k",
        aws_secret_access_key="s",
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}),
    )
    with pytest.raises(StorageError) as caught:
        await abort_uploads(away, "bucket", KEY)
    assert caught.value.transient
