"""Streams a finished video from its URL to the bucket, and checks it on the way.

The video never touches the disk, and takes a few buffers of memory at any size: one part downloads while earlier parts
upload. Over TLS, a part uploads while it downloads. The upload is completed only if length, structure and checksum
agree. In every other case it is aborted.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import httpx

from prefect_loova._api.tls import tls_context
from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import IncompleteVideoError, TransferError
from prefect_loova.store.errors import host_of
from prefect_loova.transfer.download import LEAST_RATE, SLOW_SECONDS, Download, StartOverError
from prefect_loova.transfer.mp4 import Mp4Check
from prefect_loova.transfer.mp4_index import NotMp4Error
from prefect_loova.transfer.object_calls import Target
from prefect_loova.transfer.upload import FILL_SECONDS, MAX_PARTS, Upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["CopyResult", "Target", "copy_video"]


async def _do_nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class CopyResult:
    """The object in the bucket.

    Attributes:
        size_bytes: The size.
        sha256: The SHA-256 of the content, in hex.
        crc32: The CRC-32 of the content, in base64, as S3 shows it.
        duration_seconds: The length of the video; None for unchecked content.
        width: The width of the picture in pixels; None for unchecked content.
        height: The height of the picture in pixels; None for unchecked content.
        is_turned: Whether a player rotates the picture by a quarter turn.
    """

    size_bytes: int
    sha256: str
    crc32: str
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
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
    on_upload: Callable[[str], Awaitable[None]] = _do_nothing,
    on_commit: Callable[[], Awaitable[None]] = _do_nothing,
    unchecked: Target | None = None,
    on_unchecked: Callable[[CopyResult], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    tries: int = 10,
    read_timeout: float = 30.0,
    least_rate: float = LEAST_RATE,
    slow_seconds: float = SLOW_SECONDS,
    fill_seconds: float = FILL_SECONDS,
    total_timeout: float = 4 * 3600.0,
) -> CopyResult:
    """Copy a video from its URL to the bucket. If it fails, the bucket is unchanged.

    Args:
        url: The URL of the video. Its query, which may be a signature, reaches no error and no log.
        s3: A boto3 S3 client.
        target: The object to write. An existing object is replaced only when the new video is complete.
        allow_private: Whether to allow `http` and addresses off the public internet. Set it if the API itself is there.
        max_bytes: The largest video to accept.
        part_bytes: The size of an upload part. S3 requires at least 5 MiB. At most seven parts are in memory.
        http: Sends the requests, for tests and to share connections. Its headers, cookies and auth are not used.
        on_upload: Called with the upload id before the first part is sent, and again if the copy starts over. An
            exception ends the copy.
        on_commit: Called right before parts become an object, and before another object is replaced. An exception ends
            the copy.
        unchecked: Where to keep content that arrives but is not a whole mp4. The copy still raises. The URL expires,
            so this may be the only copy of something that was paid for.
        on_unchecked: Called when that content is stored.
        sleep: Waits before a retry, in seconds.
        clock: Measures how fast the video arrives, in seconds.
        tries: How many requests to the host may fail in a row. A request that brings new bytes resets the count.
        read_timeout: Seconds without a byte after which the host's connection counts as broken.
        least_rate: The fewest bytes per second that the host must send, averaged over `slow_seconds`.
        slow_seconds: How long a connection may be slower, in seconds. The third slow connection ends the copy.
        fill_seconds: How long a part may fill while it is sent, in seconds. Then it is sent again when it is full.
        total_timeout: The most seconds for the whole copy.

    Returns:
        The stored object.

    Raises:
        VideoUrlRefusedError: The URL has expired, or leads to an address that is not allowed.
        IncompleteVideoError: The content is not a whole mp4, or is larger than `max_bytes`.
        TransferError: The host cannot be reached or is too slow, or the time is up.
        StorageError: S3 does not accept the video.
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
            upload_to = partial(
                Upload,
                s3,
                on_upload=on_upload,
                on_commit=on_commit,
                sleep=sleep,
                clock=clock,
                fill_seconds=fill_seconds,
            )
            try:
                return await _copy(download, partial(upload_to, target), part_bytes, max_bytes, is_checked=True)
            except NotMp4Error as error:
                if unchecked is not None and download.received:
                    upload = partial(upload_to, unchecked)
                    on_unchecked(await _copy(download, upload, part_bytes, max_bytes, is_checked=False))
                raise IncompleteVideoError(error.message + download.where, credits_spent="yes") from None
    except TimeoutError:
        if not deadline.expired():
            raise
        hosts = f"from {host_of(url)} to {host_of(s3.meta.endpoint_url)}"
        message = f"the transfer of the video {hosts} took longer than {total_timeout:g} s"
        raise TransferError(message, credits_spent="yes") from None


async def _copy(
    download: Download, new_upload: Callable[[], Upload], part_bytes: int, max_bytes: int, *, is_checked: bool
) -> CopyResult:
    """Copy the download to a new upload, and to another one each time that the download starts over."""
    while True:
        upload, check, sha256 = new_upload(), Mp4Check(), hashlib.sha256()
        try:
            async with aclosing(download.chunks()) as chunks:
                async for chunk in chunks:
                    if not upload.size:
                        upload.expected = download.announced
                        upload.part_bytes = max(part_bytes, -(-(download.announced or max_bytes) // MAX_PARTS))
                    if is_checked:
                        check.feed(chunk)
                    sha256.update(chunk)
                    await upload.write(chunk)
            facts = None
            if is_checked:
                facts = await asyncio.to_thread(check.finish, length_is_known=download.announced is not None)
            await upload.commit()
            result = CopyResult(upload.size, sha256.hexdigest(), upload.crc32)
            if facts is None:
                return result
            return replace(
                result,
                duration_seconds=facts.duration_seconds,
                width=facts.width,
                height=facts.height,
                is_turned=facts.is_turned,
            )
        except StartOverError:
            continue
        finally:
            await run_uncancelled(upload.close())
