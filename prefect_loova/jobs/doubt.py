"""Jobs in doubt: a submit was sent and its answer is lost. What is known of them, and what a person decides.

Whether such a submit was billed cannot be known from here: Loova documents no idempotency key and no list of tasks. So
the evidence (when it was sent, the balance before and after) is shown and never acted upon.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_loova._timing import backoff
from prefect_loova.errors import (
    InDoubtError,
    InvalidRequestError,
    InvalidTransitionError,
    LoovaError,
    redact,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.job_record import Attempt, JobRecord
from prefect_loova.models.results import JobInDoubt
from prefect_loova.store.records import RecordConflictError, StoredRecord

_READS_AT_ONCE = 16
_LOOKS = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoubtReport:
    """What a look at all open jobs found.

    Attributes:
        in_doubt: The jobs that wait for a person, the oldest first.
        problems: The open jobs that could not be read, which may wait for a person as well: key and reason.
    """

    in_doubt: list[JobInDoubt]
    problems: list[tuple[str, str]]


async def jobs_in_doubt(jobs: VideoJobs) -> list[JobInDoubt]:
    """All jobs that wait for a person, as `find_doubts` finds them; those that cannot be read are in the log only.

    Raises:
        StorageError: As `find_doubts`.
    """
    return (await find_doubts(jobs)).in_doubt


async def find_doubts(jobs: VideoJobs) -> DoubtReport:
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
    return DoubtReport(found, sorted(problems))


async def job_in_doubt(jobs: VideoJobs, key: str) -> JobInDoubt:
    """One job that waits for a person.

    Raises:
        InvalidRequestError: No open job has a key that begins so, or several do.
        InvalidTransitionError: It is not in doubt.
    """
    stored = await read_overdue(jobs, key)
    return describe_doubt(jobs, stored.record, undecided_attempt(jobs, stored.record), await jobs.balance())


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


async def read_overdue(jobs: VideoJobs, key: str) -> StoredRecord:
    """Read a job\'s record; a submit in it that is overdue becomes in doubt."""
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


async def doubt_error(
    jobs: VideoJobs, record: JobRecord, number: int, cause: InDoubtError | None = None
) -> InDoubtError:
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


def _submitted_at(attempt: Attempt) -> datetime:
    """When the submit was sent; of a record that does not tell, the latest time before that it does tell."""
    known = attempt.times.get("submitting") or max(attempt.times.values(), default=datetime.fromtimestamp(0, UTC))
    return known if known.tzinfo else known.replace(tzinfo=UTC)


def undecided_attempt(jobs: VideoJobs, record: JobRecord, wanted: int | None = None) -> int:
    """Return the number of the attempt in doubt that a person means.

    Raises:
        InvalidTransitionError: No attempt is in doubt, several are, or another one than the given.
    """
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
