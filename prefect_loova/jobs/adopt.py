"""Whether a Loova task may be adopted for a job in doubt: what Loova says of it, and which other job holds it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from pydantic import ValidationError

from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.contradictions import contradictions
from prefect_loova.models.job_record import JobRecord
from prefect_loova.store.records import is_key

_READS_AT_ONCE = 16
_LARGEST_RECORD = 16 * 1024**2

log = logging.getLogger(__name__)


async def check_adoption(
    jobs: VideoJobs, record: JobRecord, number: int, task_id: str, *, force: bool
) -> tuple[str, ...]:
    """Refuse a task that is not this job's.

    Args:
        jobs: The API and the bucket.
        record: The job's record.
        number: The attempt in doubt.
        task_id: The Loova task to adopt.
        force: Adopt it although something contradicts. A task that another job holds is refused all the same.

    Returns:
        What speaks against it and was overruled by `force`.

    Raises:
        InvalidRequestError: This job or another one holds the task, or it contradicts what was sent.
        TaskNotFoundError: Loova does not know the task.
    """
    if any(attempt.task_id == task_id for attempt in record.attempts):
        raise InvalidRequestError(f"task_id: {redact(task_id, 120)} was given: this job has that task already")
    task = await jobs.loova.get_task(task_id)
    against = contradictions(task, record.request, record.attempt(number))
    try:
        keys = [name for name in await jobs.records.list_folders() if is_key(name)]
    except StorageError as error:
        if error.transient:
            raise
        against.append(
            f"whether another job holds the task cannot be known without listing the records ({error.message})"
        )
    else:
        log.info("looking in %d job records for the task", len(keys))
        holder = await holder_of(jobs, task_id, [key for key in keys if key != record.key])
        if holder is not None:
            raise InvalidRequestError(
                f"task_id: {redact(task_id, 120)} was given: job {holder} has that task. If it is there by a wrong "
                f"adoption, take that one back first: python -m prefect_loova.resolve {holder} take-back {jobs.place}"
            )
    if against and not force:
        told = "; ".join(against)
        raise InvalidRequestError(
            f"task_id: {redact(task_id, 120)} was given, and it does not look like this job's task: {told}. Look in "
            "the Loova dashboard again. If you are sure, decide again with force, and say why"
        )
    return tuple(against)


async def holder_of(jobs: VideoJobs, task_id: str, keys: Sequence[str]) -> str | None:
    """The key of a job that holds a task, among these. Records of every version, and unreadable ones, are searched."""
    turn = asyncio.Semaphore(_READS_AT_ONCE)
    mark = json.dumps(task_id, ensure_ascii=False).encode()

    async def one(key: str) -> str | None:
        async with turn:
            body = await jobs.records.get_bytes(jobs.records.record_key(key), _LARGEST_RECORD)
        if body is None or mark not in body:
            return None
        try:
            record = JobRecord.model_validate_json(body)
        except (ValidationError, ValueError, RecursionError):
            return key  # it names the task, and cannot be read
        if record.api_origin != jobs.loova.origin:
            return None
        return key if any(attempt.task_id == task_id for attempt in record.attempts) else None

    found = await asyncio.gather(*map(one, keys))
    return next((key for key in found if key is not None), None)
