"""A person's decisions: adopt a task, submit again, give up, take an adoption back."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError

from prefect_loova._concurrency import map_bounded
from prefect_loova.errors import InvalidRequestError, InvalidTransitionError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import read_overdue, undecided_attempt
from prefect_loova.models.attempts import AttemptFields, Decision
from prefect_loova.models.contradictions import contradictions
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.job_states import MoveName
from prefect_loova.store.records import is_key

_CONCURRENT_READS = 16
_MAX_RECORD_BYTES = 16 * 1024**2

log = logging.getLogger(__name__)


async def decide(
    jobs: VideoJobs,
    key: str,
    decision: Decision,
    task_id: str | None = None,
    *,
    attempt: int | None = None,
    force: bool = False,
) -> JobRecord:
    """Apply a person's decision about a job in doubt or about an adopted task.

    Args:
        jobs: The API and the bucket.
        key: The request's key, or the beginning of it if only one open job matches.
        decision: The decision. It stays in the record.
        task_id: The Loova task to adopt. This asks Loova for the task and searches all records below the prefix, so
            that a typo or a task of another job is refused.
        attempt: The attempt that the person decided about. By default the one in doubt or, to take back, the one with
            an adopted task.
        force: Whether to adopt the task despite contradictions, or although the records may not be listed. The record
            keeps what was overruled, and the decision must have a reason.

    Returns:
        The new record. Submit the same request again to continue the job.

    Raises:
        InvalidRequestError: `task_id` is missing, superfluous, contradicts the request, or belongs to a job already;
            `force` has no reason; or no job has this key.
        TaskNotFoundError: Loova does not know the task. The record is unchanged.
        InvalidTransitionError: The attempt is not in doubt, or has no adopted task.
    """
    if force and (decision.what != "adopt" or not decision.why.strip()):
        raise InvalidRequestError("force: it goes with `adopt`, and needs a reason (why), which stays in the record")
    if (decision.what == "adopt") != bool(task_id):
        given = "none" if not task_id else redact(task_id, 120)
        raise InvalidRequestError(f"task_id: {given} was given: a task id goes with `adopt`, and only with it")
    stored = await read_overdue(jobs, key)
    which = _adopted_attempt if decision.what == "take-back" else undecided_attempt
    number = which(jobs, stored.record, attempt)
    if task_id:
        overruled = await _check_adoption(jobs, stored.record, number, task_id, force=force)
        decision = decision.model_copy(update={"overruled": overruled or None})
    fields: AttemptFields = {"decision": decision, "task_id": task_id} if task_id else {"decision": decision}
    move = cast("MoveName", decision.what.replace("-", "_"))

    def change(record: JobRecord) -> JobRecord:
        return record.move(move, which(jobs, record, number), **fields)

    if decision.what == "take-back":
        await jobs.records.index(stored.record)
    stored = await jobs.records.change(stored.record.key, change)
    if task_id:
        await _take_back_duplicate(jobs, stored.record, number, task_id, decision)
    if stored.record.is_open:
        # After the change, because another worker may have unindexed the job in between.
        await jobs.records.index(stored.record)
    else:
        await jobs.records.unindex(stored.record.key)
    return stored.record


async def _check_adoption(
    jobs: VideoJobs, record: JobRecord, number: int, task_id: str, *, force: bool
) -> tuple[str, ...]:
    """Refuse a task that belongs to a job already, or contradicts the request and is not forced.

    Return the contradictions that `force` overruled.
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
        holder = await _find_holder(jobs, task_id, [key for key in keys if key != record.key])
        if holder is not None:
            raise InvalidRequestError(
                f"{given}: job {holder} has that task. If its adoption was wrong, take it back first: "
                f"prefect-loova resolve {holder} take-back {jobs.location_arguments}"
            )
    if against and not force:
        raise InvalidRequestError(
            f"{given}, and it does not look like this job's task: {'; '.join(against)}. Check the task id. "
            "If you are sure, decide again with force, and say why"
        )
    return tuple(against)


async def _find_holder(jobs: VideoJobs, task_id: str, keys: Sequence[str]) -> str | None:
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


async def _take_back_duplicate(
    jobs: VideoJobs, record: JobRecord, number: int, task_id: str, decision: Decision
) -> None:
    """Take an adoption back if another job adopted the same task at the same time.

    Both jobs write before they read, so at least one of them sees the other.
    """
    try:
        others = [key for key in await jobs.records.list_open_keys() if key != record.key]
    except StorageError as error:
        log.warning("cannot check whether another job adopts task %s at the same time: %s", task_id, error)
        return
    holder = await _find_holder(jobs, task_id, others)
    if holder is None:
        return
    back = decision.model_copy(update={"what": "take-back", "why": f"job {holder} took the task at the same time"})

    def change(latest: JobRecord) -> JobRecord:
        is_held = latest.attempt(number).task_id == task_id
        return latest.move("take_back", number, decision=back) if is_held else latest

    await jobs.records.change(record.key, change)
    raise InvalidRequestError(
        f"task_id: {redact(task_id, 120)} was given: job {holder} took that task at the same time. This job is still "
        "in doubt"
    )


def _adopted_attempt(jobs: VideoJobs, record: JobRecord, wanted: int | None = None) -> int:
    """Return the number of the attempt with an adopted task: the wanted one, or the only one."""
    numbers = [one.number for one in record.attempts if one.task_id and one.decision and one.decision.what == "adopt"]
    if not numbers or wanted not in (None, *numbers):
        which = "" if wanted is None else f"attempt {wanted} of "
        raise InvalidTransitionError(
            f"{which}{jobs.name(record)} holds no task that a person adopted: nothing to take back"
        )
    if wanted is None and len(numbers) > 1:
        adopted = " and ".join(map(str, numbers))
        raise InvalidTransitionError(f"{jobs.name(record)}: attempts {adopted} hold adopted tasks: name one of them")
    return numbers[0] if wanted is None else wanted
