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

from prefect_loova._api.tls import tls_context
from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import IncompleteVideoError, TransferError
from prefect_loova.store.errors import host_of
from prefect_loova.transfer.download import LEAST_RATE, SLOW_SECONDS, Download, StartOverError
from prefect_loova.transfer.mp4 import Mp4Check
from prefect_loova.transfer.upload import MAX_PARTS, Target, Upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["CopyResult", "Target", "copy_video"]


async def _nothing(*_: object) -> None:
    return None


def _nothing_now(_: object) -> None:
    return None


@dataclass(frozen=True)
class CopyResult:
    """What stands in the bucket now.

    Attributes:
        size_bytes: The video's size.
        sha256: Of the whole video, in hex.
        crc32: Of the whole video, in base64, as S3 shows it.
        duration_seconds: The length of the video, where it was checked.
        width: Of the picture, in pixels, where it was checked.
        height: Of the picture, in pixels, where it was checked.
        is_turned: Whether a player turns the picture by a quarter.
    """

    size_bytes: int
    sha256: str
    crc32: str
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    is_turned: bool = False


class _NotMp4Error(Exception):
    """The check of the structure failed, for the reason that is the cause of this."""


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
    on_commit: Callable[[], Awaitable[None]] = _nothing,
    unchecked: Target | None = None,
    on_unchecked: Callable[[CopyResult], None] = _nothing_now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    tries: int = 10,
    read_timeout: float = 30.0,
    least_rate: float = LEAST_RATE,
    slow_seconds: float = SLOW_SECONDS,
    total_timeout: float = 4 * 3600.0,
) -> CopyResult:
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
        on_commit: Called right before the request that makes the object appear, and again before an object that
            somebody else left there is replaced. What it raises ends the copy.
        unchecked: Where the content goes if it arrives whole and is not a whole mp4, before this raises. It may be the
            only copy of something that was paid for: the URL expires.
        on_unchecked: Called when it is there.
        sleep: How to wait before another try, in seconds.
        tries: How many requests to the video's host may fail in a row; one that brought bytes begins the count again.
        read_timeout: Seconds without a byte after which the host's connection counts as broken.
        least_rate: The fewest bytes per second that the video's host must send, averaged over `slow_seconds`.
        slow_seconds: For how many seconds it may be slower, on each of three connections.
        total_timeout: Seconds for all of it.

    Raises:
        VideoUrlRefusedError: The URL has expired, or leads where this package does not go.
        IncompleteVideoError: What came is not a whole mp4, or larger than `max_bytes`.
        TransferError: The video's host cannot be reached or is too slow, or the time is up.
        StorageError: S3 does not take it.
    """
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
                least_rate=least_rate,
                slow_seconds=slow_seconds,
                sleep=sleep,
            )

            async def copied(to: Target, *, is_checked: bool) -> CopyResult:
                while True:
                    upload = Upload(s3, to, on_upload, on_commit, sleep)
                    try:
                        return await _copy_once(download, upload, part_bytes, max_bytes, is_checked)
                    except StartOverError:
                        continue
                    finally:
                        await run_uncancelled(upload.close())

            try:
                return await copied(target, is_checked=True)
            except _NotMp4Error as error:
                if unchecked is not None and download.received:
                    on_unchecked(await copied(unchecked, is_checked=False))
                cause = error.__cause__
                assert isinstance(cause, IncompleteVideoError)  # noqa: S101
                cause.message += download.where
                raise cause from None
    except TimeoutError:
        if not deadline.expired():
            raise
        hosts = f"from {host_of(url)} to {host_of(s3.meta.endpoint_url)}"
        message = f"the video's transfer {hosts} took longer than {total_timeout:g} s"
        raise TransferError(message, credits_spent="yes") from None


async def _copy_once(
    download: Download, upload: Upload, part_bytes: int, max_bytes: int, is_checked: bool
) -> CopyResult:
    check, sha256 = Mp4Check(), hashlib.sha256()
    async with aclosing(download.chunks()) as chunks:
        async for chunk in chunks:
            if not upload.size:
                upload.expected = download.announced
                upload.part_bytes = max(part_bytes, -(-(download.announced or max_bytes) // MAX_PARTS))
            if is_checked:
                try:
                    check.feed(chunk)
                except IncompleteVideoError as error:
                    raise _NotMp4Error from error
            sha256.update(chunk)
            await upload.write(chunk)
    if not is_checked:
        await upload.commit()
        return CopyResult(upload.size, sha256.hexdigest(), upload.crc32)
    try:
        facts = await asyncio.to_thread(check.finish, length_is_known=download.announced is not None)
    except IncompleteVideoError as error:
        raise _NotMp4Error from error
    await upload.commit()
    return CopyResult(
        upload.size,
        sha256.hexdigest(),
        upload.crc32,
        facts.duration_seconds,
        facts.width,
        facts.height,
        facts.is_turned,
    )
