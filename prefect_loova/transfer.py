"""A finished video, from its URL into the bucket: streamed, checked on the way, and there whole or not at all.

No file on disk, and a few buffers in memory however large the video is: while one part of it arrives, the ones before
are uploaded. The upload is completed only when length, structure and checksum agree, and aborted in every other case.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from prefect_loova.cancelling import to_its_end
from prefect_loova.download import Download, StartOverError
from prefect_loova.errors import TransferError
from prefect_loova.mp4 import Mp4Check
from prefect_loova.tls import tls_context
from prefect_loova.upload import MAX_PARTS, PROGRESS_SECONDS, Progress, Target, Upload, abort_uploads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["PROGRESS_SECONDS", "Copied", "Target", "abort_uploads", "copy_video"]


async def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True)
class Copied:
    """What stands in the bucket now.

    Attributes:
        size_bytes: The video's size.
        sha256: Of the whole video, in hex.
        crc32: Of the whole video, in base64, as S3 shows it.
        duration_seconds: The length of the video.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        is_turned: Whether a player turns the picture by a quarter.
    """

    size_bytes: int
    sha256: str
    crc32: str
    duration_seconds: float
    width: int
    height: int
    is_turned: bool = False


async def copy_video(
    url: str,
    s3: S3Client,
    target: Target,
    *,
    allow_private: bool,
    max_bytes: int = 8 * 1024**3,
    part_bytes: int = 8 * 1024**2,
    http: httpx.AsyncClient | None = None,
    on_upload: Callable[[str], Awaitable[None]] = _nothing,
    on_progress: Callable[[int], Awaitable[None]] = _nothing,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    tries: int = 10,
    read_timeout: float = 30.0,
    total_timeout: float = 4 * 3600.0,
) -> Copied:
    """Copy the video behind a URL into the bucket, or leave the bucket as it was.

    Args:
        url: The video's URL; a signed one is fine, its query reaches no error and no log.
        s3: A boto3 S3 client.
        target: Where it goes. An object that is there is replaced when the new one is whole, not before.
        allow_private: Whether `http` and addresses off the public internet are allowed: where the API itself is there.
        max_bytes: The largest video to accept.
        part_bytes: The size of a part of the upload; four of them are in memory at most. S3 wants at least 5 MiB.
        http: Sends the requests, for tests and to share connections; its headers, cookies and auth are not used.
        on_upload: Called with the upload id before any part is sent, again if the copy starts over. What it raises
            ends the copy.
        on_progress: Called with the bytes stored so far: after each part, before each new try and at least every
            `PROGRESS_SECONDS` while bytes arrive; never twice at a time. What it raises ends the copy.
        sleep: How to wait before another try, in seconds.
        tries: How many requests to the video's host may fail.
        read_timeout: Seconds without a byte after which the host's connection counts as broken.
        total_timeout: Seconds for all of it.

    Raises:
        VideoUrlRefusedError: The URL has expired, or leads where this package does not go.
        NotWholeVideoError: What came is not a whole mp4, or larger than `max_bytes`.
        TransferError: The video's host cannot be reached, or the time is up.
        StorageError: S3 does not take it.
    """
    progress = Progress(on_progress)

    async def pause(seconds: float) -> None:
        await progress.report()
        await sleep(seconds)

    deadline = asyncio.timeout(total_timeout)
    try:
        async with deadline, nullcontext(http) if http else httpx.AsyncClient(verify=tls_context()) as client:
            download = Download(
                url,
                client,
                allow_private=allow_private,
                max_bytes=max_bytes,
                tries=tries,
                read_timeout=read_timeout,
                sleep=pause,
            )
            while True:
                upload = Upload(s3, target, on_upload, progress, sleep)
                try:
                    return await _copy_once(download, upload, part_bytes, max_bytes)
                except StartOverError:
                    continue
                finally:
                    await to_its_end(upload.close())
    except TimeoutError:
        if not deadline.expired():
            raise
        raise TransferError(f"the video's transfer took longer than {total_timeout:g} s", credits_spent="yes") from None


async def _copy_once(download: Download, upload: Upload, part_bytes: int, max_bytes: int) -> Copied:
    check, sha256 = Mp4Check(), hashlib.sha256()
    async with aclosing(download.chunks()) as chunks:
        async for chunk in chunks:
            if not upload.size:
                upload.expected = download.announced
                upload.part_bytes = max(part_bytes, -(-(download.announced or max_bytes) // MAX_PARTS))
            check.feed(chunk)
            sha256.update(chunk)
            await upload.write(chunk)
    facts = await asyncio.to_thread(check.finish, length_is_known=download.announced is not None)
    await upload.commit()
    return Copied(
        upload.size,
        sha256.hexdigest(),
        upload.crc32,
        facts.duration_seconds,
        facts.width,
        facts.height,
        facts.is_turned,
    )
