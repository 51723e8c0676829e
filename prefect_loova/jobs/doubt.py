"""Jobs in doubt: a submit was sent and its answer is lost. What is known of them, and what a person decides.

Whether such a submit was billed cannot be known from here: Loova documents no idempotency key and no list of tasks. So
the evidence (when it was sent, the balance before and after) is shown and never acted upon.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_loova._timing import backoff
from prefect_loova.errors import (
    InDoubtError,
    InvalidRequestError,
    InvalidTransitionError,
    LoovaError,
    StorageError,
    redact,
)
from prefect_loova.jobs.adopt import check_adoption, holder_of
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.job_record import Attempt, Decision, JobRecord
from prefect_loova.models.results import JobInDoubt
from prefect_loova.models.transitions import MoveName
from prefect_loova.store.records import RecordConflictError, StoredRecord

_READS_AT_ONCE = 16
_LOOKS = 6
_MOVES: dict[str, MoveName] = {
    "adopt": "adopt",
    "submit-again": "submit_again",
    "give-up": "give_up",
    "take-back": "take_back",
}

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
    stored = await _up_to_date(jobs, key)
    which = _adopted if decision.what == "take-back" else _undecided
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


@dataclass(frozen=True)
class Doubts:
    """What a look at all open jobs found.

    Attributes:
        in_doubt: The jobs that wait for a person, the oldest first.
        problems: The open jobs that could not be read, which may wait for a person as well: key and reason.
    """

    in_doubt: list[JobInDoubt]
    problems: list[tuple[str, str]]


async def jobs_in_doubt(jobs: VideoJobs) -> list[JobInDoubt]:
    """All jobs that wait for a person, as `look_for_doubts` finds them; those that cannot be read are in the log only.

    Raises:
        StorageError: As `look_for_doubts`.
    """
    return (await look_for_doubts(jobs)).in_doubt


async def look_for_doubts(jobs: VideoJobs) -> Doubts:
    """Look at all open jobs for those that wait for a person. Submits that are overdue become in doubt by this.

    Raises:
        StorageError: The index of open jobs may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    problems: list[tuple[str, str]] = []
    turn = asyncio.Semaphore(_READS_AT_ONCE)
    now = await jobs.balance()

    async def look(key: str) -> list[JobInDoubt]:
        async with turn:
            try:
                stored = await jobs.records.read(key, denied_is_missing=False)
                if stored is None:
                    return []
                record = (await expire_submission(jobs, stored)).record
                return [describe_doubt(jobs, record, doubt.number, now) for doubt in record.doubts]
            except RecordConflictError:
                return []  # somebody is at work on it
            except Exception as error:
                why = redact(error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}")
                log.warning("job %s cannot be read: %s", key, why)
                problems.append((key, why))
                return []

    looks = await asyncio.gather(*(look(key) for key in await jobs.records.list_open_keys()))
    found = [one for some in looks for one in some]
    found.sort(key=lambda one: (one.submitted_at.isoformat(), one.key, one.attempt))
    return Doubts(found, sorted(problems))


async def job_in_doubt(jobs: VideoJobs, key: str) -> JobInDoubt:
    """One job that waits for a person.

    Raises:
        InvalidRequestError: No open job has a key that begins so, or several do.
        InvalidTransitionError: It is not in doubt.
    """
    stored = await _up_to_date(jobs, key)
    return describe_doubt(jobs, stored.record, _undecided(jobs, stored.record), await jobs.balance())


async def complete_key(jobs: VideoJobs, beginning: str) -> str:
    """The key of the one open job that begins so; a whole key is taken as it is.

    Raises:
        InvalidRequestError: No open job begins so, or several do.
        StorageError: The index of open jobs may not be listed.
    """
    given = beginning.strip().lower()
    if len(given) == 64:
        return given
    known = [key for key in await jobs.records.list_open_keys() if key.startswith(given)] if given else []
    if len(known) == 1:
        return known[0]
    found = f"{len(known)} open jobs begin" if known else "no open job begins"
    raise InvalidRequestError(f"key: {redact(repr(beginning), 120)} was given: {found} so")


async def _up_to_date(jobs: VideoJobs, key: str) -> StoredRecord:
    key = await complete_key(jobs, key)
    for conflict in range(_LOOKS):
        try:
            return await expire_submission(jobs, await jobs.records.expect(key))
        except RecordConflictError:
            await jobs.sleep(backoff(conflict, first=0.1))
    raise jobs.records.conflict_error(key, _LOOKS)


async def expire_submission(jobs: VideoJobs, stored: StoredRecord) -> StoredRecord:
    """The record, with each attempt in doubt whose submit was sent longer ago than its answer may take.

    Whoever sent such a submit is gone.

    Raises:
        RecordMovedError: Another worker wrote the record meanwhile.
    """
    record, after = stored.record, jobs.times.doubt_after
    overdue = [
        attempt.number
        for attempt in record.attempts
        if attempt.state == "submitting" and stored.age >= (attempt.post_timeout_seconds or 0) + after
    ]
    if not overdue:
        return stored
    reason = "the worker that submitted it is gone, and its answer with it"
    balance = await jobs.balance()
    for number in overdue:
        record = record.move("doubt", number, reason=reason, credits_after=balance)
    stored = await jobs.records.advance(stored, record)
    for number in overdue:
        jobs.notify("in_doubt", stored.record, number)
    return stored


async def in_doubt(jobs: VideoJobs, record: JobRecord, number: int, cause: InDoubtError | None = None) -> InDoubtError:
    """The error that tells a person all that is known, and the commands that decide.

    Args:
        jobs: The API and the bucket.
        record: The job's record.
        number: The attempt in doubt.
        cause: What happened to the answer, where it is this run that lost it.
    """
    now = None if cause else await jobs.balance()
    job = describe_doubt(jobs, record, number, now)
    why = cause.message if cause else job.reason
    return InDoubtError(
        f"{jobs.name(record)} is in doubt: attempt {job.attempt} was submitted at {job.when}, and the answer is lost "
        f"({why}). Up to {job.credits_estimate:g} credits may be spent. {job.evidence}",
        key=job.key,
        attempt=job.attempt,
        next_steps=job.next_steps,
        found=cause is None,
        trace_id=job.trace_id,
        http_status=cause.http_status if cause else None,
        code=cause.code if cause else None,
        loova_message=cause.loova_message if cause else None,
        credits_spent="maybe",
    )


def describe_doubt(jobs: VideoJobs, record: JobRecord, number: int, credits_now: float | None) -> JobInDoubt:
    """What is known of an attempt in doubt."""
    attempt = record.attempt(number)
    return JobInDoubt(
        key=record.key,
        attempt=attempt.number,
        record=jobs.records.uri(jobs.records.record_key(record.key)),
        place=jobs.place,
        prompt=str(record.request.get("prompt", "")),
        model=str(record.request.get("model", "")),
        submitted_at=_submitted_at(attempt),
        reason=attempt.reason,
        trace_id=attempt.trace_id,
        credits_estimate=attempt.credits_estimate,
        credits_before=attempt.credits_before,
        credits_after=attempt.credits_after,
        credits_now=credits_now,
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


def _submitted_at(attempt: Attempt) -> datetime:
    """When the submit was sent; of a record that does not tell, the latest time before that it does tell."""
    known = attempt.times.get("submitting") or max(attempt.times.values(), default=datetime.fromtimestamp(0, UTC))
    return known if known.tzinfo else known.replace(tzinfo=UTC)


def _undecided(jobs: VideoJobs, record: JobRecord, wanted: int | None = None) -> int:
    numbers = [attempt.number for attempt in record.doubts]
    if not numbers:
        raise InvalidTransitionError(
            f"{jobs.name(record)} is {record.state}, not in doubt: there is nothing to decide",
            task_id=record.current.task_id,
        )
    waiting = " and ".join(map(str, numbers))
    if wanted is None and len(numbers) > 1:
        raise InvalidTransitionError(f"{jobs.name(record)}: attempts {waiting} are in doubt: name one of them")
    if wanted not in (None, *numbers):
        raise InvalidTransitionError(
            f"{jobs.name(record)}: attempt {waiting} is in doubt, and attempt {wanted} was decided "
            "about: it was decided before, or there is none such"
        )
    return numbers[0] if wanted is None else wanted
