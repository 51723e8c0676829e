"""Job records under former keys of requests.

Earlier versions knew fewer URL signatures, so a link with version 2 of S3's signature, for example, had another key.
`find_record` reads the records under both keys. `close_former_key` closes the former key before a purchase under the
new one, because a worker of an earlier version knows only the former key and could buy the same video. See
docs/decisions/0015.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from prefect_loova._timing import backoff
from prefect_loova.errors import StorageError
from prefect_loova.models.attempts import PURCHASED
from prefect_loova.models.job_record import FORMAT, JobRecord
from prefect_loova.models.job_states import JobState
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.records import JobRecords, KeyClosedError, RecordConflictError, StoredRecord

_TRIES = 6
_PRECEDENCE: tuple[JobState, ...] = (
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
"""Of two records of one request, the one with the later state here counts."""


async def find_record(records: JobRecords, request: VideoRequest) -> StoredRecord | None:
    """Return the record of a request, under its key or under its former key, whichever counts.

    The former key costs one GET. It is read only if a URL has a newly known signature and nothing is bought yet.

    Raises:
        StorageError: As `JobRecords.read`.
    """
    return (await _find(records.read, [request]))[1]


async def find_by_links(
    records: JobRecords, requests: Sequence[VideoRequest]
) -> tuple[VideoRequest, StoredRecord | None]:
    """Find the record of one video that several requests name by several links, each of which may have a former key.

    Return the request whose record counts, and that record. `find_record` finds the same record for that request.

    Raises:
        StorageError: One of the records cannot be read.
    """
    return await _find(records.read_or_list, requests)


async def close_former_key(
    records: JobRecords,
    request: VideoRequest,
    stored: StoredRecord | None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Close the former key of a request, so that no worker buys under it. Call it before the request is claimed.

    `stored` is the result of `find_record` for the request.

    Raises:
        RecordConflictError: A worker of an earlier version claimed the former key in between; read again.
        StorageError: The bucket cannot be written.
    """
    former = request.former_key
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
            existing = await records.read(former)
        except KeyClosedError:
            return
        if existing is not None:
            if _counts_more(existing, stored):
                raise RecordConflictError
            return
        if failure.http_status != 412 and not failure.transient:
            raise failure
        await sleep(backoff(attempt))
    uri = records.uri(records.record_key(former))
    raise StorageError(f"cannot write {uri}, or it exists and may not be read (s3:GetObject): {failure.message}")


async def _find(
    read: Callable[[str], Awaitable[StoredRecord | None]], requests: Sequence[VideoRequest]
) -> tuple[VideoRequest, StoredRecord | None]:
    request, stored = requests[0], await read(requests[0].key)
    for other in requests:
        if stored is not None and stored.record.state in PURCHASED:
            break
        if other.former_key is None:
            continue
        with suppress(KeyClosedError):
            former = await read(other.former_key)
            if former is not None and _counts_more(former, stored):
                request, stored = other, former
    return request, stored


def _counts_more(former: StoredRecord, stored: StoredRecord | None) -> bool:
    return stored is None or _precedence(former.record) > _precedence(stored.record)


def _precedence(record: JobRecord) -> int:
    is_in_doubt = record.undecided is not None and record.state not in PURCHASED
    return _PRECEDENCE.index("in_doubt" if is_in_doubt else record.state)
