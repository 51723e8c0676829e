"""Wait for a Loova task: poll it ever less often, and note its end in the job record."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from prefect_loova._timing import Deadline, PollSchedule
from prefect_loova.errors import (
    InvalidTransitionError,
    LoovaError,
    MissingVideoUrlError,
    TaskNotFoundError,
    UnexpectedResponseError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.models.job_record import JobRecord, is_cost
from prefect_loova.models.results import Submission, VideoTask
from prefect_loova.models.transitions import MoveName

_ODD_LOOKS = 3

log = logging.getLogger(__name__)


async def ignore_poll(waited: float, status: str) -> None:
    """Nobody wants to know how a wait goes on."""


async def wait_for_video(
    jobs: VideoJobs,
    submission: Submission,
    *,
    max_wait: float = MAX_WAIT,
    poll_seconds: float = 20.0,
    on_poll: Callable[[float, str], Awaitable[None]] = ignore_poll,
) -> VideoTask:
    """Poll until the Loova task ends, and note the end in the record. A failed poll is not a failed video.

    Args:
        jobs: The API and the bucket.
        submission: What `submit_video` returned.
        max_wait: Seconds to wait in all; one last look is taken when they are over.
        poll_seconds: The longest first pause between polls, in seconds; later ones grow with the time waited.
        looked: Hears of each look at a task that has not ended: the seconds waited, and what Loova said.

    Raises:
        TaskFailedError: Loova ended the task without a video.
        WaitTimeoutError: It still runs; calling again goes on waiting.
        TaskNotFoundError: Loova does not know the task. The record stays as it is.
        UnexpectedResponseError: It succeeded, but Loova shows no URL. The record stays as it is.
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
        return await _poll(jobs, submission, max_wait, PollSchedule(first=poll_seconds), on_poll)
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        # Cancelled, or a signal: Prefect raises its own exception wherever SIGTERM strikes.
        log.warning(
            "Loova task %s: waiting was cancelled. Loova has no cancel: the task goes on, and its credits are spent. "
            "Ask for the same request again to have the video",
            submission.task_id,
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
    odd, seen = 0, "submitted"
    failed: LoovaError | None = None
    if not submission.reused:
        await jobs.sleep(min(schedule.pause(0), deadline.left))
    while True:
        last_look = deadline.left <= 0
        try:
            task = await poll_once(jobs, submission.task_id)
        except (TaskNotFoundError, MissingVideoUrlError) as error:
            odd += 1
            if odd == _ODD_LOOKS or last_look:
                raise
            log.warning("task %s: %s", submission.task_id, error)
        except UnexpectedResponseError as error:
            log.debug("task %s: a look failed: %s", submission.task_id, error)
            seen, failed = "no answer", error
        else:
            odd, seen, failed = 0, task.status or task.state, None
            if task.state != "running":
                log.debug("task %s: %s", task.task_id, seen, extra={"ended": task.state})
                return await record_end(jobs, submission, task)
        if last_look:
            raise _still_running(submission, deadline.waited, failed)
        pause = min(schedule.pause(deadline.waited), deadline.left)
        facts = {"task_id": submission.task_id, "waited": deadline.waited, "status": seen, "pause": pause}
        log.debug("task %(task_id)s: %(status)s after %(waited).0f s, next look in %(pause).0f s", facts, extra=facts)
        await on_poll(deadline.waited, seen)
        await jobs.sleep(pause)


async def poll_once(jobs: VideoJobs, task_id: str) -> VideoTask:
    """Look at a Loova task once; a success without a URL is an error, for there is no video in it."""
    try:
        task = await jobs.loova.get_task(task_id)
    except LoovaError as error:
        error.credits_spent = "yes"
        raise
    if task.state == "succeeded" and task.video_url is None:
        raise MissingVideoUrlError(
            "Loova says that the task succeeded, but shows no video_url; the job stays open",
            task_id=task_id,
            trace_id=task.trace_id,
            credits_spent="yes",
        )
    return task


def check_task(jobs: VideoJobs, record: JobRecord, submission: Submission) -> None:
    """Refuse to go on with a task that is no longer its attempt's, because a person took its adoption back.

    Raises:
        InvalidTransitionError: It is not.
    """
    attempt = record.attempt(submission.attempt)
    if attempt.task_id != submission.task_id:
        raise InvalidTransitionError(
            f"{jobs.name(record)}: attempt {attempt.number} does not hold task {submission.task_id} any more: its "
            "adoption was taken back. Ask for the same request again to see how it is now",
            task_id=submission.task_id,
        )


async def record_end(jobs: VideoJobs, submission: Submission, task: VideoTask) -> VideoTask:
    """Note in the record what a poll showed as the end of a task.

    Raises:
        TaskFailedError: It ended without a video.
        InvalidTransitionError: A person took the adoption of the task back.
    """
    # The cost that the submit named was early: without a final one, the larger of it and the price goes on counting.
    facts: dict[str, Any] = {"cost_is_early": True}
    if is_cost(task.credits_cost):
        facts = {"credits_cost": task.credits_cost}
    if task.state == "failed":
        facts["reason"] = task.error_message or task.status

    moved = False

    def change(record: JobRecord) -> JobRecord:
        nonlocal moved
        check_task(jobs, record, submission)
        moved = record.attempt(submission.attempt).state == "submitted"
        if not moved:
            return record
        end: MoveName = "fail" if task.state == "failed" else "succeed"
        return record.move(end, submission.attempt, task_id=submission.task_id, **facts)

    stored = await jobs.records.change(submission.key, change)
    if moved:
        jobs.notify("failed" if task.state == "failed" else "succeeded", stored.record, submission.attempt)
    if task.state == "failed":
        await jobs.records.unindex(submission.key)
        raise jobs.failed(stored.record, submission.attempt)
    return task


def _still_running(submission: Submission, waited: float, failed: LoovaError | None) -> WaitTimeoutError:
    happened = f"the task still ran after {waited:.0f} s"
    if failed is not None:
        happened = f"whether the task still runs is not known after {waited:.0f} s: {failed.why} ({failed.request})"
    return WaitTimeoutError(
        f"{happened}. Nothing is lost: ask for the same request again to go on waiting",
        task_id=submission.task_id,
        trace_id=submission.trace_id,
        credits_spent="yes",
    )
