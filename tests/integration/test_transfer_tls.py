"""Copies to an S3 server over TLS: the parts are sent while they arrive, and a video still arrives whole or not at all.

`tests/support/odd_s3.py` keeps what it gets in memory, so that a test sees every object and every unfinished upload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_loova.errors import IncompleteVideoError, StorageError
from prefect_loova.transfer.copy import CopyResult, Target, copy_video
from tests.support.odd_s3 import Odd, OddS3
from tests.support.video_host import Reply, VideoHost, long_video

MIB = 1024**2
KEY = "loova/some-key/video.mp4"
SIZE = 3 * MIB + 77
PACED = {"block": 64 * 1024, "pace": 0.02}  # 3 MB a second
ETAG = '"first"'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddS3]:
    with OddS3(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def s3(running: OddS3) -> OddS3:
    running.odd = Odd()
    running.objects.clear()
    running.uploads.clear()
    running.asked.clear()
    return running


async def quick(_: float) -> None:
    await asyncio.sleep(0)


async def copy(s3: OddS3, host: VideoHost, client: Any = None, **changes: Any) -> CopyResult:
    client = client or s3.client()
    changes = {"sleep": quick} | changes
    return await copy_video(host.url(), client, Target("bucket", KEY), allow_private=True, **changes)


def requests(s3: OddS3, operation: str) -> int:
    return sum(line.startswith(operation) for line in s3.asked)


def content(s3: OddS3) -> bytes:
    return s3.objects[KEY][0]


class Parts:
    """When a client began to send each part, in bytes that the host had sent by then."""

    def __init__(self, client: Any, host: VideoHost) -> None:
        self.began: list[int] = []
        self._sent = 0
        host.on_sent = self._note
        client.meta.events.register("before-send.s3.UploadPart", self._begin)

    def _note(self, total: int) -> None:
        self._sent = total

    def _begin(self, **_: Any) -> None:
        self.began.append(self._sent)


async def test_a_video_is_sent_while_it_arrives(s3: OddS3) -> None:
    client, video = s3.client(), long_video(SIZE)
    async with VideoHost(Reply(video, **PACED)) as host:
        parts = Parts(client, host)
        copied = await copy(s3, host, client)
    assert content(s3) == video and copied.size_bytes == SIZE and s3.uploads == {}
    assert len(parts.began) == 1 and parts.began[0] < SIZE / 4


async def test_a_video_of_several_parts_is_sent_part_by_part_while_it_arrives(s3: OddS3) -> None:
    client, video = s3.client(), long_video(26 * MIB)
    async with VideoHost(Reply(video, block=256 * 1024, pace=0.02)) as host:
        parts = Parts(client, host)
        await copy(s3, host, client)
    assert content(s3) == video and s3.uploads == {} and len(parts.began) == 4
    assert all(began <= (number + 0.5) * 8 * MIB for number, began in enumerate(sorted(parts.began)))


@pytest.mark.parametrize("broken", [long_video(SIZE)[:-1], long_video(SIZE) + b"no box"], ids=["cut", "more"])
async def test_what_fails_a_check_never_becomes_an_object_although_its_parts_were_sent(
    s3: OddS3, broken: bytes
) -> None:
    client = s3.client()
    async with VideoHost(Reply(broken, **PACED)) as host:
        parts = Parts(client, host)
        with pytest.raises(IncompleteVideoError):
            await copy(s3, host, client)
    assert len(parts.began) == 1 and s3.objects == {} and s3.uploads == {}


async def test_a_download_that_ends_for_good_leaves_nothing_while_its_part_is_being_sent(s3: OddS3) -> None:
    client, video = s3.client(), long_video(SIZE)
    async with VideoHost(Reply(video, etag=ETAG, cut=2 * MIB, **PACED), Reply(status=500)) as host:
        parts = Parts(client, host)
        with pytest.raises(IncompleteVideoError, match="stopped at byte"):
            await copy(s3, host, client, tries=3)
    assert len(parts.began) == 1 and s3.objects == {} and s3.uploads == {}
    assert requests(s3, "DELETE uploadId") == 1 and requests(s3, "POST uploadId") == 0


async def test_a_copy_that_is_cancelled_while_its_part_is_being_sent_leaves_nothing_and_no_thread_waits(
    s3: OddS3,
) -> None:
    client = s3.client()
    async with VideoHost(Reply(long_video(SIZE), stall=2 * MIB, **PACED)) as host:
        copying = asyncio.create_task(copy(s3, host, client))
        parts = Parts(client, host)
        while not parts.began:
            await asyncio.sleep(0.01)
        copying.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await copying
    assert time.monotonic() - began < 5 and s3.objects == {} and s3.uploads == {}


async def test_a_resumed_download_continues_in_the_part_that_is_being_sent(s3: OddS3) -> None:
    client, video = s3.client(), long_video(SIZE)
    async with VideoHost(Reply(video, etag=ETAG, cut=2 * MIB, **PACED), Reply(video, etag=ETAG, **PACED)) as host:
        parts = Parts(client, host)
        await copy(s3, host, client)
    assert content(s3) == video and len(parts.began) == 1 and host.asked[1].headers["range"] == f"bytes={2 * MIB}-"


async def test_a_part_that_does_not_fill_in_time_is_sent_again_when_it_is_full(s3: OddS3) -> None:
    client, video = s3.client(), long_video(SIZE)
    async with VideoHost(Reply(video, **PACED)) as host:
        parts = Parts(client, host)
        await copy(s3, host, client, fill_seconds=0.3)
    assert content(s3) == video and s3.uploads == {}
    assert len(parts.began) == 2 and parts.began[0] < SIZE / 4 and parts.began[1] == SIZE


async def test_a_part_that_s3_refuses_for_a_moment_is_sent_again_from_its_start(s3: OddS3) -> None:
    busy = [(503, "SlowDown", "Please reduce your request rate.")]
    s3.odd = Odd(refuses=lambda asked: busy.pop() if busy and asked["operation"] == "uploadId" else None)
    video = long_video(SIZE)
    async with VideoHost(Reply(video, **PACED)) as host:
        await copy(s3, host)
    assert content(s3) == video and busy == [] and requests(s3, "PUT uploadId") == 2


async def test_a_part_that_s3_refuses_ends_the_copy_and_leaves_nothing(s3: OddS3) -> None:
    denied = (403, "AccessDenied", "Access Denied")
    s3.odd = Odd(refuses=lambda asked: denied if (asked["method"], asked["operation"]) == ("PUT", "uploadId") else None)
    async with VideoHost(Reply(long_video(SIZE), **PACED)) as host:
        with pytest.raises(StorageError, match="Access Denied"):
            await copy(s3, host)
    assert s3.objects == {} and s3.uploads == {}


async def test_a_lost_lease_ends_the_copy_before_a_part_is_sent(s3: OddS3) -> None:
    async def lose_the_lease(_: str) -> None:
        raise KeyError("taken over")

    async with VideoHost(Reply(long_video(SIZE), **PACED)) as host:
        with pytest.raises(KeyError, match="taken over"):
            await copy(s3, host, on_upload=lose_the_lease)
    assert requests(s3, "PUT uploadId") == 0 and s3.objects == {} and s3.uploads == {}


async def test_a_lease_that_is_lost_before_the_parts_become_an_object_leaves_nothing(s3: OddS3) -> None:
    async def lose_the_lease() -> None:
        raise KeyError("taken over")

    async with VideoHost(Reply(long_video(SIZE), **PACED)) as host:
        with pytest.raises(KeyError, match="taken over"):
            await copy(s3, host, on_commit=lose_the_lease)
    assert s3.objects == {} and s3.uploads == {}


async def test_a_video_that_arrives_at_once_begins_no_upload(s3: OddS3) -> None:
    async with VideoHost(Reply(long_video(SIZE))) as host:
        await copy(s3, host, sleep=lambda _: asyncio.sleep(60))
    assert content(s3) == long_video(SIZE) and requests(s3, "POST") == 0 and requests(s3, "PUT loova/") == 1


async def test_a_video_that_is_there_before_s3_answers_goes_in_one_request(s3: OddS3) -> None:
    def answer_late(asked: Any) -> None:
        if asked["operation"] == "uploads":
            time.sleep(1)

    s3.odd = Odd(refuses=answer_late)
    video, uploads, commits = long_video(SIZE), list[str](), list[None]()

    async def on_upload(upload: str) -> None:
        uploads.append(upload)

    async def on_commit() -> None:
        commits.append(None)

    async with VideoHost(Reply(video, block=64 * 1024, pace=0.01)) as host:
        await copy(s3, host, on_upload=on_upload, on_commit=on_commit)
    assert requests(s3, "POST uploads") == requests(s3, "DELETE uploadId") == 1
    assert content(s3) == video and s3.uploads == {} and uploads == [] and commits == []
    assert requests(s3, "PUT uploadId") == 0 and requests(s3, "PUT loova/") == 1


@pytest.mark.parametrize("size", [MIB // 2, SIZE])
async def test_a_video_that_is_short_or_of_unknown_length_is_sent_when_it_is_complete(s3: OddS3, size: int) -> None:
    video = long_video(size)
    async with VideoHost(Reply(video, chunked=size == SIZE)) as host:
        await copy(s3, host)
    assert content(s3) == video and requests(s3, "POST") == 0


async def test_a_client_without_checksums_sends_full_parts(s3: OddS3) -> None:
    client, video = s3.client(request_checksum_calculation="when_required"), long_video(9 * MIB)
    async with VideoHost(Reply(video, block=MIB, pace=0.02)) as host:
        parts = Parts(client, host)
        await copy(s3, host, client)
    assert content(s3) == video and len(parts.began) == 2 and parts.began[0] >= 8 * MIB
