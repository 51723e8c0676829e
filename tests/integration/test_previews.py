"""Previews of a video in a real S3 server: read in blocks, stored beside it, and read again, under the least policy."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from prefect_loova.errors import StorageError
from prefect_loova.simulator.render import render
from prefect_loova.simulator.s3 import s3_client
from prefect_loova.store.prefix import BucketPrefix
from prefect_loova.store.previews import load_moving, load_thumbnail, save_previews
from prefect_loova.store.reader import S3File
from prefect_loova.video.thumbnails import Previews, make_previews
from tests.support.films import film, noise
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "loova/some-key/video.mp4"
BYTES = random.Random(0).randbytes(1000)


@pytest.fixture(scope="module")
def video() -> bytes:
    return film(24, (96, 64), paint=noise)


@pytest.fixture(scope="module")
def made(video: bytes) -> Previews:
    return make_previews(io.BytesIO(video))


@pytest.fixture
def place(bucket: Bucket) -> BucketPrefix:
    return BucketPrefix(bucket.limited_client, bucket, "loova")


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    with Proxy(int(bucket.endpoint_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def through(proxy: Proxy, bucket: Bucket) -> S3Client:
    """A client that asks once, by way of the proxy."""
    server = replace(bucket.server, endpoint_url=proxy.url)
    return server.client_of(*bucket.limited_keys, retries={"total_max_attempts": 1}, read_timeout=5)


def store(bucket: Bucket, content: bytes, key: str = KEY) -> None:
    bucket.client.put_object(Bucket=bucket, Key=key, Body=content)


def opened(bucket: Bucket, **options: int) -> S3File:
    return S3File(bucket.limited_client, bucket, KEY, **options)


def test_a_file_in_s3_reads_and_seeks_as_one_on_disk_does(bucket: Bucket) -> None:
    store(bucket, BYTES)
    ours, disk = opened(bucket, block_bytes=64, blocks=3), io.BytesIO(BYTES)
    draw = random.Random(1)
    for _ in range(60):
        offset, whence, count = draw.choice(
            [
                (draw.randrange(1200), io.SEEK_SET, draw.randrange(300)),
                (-draw.randrange(1000), io.SEEK_END, draw.randrange(300)),
                (draw.randrange(50), io.SEEK_CUR, draw.choice([-1, 0, 1, 64])),
            ]
        )
        assert ours.seek(offset, whence) == disk.seek(offset, whence)
        assert ours.read(count) == disk.read(count)
        assert ours.tell() == disk.tell()
    assert ours.size == 1000


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 128])
def test_a_file_in_s3_may_end_anywhere_in_a_block(bucket: Bucket, length: int) -> None:
    store(bucket, BYTES[:length])
    ours = opened(bucket, block_bytes=64)
    assert (ours.size, ours.read(), ours.read(1)) == (length, BYTES[:length], b"")


def test_few_blocks_are_kept_and_none_is_asked_for_twice_while_it_is_kept(
    bucket: Bucket, proxy: Proxy, through: S3Client
) -> None:
    store(bucket, BYTES)
    ours = S3File(through, bucket, KEY, block_bytes=100, blocks=3)
    ours.read(250)
    for place in (210, 110, 10, 299):
        ours.seek(place)
        ours.read(1)
    assert len(proxy.seen) == 3
    ours.seek(300)
    ours.read(1)  # now the block that was used longest ago is gone: the second
    ours.seek(20)
    ours.read(1)
    assert len(proxy.seen) == 4
    ours.seek(110)
    ours.read(1)
    assert len(proxy.seen) == 5
    assert {seen.method for seen in proxy.seen} == {"GET"}


def test_a_file_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(bucket: Bucket) -> None:
    store(bucket, BYTES)
    ours = opened(bucket, block_bytes=64)
    ours.read(64)
    store(bucket, bytes(reversed(BYTES)))
    with pytest.raises(StorageError, match="was replaced while it was read") as caught:
        ours.read(1)
    assert caught.value.transient


def test_what_is_not_there_or_not_allowed_is_a_storage_error(bucket: Bucket) -> None:
    with pytest.raises(StorageError) as missing:
        opened(bucket)
    assert missing.value.http_status in (403, 404)
    with pytest.raises(StorageError) as hidden:
        S3File(bucket.client_as_on_aws, bucket, KEY)
    assert hidden.value.http_status == 403
    store(bucket, BYTES, "elsewhere/video.mp4")
    with pytest.raises(StorageError, match="S3 denied access"):
        S3File(bucket.limited_client, bucket, "elsewhere/video.mp4")


@pytest.mark.one_s3_server
def test_a_block_that_breaks_off_is_asked_for_again_and_not_for_ever(
    bucket: Bucket, proxy: Proxy, through: S3Client
) -> None:
    store(bucket, BYTES)
    ours = S3File(through, bucket, KEY, block_bytes=500)
    proxy.inject(NetworkFault(what="drop", when="mid_reply"))
    assert ours.read() == BYTES
    ours = S3File(through, bucket, KEY, block_bytes=500)
    proxy.inject(NetworkFault(what="drop", when="mid_reply", times=10))
    with pytest.raises(StorageError, match="no response from S3") as caught:
        ours.read()
    assert caught.value.transient


def test_a_video_in_the_bucket_gives_the_same_previews_as_one_in_memory(
    bucket: Bucket, video: bytes, made: Previews
) -> None:
    store(bucket, video)
    assert make_previews(opened(bucket, block_bytes=4096, blocks=2)) == made


@pytest.mark.one_s3_server
def test_an_s3_that_goes_away_while_a_video_is_decoded_is_a_storage_error(
    bucket: Bucket, video: bytes, proxy: Proxy, through: S3Client
) -> None:
    store(bucket, video)
    ours = S3File(through, bucket, KEY, block_bytes=len(video) // 8, blocks=2)
    proxy.inject(NetworkFault(at=4, what="reset", times=100))
    with pytest.raises(StorageError, match="no response from S3"):
        make_previews(ours)


@pytest.mark.one_s3_server
def test_a_video_is_read_about_once(bucket: Bucket, proxy: Proxy, through: S3Client) -> None:
    content = render("previews", "16:9", 15, 360)
    store(bucket, content)
    block = len(content) // 20
    made = make_previews(S3File(through, bucket, KEY, block_bytes=block))
    assert (made.width, made.height, made.duration_seconds) == (640, 360, 15.0)
    assert len(proxy.seen) <= 21 + 2


async def test_previews_stand_beside_their_video_and_are_read_again(
    bucket: Bucket, place: BucketPrefix, made: Previews
) -> None:
    keys = await save_previews(place, KEY, made, upload_options={"ContentType": "video/mp4", "Metadata": {"team": "a"}})
    beside = {
        "loova/some-key/poster.jpg": ("image/jpeg", made.poster),
        "loova/some-key/contact-sheet.jpg": ("image/jpeg", made.contact_sheet),
        "loova/some-key/thumbnail.jpg": ("image/jpeg", made.thumbnail),
        "loova/some-key/preview.webp": ("image/webp", made.moving),
    }
    assert list(vars(keys).values()) == list(beside)
    for key, (content_type, content) in beside.items():
        answer = bucket.client.get_object(Bucket=bucket, Key=key)
        assert (answer["ContentType"], answer["Body"].read()) == (content_type, content)
        assert answer["Metadata"] == {"team": "a"}
    assert await load_moving(place, KEY) == (made.moving, "image/webp")
    assert await load_thumbnail(place, KEY) == made.thumbnail


async def test_each_purchase_of_a_request_has_previews_of_its_own(place: BucketPrefix, made: Previews) -> None:
    second = replace(made, moving=b"GIF89a", moving_type="image/gif", thumbnail=b"another")
    keys = await save_previews(place, "loova/some-key/video-attempt-2.mp4", second)
    assert keys.poster == "loova/some-key/poster-attempt-2.jpg"
    assert keys.moving == "loova/some-key/preview-attempt-2.gif"
    assert await load_moving(place, KEY) is None
    await save_previews(place, KEY, made)
    assert await load_moving(place, "loova/some-key/video-attempt-2.mp4") == (b"GIF89a", "image/gif")
    assert await load_thumbnail(place, "loova/some-key/video-attempt-2.mp4") == b"another"
    assert await load_moving(place, KEY) == (made.moving, "image/webp")


async def test_previews_that_are_not_there_are_none(bucket: Bucket) -> None:
    for client in (bucket.limited_client, bucket.client_as_on_aws):
        place = BucketPrefix(client, bucket, "loova")
        assert await load_moving(place, KEY) is None
        assert await load_thumbnail(place, KEY) is None


async def test_a_picture_that_is_far_too_large_is_none(bucket: Bucket, place: BucketPrefix) -> None:
    store(bucket, bytes(16 * 1024**2 + 1), "loova/some-key/thumbnail.jpg")
    assert await load_thumbnail(place, KEY) is None


async def test_a_bucket_that_may_not_be_written_is_a_storage_error(bucket: Bucket, made: Previews) -> None:
    with pytest.raises(StorageError, match="S3 denied access"):
        await save_previews(
            BucketPrefix(bucket.limited_client, bucket, "elsewhere"), "elsewhere/some-key/video.mp4", made
        )


async def test_the_moving_preview_is_written_last(
    bucket: Bucket, made: Previews, proxy: Proxy, through: S3Client
) -> None:
    place = BucketPrefix(through, bucket, "loova")
    proxy.inject(NetworkFault(what="answer", status=503, matching="PUT .*thumbnail"))
    with pytest.raises(StorageError):
        await save_previews(place, KEY, made)
    assert await load_moving(place, KEY) is None


@contextmanager
def answering(status: int, content_range: str | None, content: bytes) -> Iterator[S3Client]:
    """A client of a server that answers every GET so, whatever range is asked for."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(content)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield s3_client(f"http://127.0.0.1:{server.server_port}", "key", "secret")
        server.shutdown()


@pytest.mark.one_s3_server
@pytest.mark.parametrize(
    ("status", "content_range", "content", "says"),
    [
        (206, "bytes 0-99/1000", BYTES[:100], "S3 sent more or fewer bytes than requested"),
        (206, "bytes 500-899/1000", BYTES[500:900], "the S3 server sent another range than requested"),
        (200, None, BYTES, "the S3 server ignores Range"),
    ],
    ids=["fewer", "elsewhere", "all"],
)
def test_an_s3_server_that_answers_other_bytes_is_an_error(
    status: int, content_range: str | None, content: bytes, says: str
) -> None:
    with answering(status, content_range, content) as s3, pytest.raises(StorageError, match=says):
        S3File(s3, "my-videos", KEY, block_bytes=400)
