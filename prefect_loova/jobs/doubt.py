"""Jobs in doubt: a submit was sent, and its answer is lost.

Nothing here can find out whether such a submit was billed: Loova documents no idempotency key and no list of tasks. The
evidence (the time of the submit, the balance before and after) is shown to a person, and no code acts on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_loova._concurrency import map_bounded
from prefect_loova._timing import backoff
from prefect_loova.errors import InDoubtError, InvalidTransitionError, LoovaError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.keys import complete_key
from prefect_loova.models.attempts import Attempt, is_cost
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import JobInDoubt
from prefect_loova.store.records import RecordConflictError, StoredRecord, is_key

_CONCURRENT_READS = 16
_READ_TRIES = 6
_MOST_SEARCHED = 5_000
"""The most job records that are read to find what other jobs spent."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoubtReport:
    """The result of `find_doubts`.

    Attributes:
        in_doubt: The jobs that wait for a person, the oldest first.
        problems: The open jobs that could not be read, and may be in doubt too: key and reason.
    """

    in_doubt: list[JobInDoubt]
    problems: list[tuple[str, str]]


async def find_doubts(jobs: VideoJobs) -> DoubtReport:
    """Read all open jobs and return those that wait for a person. Overdue submits become in doubt.

    Raises:
        StorageError: The index of open jobs may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    problems: list[tuple[str, str]] = []
    balance = await jobs.balance()

    async def doubts_of(key: str) -> list[JobInDoubt]:
        try:
            stored = await jobs.records.read(key, denied_is_missing=False)
            if stored is None:
                return []
            record = (await expire_submission(jobs, stored)).record
            return [describe_doubt(jobs, record, doubt.number, balance) for doubt in record.doubts]
        except RecordConflictError:
            return []  # another worker is working on it
        except Exception as error:
            reason = redact(error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}")
            log.warning("cannot read job %s: %s", key, reason)
            problems.append((key, reason))
            return []

    by_job = await map_bounded(doubts_of, await jobs.records.list_open_keys(), _CONCURRENT_READS)
    doubts = await _with_other_jobs(jobs, [doubt for doubts in by_job for doubt in doubts])
    doubts.sort(key=lambda doubt: (doubt.submitted_at.isoformat(), doubt.key, doubt.attempt))
    return DoubtReport(doubts, sorted(problems))


async def job_in_doubt(jobs: VideoJobs, key: str) -> JobInDoubt:
    """Return one job that waits for a person, by its key or the beginning of its key.

    Raises:
        InvalidRequestError: No open job or several open jobs have a key with this beginning.
        InvalidTransitionError: The job is not in doubt.
    """
    stored = await read_overdue(jobs, key)
    doubt = describe_doubt(jobs, stored.record, undecided_attempt(jobs, stored.record), await jobs.balance())
    return (await _with_other_jobs(jobs, [doubt]))[0]


async def read_overdue(jobs: VideoJobs, key: str) -> StoredRecord:
    """Read a job's record. Overdue submits in it become in doubt."""
    key = await complete_key(jobs.records, key)
    for conflict in range(_READ_TRIES):
        try:
            return await expire_submission(jobs, await jobs.records.expect(key))
        except RecordConflictError:
            await jobs.sleep(backoff(conflict, first=0.1))
    raise jobs.records.conflict_error(key, _READ_TRIES)


async def expire_submission(jobs: VideoJobs, stored: StoredRecord) -> StoredRecord:
    """Mark each attempt as in doubt whose submit is overdue, which means that its worker has died.

    Raises:
        RecordConflictError: Another worker wrote the record in between.
    """
    record, after = stored.record, jobs.times.doubt_after
    overdue = [
        attempt.number
        for attempt in record.attempts
        if attempt.state == "submitting" and stored.age >= (attempt.post_timeout_seconds or 0) + after
    ]
    if not overdue:
        return stored
    reason = "the worker that submitted it has died"
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
    """Return the error for a person, with the evidence and the commands that decide.

    `cause` is the error of the submit, if this run lost the answer.
    """
    job = describe_doubt(jobs, record, number, None if cause else await jobs.balance())
    return InDoubtError(
        f"{jobs.name(record)} is in doubt: attempt {job.attempt} was submitted at {job.when}, and the answer is lost "
        f"({cause.message if cause else job.reason}). Up to {job.credits_estimate:g} credits may be spent. "
        f"{job.evidence}",
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
    """Return the facts about an attempt in doubt."""
    attempt = record.attempt(number)
    return JobInDoubt(
        key=record.key,
        attempt=attempt.number,
        record=jobs.records.uri(jobs.records.record_key(record.key)),
        place=jobs.location_arguments,
        prompt=str(record.request.get("prompt", "")),
        model=str(record.request.get("model", "")),
        submitted_at=_submitted_at(attempt),
        reason=attempt.reason,
        trace_id=attempt.trace_id,
        credits_estimate=attempt.credits_estimate,
        credits_before=attempt.credits_before,
        credits_after=attempt.credits_after,
        credits_now=credits_now,
        balance_at=_balance_at(jobs, attempt, credits_now),
    )


def _balance_at(jobs: VideoJobs, attempt: Attempt, credits_now: float | None) -> datetime | None:
    """Return when the balance after the submit was read: with the doubt, or else now, or never."""
    if attempt.credits_after is not None:
        return attempt.times.get("in_doubt")
    return None if credits_now is None else datetime.fromtimestamp(jobs.wall(), UTC)


async def _with_other_jobs(jobs: VideoJobs, doubts: Sequence[JobInDoubt]) -> list[JobInDoubt]:
    """Add what other jobs spent between the balances before and after each submit, by all records of this prefix.

    It is left out if the records may not be listed, or if they are too many.
    """
    if not doubts:
        return []
    spent: list[tuple[datetime, str, float]] = []

    async def read(key: str) -> None:
        stored = await jobs.records.read(key)
        for attempt in stored.record.attempts if stored else ():
            at = attempt.times.get("submitting")
            if at is not None and attempt.task_id is not None:
                cost = attempt.credits_cost if is_cost(attempt.credits_cost) else attempt.credits_estimate
                spent.append((at, key, cost))

    try:
        keys = [name for name in await jobs.records.list_folders() if is_key(name)]
        if len(keys) > _MOST_SEARCHED:
            log.info("%d job records are not searched for what other jobs spent", len(keys))
            return list(doubts)
        await map_bounded(read, keys, _CONCURRENT_READS)
    except LoovaError as error:
        log.debug("cannot find what other jobs spent: %s", error)
        return list(doubts)

    def counted(doubt: JobInDoubt) -> JobInDoubt:
        until = doubt.balance_at or doubt.submitted_at
        costs = [cost for at, key, cost in spent if key != doubt.key and doubt.submitted_at <= at <= until]
        return doubt.model_copy(update={"other_jobs": len(costs), "other_credits": sum(costs)})

    return [counted(doubt) for doubt in doubts]


def _submitted_at(attempt: Attempt) -> datetime:
    """Return the time of the submit, or the latest known time if the record does not have it."""
    known = attempt.times.get("submitting") or max(attempt.times.values(), default=datetime.fromtimestamp(0, UTC))
    return known if known.tzinfo else known.replace(tzinfo=UTC)


def undecided_attempt(jobs: VideoJobs, record: JobRecord, wanted: int | None = None) -> int:
    """Return the number of the attempt in doubt: the wanted one, or the only one.

    Raises:
        InvalidTransitionError: No attempt is in doubt, several are, or the wanted one is not.
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
