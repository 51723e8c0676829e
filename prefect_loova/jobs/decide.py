"""What a person decides about a job in doubt: adopt a task, submit again, give up, take back."""

from __future__ import annotations

import logging
from typing import Any

from prefect_loova.errors import InvalidRequestError, InvalidTransitionError, StorageError, redact
from prefect_loova.jobs.adopt import check_adoption, holder_of
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import read_overdue, undecided_attempt
from prefect_loova.models.job_record import Decision, JobRecord
from prefect_loova.models.transitions import MoveName

log = logging.getLogger(__name__)

_MOVES: dict[str, MoveName] = {
    "adopt": "adopt",
    "submit-again": "submit_again",
    "give-up": "give_up",
    "take-back": "take_back",
}


async def decide(
    jobs: VideoJobs,
    key: str,
    decision: Decision,
    task_id: str | None = None,
    *,
    attempt: int | None = None,
    force: bool = False,
) -> JobRecord:
    """Carry out what a person decided about a job in doubt, or take back a task that was adopted for one.

    Args:
        jobs: The API and the bucket.
        key: The request's key, or its beginning, where only one open job has it.
        decision: What, who, when and why; it stays in the record.
        task_id: The Loova task to adopt. Loova is asked for it first, and all other records below the prefix are
            searched for it, so that neither a typing error nor another job's task ends in the record.
        attempt: The attempt that the person looked at, so that a late answer about it never counts for a later one;
            None for the one in doubt (or, to take back, the one with an adopted task), whichever it is.
        force: Adopt a task although what Loova says of it contradicts what was sent, or although the records may not
            be listed; what was overruled stays in the record. The decision must say why.

    Returns:
        The record as it is now. Ask for the same request again to go on with it.

    Raises:
        InvalidRequestError: A task id is missing, too much, belongs to this or another job already, or contradicts
            what was sent; `force` without a reason; or no job has this key.
        TaskNotFoundError: Loova does not know the task. The job is as it was.
        InvalidTransitionError: The job, or this attempt of it, is not in doubt, or holds no adopted task.
    """
    if force and (decision.what != "adopt" or not decision.why.strip()):
        raise InvalidRequestError("force: it goes with `adopt`, and needs a reason (why), which stays in the record")
    if (decision.what == "adopt") != bool(task_id):
        seen = "none" if not task_id else redact(task_id, 120)
        raise InvalidRequestError(f"task_id: {seen} was given: a task id goes with `adopt`, and only with it")
    stored = await read_overdue(jobs, key)
    which = _adopted if decision.what == "take-back" else undecided_attempt
    number = which(jobs, stored.record, attempt)
    if task_id:
        overruled = await check_adoption(jobs, stored.record, number, task_id, force=force)
        decision = decision.model_copy(update={"overruled": overruled or None})

    def change(record: JobRecord) -> JobRecord:
        facts: dict[str, Any] = {"task_id": task_id} if task_id else {}
        return record.move(_MOVES[decision.what], which(jobs, record, number), decision=decision, **facts)

    if decision.what == "take-back":
        await jobs.records.index(stored.record)
    stored = await jobs.records.change(stored.record.key, change)
    if task_id:
        await _hold_alone(jobs, stored.record, number, task_id, decision)
    if stored.record.is_open:
        # After the change as well: whoever took an ended job out of the index may have done so in between.
        await jobs.records.index(stored.record)
    else:
        await jobs.records.unindex(stored.record.key)
    return stored.record


async def _hold_alone(jobs: VideoJobs, record: JobRecord, number: int, task_id: str, decision: Decision) -> None:
    """Take an adoption back where another job took the same task at the same time.

    Both write first and look then, so that at least one of two sees the other.
    """
    try:
        others = [key for key in await jobs.records.list_open_keys() if key != record.key]
    except StorageError as error:
        log.warning("whether another job adopts task %s at this moment is not known: %s", task_id, error)
        return
    holder = await holder_of(jobs, task_id, others)
    if holder is None:
        return
    back = decision.model_copy(update={"what": "take-back", "why": f"job {holder} took the task at the same time"})

    def change(now: JobRecord) -> JobRecord:
        is_held = now.attempt(number).task_id == task_id
        return now.move("take_back", number, decision=back) if is_held else now

    await jobs.records.change(record.key, change)
    raise InvalidRequestError(
        f"task_id: {redact(task_id, 120)} was given: job {holder} took that task at the same time. It is no task of "
        "this job, which is in doubt as before"
    )


def _adopted(jobs: VideoJobs, record: JobRecord, wanted: int | None = None) -> int:
    numbers = [one.number for one in record.attempts if one.task_id and one.decision and one.decision.what == "adopt"]
    if not numbers or wanted not in (None, *numbers):
        which = "" if wanted is None else f"attempt {wanted} of "
        raise InvalidTransitionError(
            f"{which}{jobs.name(record)} holds no task that a person adopted: nothing to take back"
        )
    if wanted is None and len(numbers) > 1:
        waiting = " and ".join(map(str, numbers))
        raise InvalidTransitionError(f"{jobs.name(record)}: attempts {waiting} hold adopted tasks: name one of them")
    return numbers[0] if wanted is None else wanted
