"""Buy one video, once: the paid POST and the two writes of the job record around it.

The record says `submitting` before the POST and has the task id right after it. A worker that finds `submitting` never
assumes that the POST was or was not sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Unpack

from prefect_loova._cancellation import run_uncancelled
from prefect_loova._signals import defer_sigterm
from prefect_loova._timing import Deadline, backoff
from prefect_loova.errors import (
    AbandonedError,
    ContentRefusedError,
    InDoubtError,
    InputRefusedError,
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
from prefect_loova.jobs.handover import Handover, current_handover
from prefect_loova.jobs.media_delivery import SubmitPayload, deliver_media
from prefect_loova.models.attempts import PURCHASED, AttemptFields
from prefect_loova.models.job_record import JobRecord, with_purchase
from prefect_loova.models.job_states import JobState, MoveName
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission, VideoTask
from prefect_loova.store.records import RecordConflictError, StoredRecord

_PURCHASE_TRIES = 8
_CLAIMS: dict[JobState, MoveName] = {"claimed": "take_over", "rejected": "claim_again", "failed": "buy_again"}
_FREE_CONFLICTS = 3
"""How many conflicts in a row are retried even after the deadline, to find the purchase of the other worker."""
_PAYLOAD_SECONDS = 60.0
"""Seconds after which the media are checked again."""

log = logging.getLogger(__name__)


async def submit_video(
    jobs: VideoJobs, request: VideoRequest, *, max_wait: float = MAX_WAIT, max_paid_attempts: int = 1
) -> Submission:
    """Buy the video, or find an existing purchase.

    Args:
        jobs: The API and the bucket.
        request: The request. `MediaPreparer` makes the content of its media known first.
        max_wait: Seconds to wait for a free slot at Loova or for another worker with the same request.
        max_paid_attempts: How many times this request may be bought if Loova fails to make the video.

    Raises:
        InvalidRequestError: The request is invalid; nothing was sent.
        StorageError: The bucket cannot hold a job record.
        BudgetError: The request exceeds the day's budget; nothing was sent.
        RejectedError: Loova refused the request; nothing was bought.
        ContentRefusedError: Loova refused the content, now or earlier, and that of the fallback prompt if there is one.
        InDoubtError: The video may be bought. A person has to decide.
        TaskFailedError: The video was bought before, and Loova failed to make it.
        AbandonedError: A person gave the job up.
        WaitTimeoutError: Another worker is still submitting the request.
    """
    jobs.loova.check(request)
    deadline = Deadline(max_wait, jobs.clock)
    await jobs.records.check_bucket()
    refusals, conflicts, checked_at = 0, 0, 0.0
    payload: SubmitPayload | None = None
    handover = current_handover()
    while True:
        stored = await _look(jobs, request, handover)
        key = stored.record.key if stored else request.key
        if stored is not None and stored.record.state in PURCHASED:
            return await _reuse(jobs, stored, handover, may_be_indexed=conflicts > 0)
        try:
            # Before the media check, so that no problem with the media hides a doubt.
            if stored is None or await _is_claimable(jobs, stored, max_paid_attempts):
                # Before the claim, so that a problem with the media leaves no job behind.
                if payload is None or jobs.clock() - checked_at > _PAYLOAD_SECONDS:
                    payload = await deliver_media(jobs, request, max_wait=max_wait, is_repeated=payload is not None)
                    checked_at = jobs.clock()
                claimed, stored = await _claim(jobs, request, stored, max_paid_attempts)
                stop = asyncio.Event()
                with defer_sigterm(stop.set):
                    buying = _buy(jobs, payload, claimed, stored, stop)
                    stored = await run_uncancelled(buying, partial(_stop_submit, stop))
                handover.stored = stored
                return jobs.submission(stored.record, reused=False)
            late: LoovaError = _held_by_another_worker(jobs, stored.record)
            pause = jobs.times.look_again
        except RecordConflictError:
            conflicts += 1
            late, pause = jobs.records.conflict_error(key, conflicts), backoff(conflicts - 1, most=30.0)
            if conflicts <= _FREE_CONFLICTS:
                await jobs.sleep(min(pause, jobs.times.look_again))
                continue
        except TooManyRunningTasksError as refusal:
            late, pause = refusal, min(backoff(refusals, first=5.0, most=60.0), deadline.left)
            refusals += 1
            log.info("Loova has no free slot; retrying in %.0f s, for at most %.0f s", pause, deadline.left)
        except SuspendedError as suspended:
            late, pause = suspended, jobs.times.look_again
            log.warning("%s: %s; retrying", key, suspended)
        except (RejectedError, ContentRefusedError, NotSentError) as refusal:
            await jobs.records.unindex(key)
            if request.fallback is None or not isinstance(refusal, ContentRefusedError):
                raise
            log.warning("%s; now with its fallback_prompt", refusal)
            request, payload = request.fallback, None
            continue
        if deadline.left <= 0:
            if isinstance(late, RejectedError | NotSentError):
                await jobs.records.unindex(key)
            raise late
        await jobs.sleep(min(pause, deadline.left))


async def _look(jobs: VideoJobs, request: VideoRequest, handover: Handover) -> StoredRecord | None:
    """Return the record as this process read it last, or read it."""
    is_new, handover.is_new = handover.is_new, False
    stored, _ = handover.take(request.key, request.former_key)
    return stored if is_new or stored is not None else await find_record(jobs.records, request)


async def _reuse(jobs: VideoJobs, stored: StoredRecord, handover: Handover, *, may_be_indexed: bool) -> Submission:
    """Return an earlier purchase. `may_be_indexed`: this worker has indexed the job, and then lost the claim."""
    if may_be_indexed and not stored.record.is_open:
        await jobs.records.unindex(stored.record.key)
    handover.stored = stored
    return jobs.submission(stored.record, reused=True)


async def _is_claimable(jobs: VideoJobs, stored: StoredRecord, max_paid_attempts: int) -> bool:
    """Return whether this worker may claim the job. It may not while another worker may have it.

    Raises:
        LoovaError: The job is in doubt or given up, or was bought `max_paid_attempts` times.
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
        raise AbandonedError(f"{jobs.name(record)} was given up; ask for another take to get the video after all")
    if record.state == "claimed" and stored.age < jobs.times.take_over_after:
        return False
    if not record.may_buy(max_paid_attempts):
        raise jobs.failed(record)
    return True


def _held_by_another_worker(jobs: VideoJobs, record: JobRecord) -> WaitTimeoutError:
    seconds = (record.current.post_timeout_seconds or jobs.loova.submit_timeout) + jobs.times.doubt_after
    return WaitTimeoutError(
        "another worker is submitting the same request. If that worker has died, the job is free or in doubt within "
        f"{seconds:.0f} s: run this again then",
        credits_spent="maybe",
    )


async def _claim(
    jobs: VideoJobs, request: VideoRequest, stored: StoredRecord | None, max_paid_attempts: int
) -> tuple[JobRecord, StoredRecord | None]:
    """Claim the job at today's price, within the budget.

    Returns:
        The claimed record, and the same as it is stored, or None: the first claim of a request is written together
        with `submitting`.
    """
    await close_former_key(jobs.records, request, stored, jobs.sleep)
    price = request.estimate_credits(jobs.loova.models)
    by = jobs.by | ({"label": request.label} if request.label else {})
    if stored is None:
        day = await jobs.budget.reserve(request.key, 1, 0, price)
        return JobRecord.claimed(request, jobs.loova.origin, by, budget_day=day, credits_estimate=price), None
    move = partial(
        stored.record.move,
        _CLAIMS[stored.record.state],
        max_paid_attempts=max_paid_attempts,
        by=by,
        credits_estimate=price,
    )
    attempt = move().current
    day = await jobs.budget.reserve(stored.record.key, attempt.number, attempt.refusals, price)
    stored = await jobs.records.advance(stored, move(budget_day=day))
    # After the claim, because the worker that ended the job may unindex it late.
    await jobs.records.index(stored.record)
    return stored.record, stored


def _stop_submit(stop: asyncio.Event) -> None:
    stop.set()
    log.warning("cancelled during a submit: waiting for its answer, so that it is not lost")


async def _buy(
    jobs: VideoJobs, payload: SubmitPayload, claimed: JobRecord, stored: StoredRecord | None, stop: asyncio.Event
) -> StoredRecord:
    """Send the one paid POST, between the two writes of the record."""
    number = claimed.current.number
    seconds = jobs.loova.submit_seconds(payload.files)
    stored, age = await _begin(jobs, claimed, stored, seconds, await jobs.balance())
    try:
        if stop.is_set():
            raise NotSentError("cancelled before the submit was sent; nothing was bought")
        # Connecting may take longer than `fresh_for`. No worker doubts the job within the POST's own timeout.
        task = await jobs.loova.submit_video(payload.request, payload.files, is_fresh=lambda: age() <= seconds)
    except (RejectedError, NotSentError) as error:
        refused: AttemptFields = {"content_refused": True} if isinstance(error, InputRefusedError) else {}
        record = await _record_answer(jobs, stored, number, "refused", error, **refused)
        if record.attempt(number).content_refused:
            jobs.notify("content_refused", record, number)
        raise
    except InDoubtError as error:
        record = await _record_answer(jobs, stored, number, "doubt", error, credits_after=await jobs.balance())
        if record.attempt(number).state == "in_doubt":
            jobs.notify("in_doubt", record, number)
        raise await doubt_error(jobs, record, number, error) from None
    # Logged before the write, in case S3 is slow or down.
    log.info("Loova task %s is bought", task.task_id, extra={"bought": task.task_id})
    stored = await _record_purchase(jobs, stored, number, task)
    if stop.is_set():
        log.warning(
            "the cancelled submit bought the video and recorded it: ask for the same request again",
            extra={"cancelled": task.task_id},
        )
    return stored


async def _begin(
    jobs: VideoJobs, claimed: JobRecord, stored: StoredRecord | None, seconds: float, balance: float | None
) -> tuple[StoredRecord, Callable[[], float]]:
    """Write `submitting`. Return the record, and a function that returns the age of this write in seconds."""
    number = claimed.current.number
    tries = 0
    while True:
        age = _stopwatch(jobs)
        record = claimed.move("begin", number, post_timeout_seconds=seconds, credits_before=balance)
        if stored is None:
            await jobs.records.index(record)
            stored = await jobs.records.create(record)
        else:
            stored = await jobs.records.advance(stored, record)
        took = age()
        if took > jobs.times.forget_after / 2:
            await jobs.records.index(record)  # a collector may have removed such an old entry
        if took <= jobs.times.fresh_for:
            return stored, age
        tries += 1
        if tries == _PURCHASE_TRIES:
            slow = StorageError(f"{jobs.name(record)}: S3 is too slow to submit safely", transient=True)
            await _record_answer(jobs, stored, number, "refused", slow)
            raise slow
        log.warning("S3 took over %.0f s to write the job record; writing it again (%d)", jobs.times.fresh_for, tries)
        claimed = stored.record


def _stopwatch(jobs: VideoJobs) -> Callable[[], float]:
    """Return a function that returns the seconds since now, by the clock that shows more of them."""
    clock, wall = jobs.clock(), jobs.wall()
    return lambda: max(jobs.clock() - clock, jobs.wall() - wall)


async def _record_answer(
    jobs: VideoJobs,
    stored: StoredRecord,
    number: int,
    move: MoveName,
    error: LoovaError,
    **fields: Unpack[AttemptFields],
) -> JobRecord:
    """Record a refused or lost submit. A failure of S3 is only logged, because the caller raises `error`."""
    tried = stored.record.attempt(number).refusals
    answer: AttemptFields = {
        "reason": error.why,
        "refusals": tried + (move == "refused"),
        "trace_id": error.trace_id,
        **fields,
    }

    def change(record: JobRecord) -> JobRecord:
        if record.attempt(number).refusals != tried:
            return record  # recorded already, and another worker may be retrying the attempt
        try:
            return record.move(move, number, **answer)
        except InvalidTransitionError:
            return record

    try:
        return (await jobs.records.change(stored.record.key, change, known=stored)).record
    except StorageError as failure:
        log.error("%s: could not write the record (%s)", jobs.name(stored.record), failure)
        return stored.record


async def _record_purchase(jobs: VideoJobs, stored: StoredRecord, number: int, task: VideoTask) -> StoredRecord:
    """Make the task id durable, whatever state the record is in by now."""
    before = stored.record
    # A worker that ended an earlier try of this attempt may have unindexed the job.
    may_be_unindexed = number > 1 or before.attempt(number).refusals > 0

    def change(record: JobRecord) -> JobRecord:
        nonlocal may_be_unindexed
        may_be_unindexed = may_be_unindexed or record is not before
        return with_purchase(record, number, task.task_id, trace_id=task.trace_id, credits_cost=task.credits_cost)

    for tries in range(_PURCHASE_TRIES):
        try:
            bought = await jobs.records.change(before.key, change, known=stored)
            break
        except StorageError as error:
            failure = error
            log.error("task %s is paid for, but S3 does not store its id (%s); retrying", task.task_id, error)
            await jobs.sleep(backoff(tries, first=1.0))
    else:
        message = (
            f"Loova accepted the job, but S3 does not store its task id: keep it. {jobs.name(stored.record)} will be "
            f"in doubt; resolve it with `adopt {task.task_id}`. S3 error: {failure.message}"
        )
        log.error("%s (task %s)", message, task.task_id)
        raise StorageError(message, task_id=task.task_id, trace_id=task.trace_id, credits_spent="yes")
    record = bought.record
    attempt = next(one for one in record.attempts if one.task_id == task.task_id)
    jobs.notify("submitted", record, attempt.number)
    if may_be_unindexed:
        try:
            await jobs.records.index(record)
        except StorageError as error:
            missing = "may be missing from the index of open jobs, so collectors may not find it"
            log.error("%s %s; ask for the same request again: %s", jobs.name(record), missing, error)
    return bought
