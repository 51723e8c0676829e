"""The queue of a detached batch: requests that a collector is to submit, as small objects of their own.

They are under `{prefix}/_open/queued/`, beside the index of open jobs, so that a look at the open jobs costs the same
however many are queued.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from prefect_loova._cancellation import task_group
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.store.records import is_key

QUEUE = "_open/queued"
"""Where a detached batch puts what a collector is to submit, below the prefix."""

FORMAT = 1
"""The format of an entry. A newer one is refused, not misread."""

_WRITES_AT_ONCE = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuedRequest:
    """One entry of the queue, as it was read.

    Attributes:
        key: The request's key.
        request: The video to be made.
        max_paid_attempts: How often it may be bought in all, when Loova fails to make it.
        etag: Of the entry: one that is queued again has another one.
    """

    key: str
    request: VideoRequest
    max_paid_attempts: int
    etag: str


async def enqueue(jobs: VideoJobs, requests: Sequence[VideoRequest], *, max_paid_attempts: int = 1) -> None:
    """Leave requests to a collector. Queued twice, a request is still bought once.

    Raises:
        InvalidRequestError: A media URL has a query: it may be a signature, which the queue must not hold.
        StorageError: The bucket cannot be written.
    """
    media = (url for one in requests for url in (*one.image_urls, *one.audio_urls, *one.video_urls))
    lost = [redact(url, 120) for url in media if "?" in url]
    if lost:
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        raise InvalidRequestError(
            f"media: {', '.join(lost[:10])}{more}: a URL with a query may be signed, and is not queued; "
            "run this batch with wait=True, or give URLs without one"
        )
    turn = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def put(request: VideoRequest) -> None:
        entry = {
            "format": FORMAT,
            "api_origin": jobs.loova.origin,
            "request": request.model_dump(mode="json"),
            "max_paid_attempts": max_paid_attempts,
            # Makes its ETag another one each time: who ends an earlier entry leaves this one alone.
            "entry_id": secrets.token_hex(8),
        }
        async with turn:
            await jobs.records.put_json(jobs.records.object_key(QUEUE, request.key), entry)

    async with task_group() as group:
        for request in requests:
            group.create_task(put(request))


async def queued_keys(jobs: VideoJobs) -> list[str]:
    """The keys of what is queued, the one that waits longest first.

    Raises:
        StorageError: The queue may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    listed = [one for one in await jobs.records.list_objects(QUEUE) if is_key(one.name)]
    return [one.name for one in sorted(listed, key=lambda one: (one.written, one.name))]


async def read_queued(jobs: VideoJobs, key: str) -> QueuedRequest | None:
    """One entry, or None where it is gone: another collector was faster.

    Raises:
        StorageError: It cannot be read, is no entry, or is for another API; it stays as it is.
    """
    name = jobs.records.object_key(QUEUE, key)
    entry = await jobs.records.get_json(name, denied_is_missing=False)
    if entry is None:
        return None
    content, etag = entry
    try:
        if content.get("format", FORMAT) != FORMAT:
            newer = f"a newer version of prefect-loova wrote this (format {redact(content['format'], 20)})"
            raise ValueError(f"{newer}: upgrade prefect-loova to read it")
        if content["api_origin"] != jobs.loova.origin:
            raise ValueError(f"it is for another API, {redact(content['api_origin'], 120)}")
        most = content["max_paid_attempts"]
        if type(most) is not int or most < 1:
            raise ValueError(f"max_paid_attempts: {redact(most, 40)} is in it: must be a whole number from 1")
        request = VideoRequest.model_validate(content["request"], context=STORED)
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StorageError(f"{jobs.records.uri(name)} is no queued request: {redact(error)}") from None
    return QueuedRequest(key, request, most, etag)


async def dequeue(jobs: VideoJobs, entry: QueuedRequest) -> bool:
    """Delete an entry that is done with, unless it was queued again meanwhile; tells whether it is gone.

    Raises:
        StorageError: The bucket cannot be read or written.
    """
    name = jobs.records.object_key(QUEUE, entry.key)
    found = await jobs.records.get_json(name, denied_is_missing=False)
    if found is not None and found[1] != entry.etag:
        log.info("job %s: it was queued again meanwhile, and stays queued", entry.key)
        return False
    if found is not None:
        await jobs.records.delete(name)
    return True
