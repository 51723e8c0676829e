"""Check whether a Loova task may be adopted for a job in doubt."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from pydantic import ValidationError

from prefect_loova._concurrency import map_bounded
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.contradictions import contradictions
from prefect_loova.models.job_record import JobRecord
from prefect_loova.store.records import is_key

_CONCURRENT_READS = 16
_MAX_RECORD_BYTES = 16 * 1024**2

log = logging.getLogger(__name__)


async def check_adoption(
    jobs: VideoJobs, record: JobRecord, number: int, task_id: str, *, force: bool
) -> tuple[str, ...]:
    """Refuse a task that belongs to another job or contradicts the request.

    Args:
        jobs: The API and the bucket.
        record: The job's record.
        number: The attempt in doubt.
        task_id: The Loova task to adopt.
        force: Whether to adopt it despite contradictions. A task of another job is refused anyway.

    Returns:
        The contradictions that `force` overruled.

    Raises:
        InvalidRequestError: This job or another one has the task, or the task contradicts the request.
        TaskNotFoundError: Loova does not know the task.
    """
    given = f"task_id: {redact(task_id, 120)} was given"
    if any(attempt.task_id == task_id for attempt in record.attempts):
        raise InvalidRequestError(f"{given}: this job has that task already")
    task = await jobs.loova.get_task(task_id)
    against = contradictions(task, record.request, record.attempt(number))
    try:
        keys = [name for name in await jobs.records.list_folders() if is_key(name)]
    except StorageError as error:
        if error.transient:
            raise
        against.append(
            f"whether another job has the task cannot be known without listing the records ({error.message})"
        )
    else:
        log.info("searching %d job records for the task", len(keys))
        holder = await find_holder(jobs, task_id, [key for key in keys if key != record.key])
        if holder is not None:
            raise InvalidRequestError(
                f"{given}: job {holder} has that task. If its adoption was wrong, take it back first: "
                f"python -m prefect_loova.resolve {holder} take-back {jobs.place}"
            )
    if against and not force:
        raise InvalidRequestError(
            f"{given}, and it does not look like this job's task: {'; '.join(against)}. Look in the Loova dashboard "
            "again. If you are sure, decide again with force, and say why"
        )
    return tuple(against)


async def find_holder(jobs: VideoJobs, task_id: str, keys: Sequence[str]) -> str | None:
    """Return the first of these keys whose job has a task. Records of all versions, and unreadable ones, count."""
    needle = json.dumps(task_id, ensure_ascii=False).encode()

    async def has_task(key: str) -> bool:
        body = await jobs.records.get_bytes(jobs.records.record_key(key), _MAX_RECORD_BYTES)
        if body is None or needle not in body:
            return False
        try:
            record = JobRecord.model_validate_json(body)
        except (ValidationError, ValueError, RecursionError):
            return True  # the record contains the task id and cannot be read
        return record.api_origin == jobs.loova.origin and any(attempt.task_id == task_id for attempt in record.attempts)

    holders = await map_bounded(has_task, keys, _CONCURRENT_READS)
    return next((key for key, has in zip(keys, holders, strict=True) if has), None)
