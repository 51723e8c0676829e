"""Buy one video, once: the paid POST and the two writes of the job record that guard it.

The record says `submitting` before the POST and holds the task id right after it; between the two nobody guesses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from prefect_loova._cancellation import run_uncancelled
from prefect_loova._signals import defer_sigterm
from prefect_loova._timing import Deadline, backoff
from prefect_loova.errors import (
    AbandonedError,
    InDoubtError,
    InvalidTransitionError,
    LoovaError,
    NotSentError,
    RejectedError,
    StorageError,
    SuspendedError,
    TooManyRunningTasksError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.doubt import doubt_error, expire_submission
from prefect_loova.jobs.former_keys import close_former_key, find_record
from prefect_loova.jobs.media_delivery import SubmitPayload, deliver_media
from prefect_loova.models.job_record import PURCHASED, JobRecord, with_purchase
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from prefect_loova.models.transitions import JobState, MoveName
from prefect_loova.store.records import RecordConflictError, StoredRecord

_PURCHASE_TRIES = 8
_CLAIMS: dict[JobState, MoveName] = {"claimed": "take_over", "rejected": "claim_again", "failed": "buy_again"}
_CONFLICTS_AT_ONCE = 3
"""After so many conflicts in a row the deadline counts; before, one more look tells who was faster."""
_DELIVERY_SECONDS = 60.0
"""For how long a look at the media is good."""

log = logging.getLogger(__name__)
T = TypeVar("T")


async def submit_video(
    jobs: VideoJobs, request: VideoRequest, *, max_wait: float = MAX_WAIT, max_paid_attempts: int = 1
) -> Submission:
    """Buy the video, or find the purchase that somebody made already.

    Args:
        jobs: The API and the bucket.
        request: The video to be made; `preparing` makes it one whose media are known.
        max_wait: Seconds to wait for a free place at Loova or for another worker on the same request.
        max_paid_attempts: How often this request may be bought in all, when Loova fails to make it.

    Raises:
        InvalidRequestError: Refused before anything was sent.
        StorageError: The bucket cannot carry a job record.
        BudgetError: It would go over the day's budget; nothing was sent.
        RejectedError: Loova said no; nothing was bought.
        InDoubtError: It may have been bought; a person decides.
        TaskFailedError: It was bought before, and Loova could not make it.
        AbandonedError: A person gave it up.
        WaitTimeoutError: Another worker is still at it.
    """
    jobs.loova.check(request)
    deadline = Deadline(max_wait, jobs.clock)
    await jobs.records.check_conditional_writes()
    refusals, conflicts, delivered = 0, 0, 0.0
    delivery: SubmitPayload | None = None
    while True:
        stored = await find_record(jobs.records, request)
        key = stored.record.key if stored else request.key
        if stored is not None and stored.record.state in PURCHASED:
            return jobs.submission(stored.record, reused=True)
        try:
            # Before the media, so that nothing that is wrong with them hides a job in doubt.
            if stored is None or await _is_claimable(jobs, stored, max_paid_attempts):
                # Before the claim, because what is wrong with the media must leave no job behind.
                if delivery is None or jobs.clock() - delivered > _DELIVERY_SECONDS:
                    told = delivery is not None
                    delivery, delivered = await deliver_media(jobs, request, max_wait=max_wait, told=told), jobs.clock()
                claim = await _claim(jobs, request, stored, max_paid_attempts)
                record = await _run_uncancelled(partial(_buy, jobs, delivery, claim))
                return jobs.submission(record, reused=False)
            late: LoovaError = _held_by_another_worker(jobs, stored.record)
            pause = jobs.times.look_again
        except RecordConflictError:
            conflicts += 1
            late, pause = jobs.records.conflict_error(key, conflicts), backoff(conflicts - 1, most=30.0)
            if conflicts <= _CONFLICTS_AT_ONCE:
                await jobs.sleep(min(pause, jobs.times.look_again))
                continue
        except TooManyRunningTasksError as refusal:
            late, pause = refusal, min(backoff(refusals, first=5.0, most=60.0), deadline.left)
            refusals += 1
            log.info("Loova has no free place; asking again in %.0f s, for %.0f s at most", pause, deadline.left)
        except SuspendedError as stopped:
            late, pause = stopped, jobs.times.look_again
            log.warning("%s: %s; beginning again", key, stopped)
        except (RejectedError, NotSentError):
            await jobs.records.unindex(key)
            raise
        if deadline.left <= 0:
            if isinstance(late, RejectedError | NotSentError):
                await jobs.records.unindex(key)
            raise late
        await jobs.sleep(min(pause, deadline.left))


async def _is_claimable(jobs: VideoJobs, stored: StoredRecord, max_paid_attempts: int) -> bool:
    """Whether a job that is not bought may be claimed: not while another worker may have it.

    Raises:
        LoovaError: It is in doubt, was given up, or has failed as often as it may be bought.
    """
    if stored.record.submitting_attempt is not None:
        stored = await expire_submission(jobs, stored)
        if stored.record.submitting_attempt is not None:
            return False
    record = stored.record
    doubt = record.undecided or (record.current if record.state == "in_doubt" else None)
    if doubt is not None:
        raise await doubt_error(jobs, record, doubt.number)
    if any(attempt.state == "abandoned" for attempt in record.attempts):
        raise AbandonedError(f"{jobs.name(record)} was given up; ask for another take to have the video after all")
    if record.state == "claimed" and stored.age < jobs.times.take_over_after:
        return False
    if not record.may_buy(max_paid_attempts):
        raise jobs.failed(record)
    return True


def _held_by_another_worker(jobs: VideoJobs, record: JobRecord) -> WaitTimeoutError:
    seconds = (record.current.post_timeout_seconds or jobs.loova.submit_timeout) + jobs.times.doubt_after
    return WaitTimeoutError(
        "another worker is submitting the same request. If it is dead, the job is in doubt, or free again, within "
        f"{seconds:.0f} s: run this again",
        credits_spent="maybe",
    )


async def _claim(
    jobs: VideoJobs, request: VideoRequest, stored: StoredRecord | None, max_paid_attempts: int
) -> StoredRecord:
    """The right to buy what is free, at the price of today."""
    await close_former_key(jobs.records, request, stored, jobs.sleep)
    price = request.estimate_credits()
    if stored is None:
        day = await jobs.budget.reserve(request.key, 1, 0, price)
        record = JobRecord.claimed(request, jobs.loova.origin, jobs.by, budget_day=day)
        before = jobs.clock(), jobs.wall()
        await jobs.records.index(record)
        stored = await jobs.records.create(record)
        if max(jobs.clock() - before[0], jobs.wall() - before[1]) > jobs.times.forget_after / 2:
            await jobs.records.index(record)  # a collector may have forgotten an entry that old
        return stored
    move: MoveName = _CLAIMS[stored.record.state]
    facts: dict[str, Any] = {"max_paid_attempts": max_paid_attempts, "by": jobs.by, "credits_estimate": price}
    attempt = stored.record.move(move, **facts).current
    day = await jobs.budget.reserve(stored.record.key, attempt.number, attempt.refusals, price)
    stored = await jobs.records.advance(stored, stored.record.move(move, budget_day=day, **facts))
    # After the claim, because whoever ended the job before may only now take it out of the index.
    await jobs.records.index(stored.record)
    return stored


async def _buy(jobs: VideoJobs, delivery: SubmitPayload, stored: StoredRecord, stop: asyncio.Event) -> JobRecord:
    """The one paid POST, between the two writes that guard it."""
    number = stored.record.current.number
    seconds = jobs.loova.submit_seconds(delivery.files)
    stored, is_fresh = await _begin(jobs, stored, number, seconds, await jobs.balance())
    try:
        if stop.is_set():
            raise NotSentError("cancelled before the submit was sent; nothing was bought")
        task = await jobs.loova.submit_video(delivery.request, delivery.files, is_fresh=is_fresh)
    except (RejectedError, NotSentError) as error:
        await _record_answer(jobs, stored, number, "refused", error)
        raise
    except InDoubtError as error:
        record = await _record_answer(jobs, stored, number, "doubt", error, credits_after=await jobs.balance())
        if record.attempt(number).state == "in_doubt":
            jobs.notify("in_doubt", record, number)
        raise await doubt_error(jobs, record, number, error) from None
    # Told before it is written: if S3 is slow or down, the log has it.
    log.info("Loova task %s is bought", task.task_id)
    facts = {"trace_id": task.trace_id, "credits_cost": task.credits_cost}
    record = await _record_purchase(jobs, stored, number, task.task_id, facts)
    if stop.is_set():
        log.warning("the cancelled submit bought the video and recorded it: ask for the same request again")
    return record


async def _begin(
    jobs: VideoJobs, stored: StoredRecord, number: int, seconds: float, balance: float | None
) -> tuple[StoredRecord, Callable[[], bool]]:
    """Write `submitting`; returns whether it is still so young that the POST may leave."""
    facts: dict[str, Any] = {"post_timeout_seconds": seconds, "credits_before": balance, "by": jobs.by}
    for attempt in range(_PURCHASE_TRIES):
        before = jobs.clock(), jobs.wall()

        def age(before: tuple[float, float] = before) -> float:
            return max(jobs.clock() - before[0], jobs.wall() - before[1])

        stored = await jobs.records.advance(stored, stored.record.move("begin", number, **facts))
        if age() <= jobs.times.fresh_for:
            # Connecting may take longer than that. While the POST's own time runs, nobody doubts the job.
            return stored, lambda: age() <= seconds
        log.warning("S3 took over %.0f s to write the job record; writing it again (%d)", jobs.times.fresh_for, attempt)
    slow = StorageError(f"{jobs.name(stored.record)}: S3 is too slow to submit safely", transient=True)
    await _record_answer(jobs, stored, number, "refused", slow)
    raise slow


async def _record_answer(
    jobs: VideoJobs, stored: StoredRecord, number: int, move: MoveName, error: LoovaError, **facts: Any
) -> JobRecord:
    """Write what the answer to a submit was, when it bought nothing or nobody knows; the error goes before S3's."""
    tried = stored.record.attempt(number).refusals

    def change(record: JobRecord) -> JobRecord:
        if record.attempt(number).refusals != tried:
            return record  # noted already, and perhaps tried again by another worker: that try is not ours
        refusals = tried + (move == "refused")
        try:
            return record.move(move, number, reason=error.why, refusals=refusals, trace_id=error.trace_id, **facts)
        except InvalidTransitionError:
            return record

    try:
        return (await _advance_or_change(jobs, stored, change)).record
    except StorageError as failure:
        log.error("%s: the record could not be moved on (%s)", jobs.name(stored.record), failure)
        return stored.record


async def _record_purchase(
    jobs: VideoJobs, stored: StoredRecord, number: int, task_id: str, facts: dict[str, Any]
) -> JobRecord:
    """Make the task id durable, whatever happened to the record meanwhile."""
    began = stored.record
    # Whoever ended an earlier try, or gave this one up, may have taken the job out of the index meanwhile.
    may_be_unlisted = number > 1 or began.attempt(number).refusals > 0

    def change(record: JobRecord) -> JobRecord:
        nonlocal may_be_unlisted
        may_be_unlisted = may_be_unlisted or record is not began
        return with_purchase(record, number, task_id, **facts)

    for attempt in range(_PURCHASE_TRIES):
        try:
            noted = await _advance_or_change(jobs, stored, change)
            bought = next(attempt for attempt in noted.record.attempts if attempt.task_id == task_id)
            jobs.notify("submitted", noted.record, bought.number)
            if may_be_unlisted:
                await _index_again(jobs, noted.record)
            return noted.record
        except StorageError as error:
            failure = error
            log.error("task %s is paid for, but S3 does not take its id (%s); trying again", task_id, error)
            await jobs.sleep(backoff(attempt, first=1.0))
    message = (
        f"Loova took the job, but S3 does not take its task id: keep it. {jobs.name(stored.record)} will be in "
        f"doubt; resolve it with `adopt {task_id}`. S3 said: {failure.message}"
    )
    log.error("%s (task %s)", message, task_id)
    raise StorageError(message, task_id=task_id, trace_id=facts.get("trace_id"), credits_spent="yes")


async def _index_again(jobs: VideoJobs, record: JobRecord) -> None:
    """Put a durable purchase into the index of open jobs; where S3 does not take it, the record still has it."""
    try:
        await jobs.records.index(record)
    except StorageError as error:
        log.error(
            "%s may be missing in the index of open jobs (%s), so collectors may not see it; ask for the same request "
            "again",
            jobs.name(record),
            error,
        )


async def _advance_or_change(
    jobs: VideoJobs, stored: StoredRecord, change: Callable[[JobRecord], JobRecord]
) -> StoredRecord:
    try:
        return await jobs.records.advance(stored, change(stored.record))
    except RecordConflictError:
        return await jobs.records.change(stored.record.key, change)


async def _run_uncancelled(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run what must not be cut in the middle; a cancellation waits for its end, then goes on."""
    stop = asyncio.Event()

    def cancelled() -> None:
        stop.set()
        log.warning("cancelled during a submit: waiting for its answer, so that it is not lost")

    with defer_sigterm(stop.set):
        return await run_uncancelled(work(stop), cancelled)
