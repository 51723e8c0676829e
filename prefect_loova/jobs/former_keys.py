"""Requests whose key was another one while fewer URL signatures were known: what was bought under it is found.

A link that is signed by version 2 of S3, say, was a part of the key. `find` looks for a record under both keys, and
`close` takes the former one before anything is bought under the new one, so that a worker of an earlier version, which
knows only the former key, cannot buy the same link meanwhile. See docs/decisions/0015.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from prefect_loova._timing import backoff
from prefect_loova.errors import StorageError
from prefect_loova.models.job_record import FORMAT, PURCHASED, JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.transitions import JobState
from prefect_loova.store.records import JobRecords, KeyClosedError, RecordConflictError, StoredRecord

_TRIES = 6
_WEIGHT: tuple[JobState, ...] = (
    "rejected",
    "claimed",
    "failed",
    "abandoned",
    "submitting",
    "in_doubt",
    "submitted",
    "succeeded",
    "saved",
)
"""Which of two records of one request counts: the one whose state stands further to the right."""


async def find(records: JobRecords, request: VideoRequest) -> StoredRecord | None:
    """The record of a request under its key, or under its former one where that says more.

    The former key costs one GET, and only where a URL has a signature that was a part of it and nothing is bought yet.

    Raises:
        StorageError: As `JobRecords.read`.
    """
    stored = await records.read(request.key)
    former = request.key_before
    if former is None or (stored is not None and stored.record.state in PURCHASED):
        return stored
    return _of_two(stored, await _under_former_key(records.read, former))


async def find_any(records: JobRecords, requests: Sequence[VideoRequest]) -> tuple[VideoRequest, StoredRecord | None]:
    """As `find`, for one video that is asked for by several links: each link may have a former key of its own.

    Args:
        records: Where the job records are.
        requests: The same video, by each link. All have the same key.

    Returns:
        The request whose record says most, and that record. To go on with that request finds the record again.

    Raises:
        StorageError: One of the records cannot be read.
    """
    found = requests[0], await records.read_or_list(requests[0].key)
    for request in requests:
        if found[1] is not None and found[1].record.state in PURCHASED:
            break
        if request.key_before is not None:
            former = await _under_former_key(records.read_or_list, request.key_before)
            if former is not None and _of_two(found[1], former) is former:
                found = request, former
    return found


async def close(
    records: JobRecords,
    request: VideoRequest,
    stored: StoredRecord | None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Make the former key one under which nobody buys, before the request is claimed under its key.

    Args:
        records: Where the job records are.
        request: The video that is about to be bought.
        stored: What `find` returned for it.
        sleep: How to wait between tries, in seconds.

    Raises:
        RecordMovedError: A worker of an earlier version has taken the former key meanwhile; look again.
        StorageError: The bucket cannot be written.
    """
    former = request.key_before
    if former is None or (stored is not None and stored.record.key == former):
        return
    content = {"format": FORMAT + 1, "closed_for": request.key, "api_origin": records.api_origin}
    for attempt in range(_TRIES):
        try:
            await records.put_json(records.record_key(former), content, IfNoneMatch="*")
            return
        except StorageError as error:
            failure = error
        try:
            there = await records.read(former)
        except KeyClosedError:
            return
        if there is not None:
            if _of_two(stored, there) is there:
                raise RecordConflictError
            return
        if failure.http_status != 412 and not failure.transient:
            raise failure
        await sleep(backoff(attempt))
    uri = records.uri(records.record_key(former))
    raise StorageError(f"{uri} cannot be written, or is there and may not be read (s3:GetObject): {failure.message}")


async def _under_former_key(read: Callable[[str], Awaitable[StoredRecord | None]], former: str) -> StoredRecord | None:
    try:
        return await read(former)
    except KeyClosedError:
        return None


def _of_two(stored: StoredRecord | None, former: StoredRecord | None) -> StoredRecord | None:
    if stored is None or former is None:
        return stored or former
    return former if _weight(former.record) > _weight(stored.record) else stored


def _weight(record: JobRecord) -> int:
    waits = record.undecided is not None and record.state not in PURCHASED
    return _WEIGHT.index("in_doubt" if waits else record.state)
