"""The queue of detached batches: requests that a collector submits, each stored as a small object.

The entries are under `{prefix}/_open/queued/`, beside the index of open jobs, so that reading the index takes no longer
if many requests are queued.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from prefect_loova._concurrency import map_bounded
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.store.records import is_key

QUEUE = "_open/queued"
"""The folder of the queue, below the prefix."""

FORMAT = 1
"""The format of an entry. Entries with another format are refused."""

_CONCURRENT_WRITES = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuedRequest:
    """One entry of the queue.

    Attributes:
        key: The request's key.
        request: The request.
        max_paid_attempts: How many times it may be bought if Loova fails to make the video.
        etag: The ETag of the entry. It changes if the request is queued again.
    """

    key: str
    request: VideoRequest
    max_paid_attempts: int
    etag: str


async def enqueue(jobs: VideoJobs, requests: Sequence[VideoRequest], *, max_paid_attempts: int = 1) -> None:
    """Queue requests for a collector. A request that is queued twice is bought once.

    Raises:
        InvalidRequestError: A media URL has a query. It may contain a signature, which is not stored.
        StorageError: The bucket cannot be written.
    """
    media = (url for one in requests for url in (*one.image_urls, *one.audio_urls, *one.video_urls))
    with_query = [redact(url, 120) for url in media if "?" in url]
    if with_query:
        more = f" and {len(with_query) - 10} more" if len(with_query) > 10 else ""
        raise InvalidRequestError(
            f"media: {', '.join(with_query[:10])}{more}: a URL with a query may be signed, and is not queued; "
            "run this batch with wait=True, or use URLs without a query"
        )

    async def put(request: VideoRequest) -> None:
        entry = {
            "format": FORMAT,
            "api_origin": jobs.loova.origin,
            "request": request.model_dump(mode="json", exclude=_later_fields(request)),
            "max_paid_attempts": max_paid_attempts,
            # Makes the ETag unique, so that a collector that deletes an earlier entry does not delete this one.
            "entry_id": secrets.token_hex(8),
        }
        await jobs.records.put_json(jobs.records.object_key(QUEUE, request.key), entry)

    await map_bounded(put, requests, _CONCURRENT_WRITES)


def _later_fields(request: VideoRequest) -> set[str]:
    """Return the fields that an entry leaves out: an earlier version refuses an entry with a field it does not know."""
    fields = ("fallback_prompt", "takes", "label")
    return {name for name in fields if getattr(request, name) == VideoRequest.model_fields[name].default}


async def queued_keys(jobs: VideoJobs) -> list[str]:
    """Return the keys of the queued requests, the oldest entry first.

    Raises:
        StorageError: The queue may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    entries = [one for one in await jobs.records.list_objects(QUEUE) if is_key(one.name)]
    return [one.name for one in sorted(entries, key=lambda one: (one.written, one.name))]


async def read_queued(jobs: VideoJobs, key: str) -> QueuedRequest | None:
    """Return one entry, or None if another collector has removed it.

    Raises:
        StorageError: The entry cannot be read, is invalid, or is for another API. It is left unchanged.
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
    """Delete an entry unless its request was queued again. Return whether the queue no longer has the request.

    Raises:
        StorageError: The bucket cannot be read or written.
    """
    name = jobs.records.object_key(QUEUE, entry.key)
    latest = await jobs.records.get_json(name, denied_is_missing=False)
    if latest is None:
        return True
    if latest[1] != entry.etag:
        log.info("job %s: it was queued again and stays in the queue", entry.key)
        return False
    await jobs.records.delete(name)
    return True
