"""Wait for a Loova task: poll it at growing intervals, and store its end in the job record."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefect_loova._timing import POLL_SECONDS, Deadline
from prefect_loova.errors import (
    InvalidTransitionError,
    LoovaError,
    MissingVideoUrlError,
    TaskNotFoundError,
    UnexpectedResponseError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.handover import current_handover
from prefect_loova.models.attempts import AttemptFields, is_cost
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import Submission, VideoTask
from prefect_loova.store.records import StoredRecord

_UNUSABLE_POLLS = 3
"""How many polls in a row may find no task, or no URL, before the wait ends."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PollSchedule:
    """Poll often at first, and then less often in proportion to the time already waited.

    With the defaults, a generation of 3 hours takes about 90 polls, and the end of one of 10 minutes is noticed after
    15 s on average. Loova recommends about one poll a minute, for minutes to 3 hours (get-task-status).

    Args:
        first: The longest pause at the start, in seconds.
        growth: The longest pause as a fraction of the time already waited, if that is longer than `first`.
        jitter: The largest fraction by which a pause is shortened at random. A pause is never lengthened.
    """

    first: float = POLL_SECONDS
    growth: float = 0.07
    jitter: float = 0.5

    def pause(self, waited: float, chance: float | None = None) -> float:
        """Return the seconds until the next poll, after `waited` seconds. `chance` is a random number from 0 to 1."""
        chance = random.random() if chance is None else chance  # noqa: S311
        return max(self.first, self.growth * waited) * (1 - self.jitter * chance)


async def ignore_poll(waited: float, status: str) -> None:
    """Do nothing: the default for `on_poll`."""


async def wait_for_video(
    jobs: VideoJobs,
    submission: Submission,
    *,
    max_wait: float = MAX_WAIT,
    poll_seconds: float = POLL_SECONDS,
    on_poll: Callable[[float, str], Awaitable[None]] = ignore_poll,
) -> VideoTask:
    """Poll until the Loova task ends, and store the end in the record. A failed poll does not fail the video.

    Within `handed_over`, `save_video` stores the success of the task.

    Args:
        jobs: The API and the bucket.
        submission: The result of `submit_video`.
        max_wait: Seconds to wait in all. The last poll is after that time.
        poll_seconds: The longest first pause between polls, in seconds. Later pauses grow with the time waited.
        on_poll: Called after each poll of a running task with the seconds waited and Loova's status.

    Raises:
        TaskFailedError: The Loova task ended without a video.
        WaitTimeoutError: The task still runs. Call this again to wait longer.
        TaskNotFoundError: Loova does not know the task. The record is unchanged.
        UnexpectedResponseError: The task succeeded, but Loova reports no URL. The record is unchanged.
        AuthenticationError: Loova does not accept the API key.
    """
    if submission.state != "submitted":
        return VideoTask(
            task_id=submission.task_id,
            state="succeeded",
            model=submission.model,
            credits_cost=submission.credits_cost,
            trace_id=submission.trace_id,
        )
    try:
        task = await _poll(jobs, submission, max_wait, PollSchedule(first=poll_seconds), on_poll)
        handover = current_handover()
        stored, _ = handover.take(submission.key)
        if stored is None or task.state == "failed":
            await record_end(jobs, submission, task, known=stored)
            return task
        handover.stored, handover.made = stored, task
        return task
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        # Cancelled, or a signal: Prefect raises an exception for SIGTERM in any task.
        log.warning(
            "Loova task %s: waiting was cancelled. Loova cannot cancel the task: it continues, and its credits are "
            "spent. Ask for the same request again to get the video",
            submission.task_id,
            extra={"cancelled": submission.task_id},
        )
        raise


async def _poll(
    jobs: VideoJobs,
    submission: Submission,
    max_wait: float,
    schedule: PollSchedule,
    on_poll: Callable[[float, str], Awaitable[None]],
) -> VideoTask:
    deadline = Deadline(max_wait, jobs.clock)
    unusable, status = 0, "submitted"
    failed: LoovaError | None = None
    if not submission.reused:
        await jobs.sleep(min(schedule.pause(0), deadline.left))
    while True:
        is_last = deadline.left <= 0
        try:
            task = await poll_once(jobs, submission.task_id)
        except (TaskNotFoundError, MissingVideoUrlError) as error:
            unusable += 1
            if unusable == _UNUSABLE_POLLS or is_last:
                raise
            log.warning("task %s: %s", submission.task_id, error)
        except UnexpectedResponseError as error:
            log.debug("task %s: a poll failed: %s", submission.task_id, error)
            status, failed = "no answer", error
        else:
            unusable, status, failed = 0, task.status or task.state, None
            if task.state != "running":
                log.debug("task %s: %s", task.task_id, status, extra={"ended": task.state})
                return task
        if is_last:
            raise _still_running(submission, deadline.waited, failed)
        pause = min(schedule.pause(deadline.waited), deadline.left)
        facts = {"task_id": submission.task_id, "waited": deadline.waited, "status": status, "pause": pause}
        log.debug("task %(task_id)s: %(status)s after %(waited).0f s, next poll in %(pause).0f s", facts, extra=facts)
        await on_poll(deadline.waited, status)
        await jobs.sleep(pause)


async def poll_once(jobs: VideoJobs, task_id: str) -> VideoTask:
    """Poll a Loova task once.

    Raises:
        MissingVideoUrlError: The task succeeded, but Loova reports no URL.
        LoovaError: As `LoovaClient.get_task`.
    """
    try:
        task = await jobs.loova.get_task(task_id)
    except LoovaError as error:
        error.credits_spent = "yes"
        raise
    if task.state == "succeeded" and task.video_url is None:
        raise MissingVideoUrlError(
            "Loova reports that the task succeeded, but no video_url; the job stays open",
            task_id=task_id,
            trace_id=task.trace_id,
            credits_spent="yes",
        )
    return task


def check_task(jobs: VideoJobs, record: JobRecord, submission: Submission) -> None:
    """Raise if the submission's attempt no longer has its task, because a person took the adoption back.

    Raises:
        InvalidTransitionError: The attempt does not have the task.
    """
    attempt = record.attempt(submission.attempt)
    if attempt.task_id != submission.task_id:
        raise InvalidTransitionError(
            f"{jobs.name(record)}: attempt {attempt.number} no longer holds task {submission.task_id}: its adoption "
            "was taken back. Ask for the same request again to get its current state",
            task_id=submission.task_id,
        )


async def record_end(
    jobs: VideoJobs, submission: Submission, task: VideoTask, *, known: StoredRecord | None = None
) -> StoredRecord:
    """Store the end of a task in the record, and return the record. `known` is the record as it was last seen.

    Raises:
        TaskFailedError: The task ended without a video.
        InvalidTransitionError: A person took the adoption of the task back.
    """
    is_moved = False

    def change(record: JobRecord) -> JobRecord:
        nonlocal is_moved
        check_task(jobs, record, submission)
        is_moved = record.attempt(submission.attempt).state == "submitted"
        return with_end(record, submission, task) if is_moved else record

    stored = await jobs.records.change(submission.key, change, known=known)
    if is_moved:
        notify_end(jobs, stored.record, submission.attempt)
    if task.state == "failed":
        if not stored.record.is_open:  # else the worker that ends the last attempt removes the entry
            await jobs.records.unindex(submission.key)
        raise jobs.failed(stored.record, submission.attempt)
    return stored


def with_end(record: JobRecord, submission: Submission, task: VideoTask) -> JobRecord:
    """Return the record with the end of a submitted attempt's task."""
    # The cost in the submit answer was early. Without a final cost, the larger of it and the price still counts.
    fields: AttemptFields = {"task_id": submission.task_id}
    if is_cost(task.credits_cost):
        fields["credits_cost"] = task.credits_cost
    else:
        fields["cost_is_early"] = True
    if task.state == "failed":
        fields["reason"] = task.error_message or task.status
        if task.content_refused:
            fields["content_refused"] = True
    return record.move("fail" if task.state == "failed" else "succeed", submission.attempt, **fields)


def notify_end(jobs: VideoJobs, record: JobRecord, number: int) -> None:
    """Report the end of an attempt's task, right after it was written."""
    attempt = record.attempt(number)
    jobs.notify("failed" if attempt.state == "failed" else "succeeded", record, number)
    if attempt.content_refused:
        jobs.notify("content_refused", record, number)
    if attempt.cost_difference:
        jobs.notify("cost_differs", record, number)


def _still_running(submission: Submission, waited: float, failed: LoovaError | None) -> WaitTimeoutError:
    problem = f"the task still ran after {waited:.0f} s"
    if failed is not None:
        problem = f"no poll showed after {waited:.0f} s whether the task still runs: {failed.why} ({failed.request})"
    return WaitTimeoutError(
        f"{problem}. Nothing is lost: ask for the same request again to wait longer",
        task_id=submission.task_id,
        trace_id=submission.trace_id,
        credits_spent="yes",
    )
