"""Bring the video of a finished Loova task into the bucket, once, under a lease in the job record."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect_loova._cancellation import run_uncancelled
from prefect_loova._timing import Deadline, backoff
from prefect_loova.errors import (
    IncompleteVideoError,
    LoovaError,
    StorageError,
    TaskFailedError,
    TransferError,
    VideoUrlRefusedError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.lease import HeldLease, stored_video
from prefect_loova.jobs.wait import check_task, poll_once, record_end
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import Attempt, JobRecord, StoredVideo
from prefect_loova.models.results import SavedVideo, Submission, VideoTask
from prefect_loova.store.records import RecordConflictError, StoredRecord
from prefect_loova.transfer.copy import CopyResult, Target, copy_video
from prefect_loova.transfer.stale_uploads import abort_uploads

MAX_BYTES = 8 * 1024**3
"""The largest video that is saved by default, in bytes."""

MAX_SECONDS = 4 * 3600.0
"""How long one download and upload of a video may take by default, in seconds."""

_CONFLICTS_AT_ONCE = 3
"""After so many conflicts the deadline counts; before, one more look tells who was faster."""

log = logging.getLogger(__name__)


async def save_video(
    jobs: VideoJobs,
    submission: Submission,
    *,
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    max_wait: float = 3600.0,
    max_seconds: float = MAX_SECONDS,
) -> SavedVideo:
    """Save the video of a job, or find it saved already.

    Args:
        jobs: The jobs of the API and bucket that the submission belongs to.
        submission: What `submitting.submit_video` returned.
        upload_options: boto3's `ExtraArgs` of an upload: SSE-KMS, tags, storage class.
        max_bytes: The largest video to accept, in bytes.
        max_wait: Seconds to wait for another worker that saves the same video.
        max_seconds: Seconds for the download and upload themselves. After them this raises TransferError, and
            the next call starts the video over.

    Raises:
        TransferError: The video could not be saved. The task id is kept, and saving may be tried again.
        WaitTimeoutError: The task still runs, or another worker is still saving.
        TaskFailedError: Loova ended the task without a video.
        StorageError: The bucket or the record cannot be used.
    """
    saved, _ = await save_finished_video(
        jobs,
        submission,
        upload_options=upload_options,
        max_bytes=max_bytes,
        max_wait=max_wait,
        max_seconds=max_seconds,
    )
    return saved


async def save_finished_video(
    jobs: VideoJobs,
    submission: Submission,
    *,
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    max_wait: float = 3600.0,
    max_seconds: float = MAX_SECONDS,
) -> tuple[SavedVideo, bool]:
    """As `save_video`, and whether the video was brought into the bucket by this call."""
    deadline = Deadline(max_wait, jobs.clock)
    told, conflicts = False, 0
    while True:
        stored = await jobs.records.expect(submission.key)
        attempt = stored.record.attempt(submission.attempt)
        check_task(jobs, stored.record, submission)
        try:
            if attempt.state == "saved":
                if await _is_there(jobs, attempt):
                    return _saved(jobs, stored.record, attempt, submission), False
                log.warning(
                    "task %s: the saved video is gone from the bucket; asking Loova for it again", attempt.task_id
                )
                # Before, so that no crash leaves it out of the index; after, as whoever ended it may take it out.
                await jobs.records.index(stored.record)
                stored = await jobs.records.advance(
                    stored, stored.record.move("save_again", attempt.number, task_id=attempt.task_id)
                )
                await jobs.records.index(stored.record)
                continue
            if attempt.state == "submitted":
                await record_end(jobs, submission, await _finished(jobs, submission))
                continue
            if attempt.state != "succeeded":
                raise _no_video(attempt)
            if attempt.saving is not None and stored.age < attempt.saving.seconds:
                if deadline.left <= 0:
                    raise WaitTimeoutError(
                        "another worker is still saving this video", task_id=attempt.task_id, credits_spent="yes"
                    )
                if not told:
                    left = attempt.saving.seconds - stored.age
                    log.info(
                        "Loova task %s: another worker is saving it, or died; its lease ends in %.0f s at most",
                        attempt.task_id,
                        left,
                    )
                    told = True
                await jobs.sleep(min(jobs.times.look_again, deadline.left))
                continue
            if attempt.at_least_bytes is not None and attempt.at_least_bytes > max_bytes:
                raise IncompleteVideoError(
                    f"the video is larger than the bound of {max_bytes} bytes: an earlier download saw "
                    f"{attempt.at_least_bytes} bytes; max_bytes allows more",
                    task_id=attempt.task_id,
                    at_least_bytes=attempt.at_least_bytes,
                    credits_spent="yes",
                )
            lease = await HeldLease.take(jobs, stored, attempt)
        except RecordConflictError:
            conflicts += 1
            if conflicts > _CONFLICTS_AT_ONCE and deadline.left <= 0:
                raise _another_saves(jobs, stored, attempt, conflicts) from None
            await jobs.sleep(backoff(conflicts - 1, first=0.1, most=30.0))
            continue
        return await _save_under(lease, submission, dict(upload_options or {}), max_bytes, max_seconds)


def _another_saves(jobs: VideoJobs, stored: StoredRecord, attempt: Attempt, conflicts: int) -> StorageError:
    error = jobs.records.conflict_error(stored.record.key, conflicts)
    error.task_id, error.credits_spent = attempt.task_id, "yes"
    return error


async def found(jobs: VideoJobs, submission: Submission) -> SavedVideo | None:
    """A video that the record says is saved, or None where its object is gone. Asks Loova nothing."""
    stored = await jobs.records.expect(submission.key)
    attempt = stored.record.attempt(submission.attempt)
    if attempt.task_id != submission.task_id or attempt.state != "saved" or not await _is_there(jobs, attempt):
        return None
    return _saved(jobs, stored.record, attempt, submission)


async def _save_under(
    lease: HeldLease, submission: Submission, options: dict[str, Any], max_bytes: int, max_seconds: float
) -> tuple[SavedVideo, bool]:
    jobs, attempt = lease.jobs, lease.attempt
    metadata = {"task-id": attempt.task_id or "", "request-key": submission.key, "model": submission.model}
    target = Target(jobs.records.bucket, lease.object_key, {k: _ascii(v) for k, v in metadata.items()}, options)
    kept: list[StoredVideo] = []
    try:
        copied = await lease.while_held(_bring(lease, submission, target, kept, max_bytes, max_seconds))
        record, was_first = await lease.saved(copied)
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, RecordConflictError)
        facts: dict[str, Any] = {"save_failures": attempt.save_failures + failed}
        if isinstance(error, IncompleteVideoError):
            facts |= {"at_least_bytes": error.at_least_bytes, "unchecked": kept[0] if kept else attempt.unchecked}
        is_lost = isinstance(error, RecordConflictError) or not await run_uncancelled(lease.release(**facts))
        if not (is_lost and isinstance(error, RecordConflictError | StorageError)):
            _say_more(error, jobs, attempt, facts.get("unchecked"))
            raise
        # Whoever took over aborts what is left here, so that S3 may refuse a part before a renewal is refused.
        record, was_first = (await jobs.records.expect(submission.key)).record, False
        now = record.attempt(attempt.number)
        if (now.state, now.task_id) != ("saved", attempt.task_id):
            raise TransferError(
                "another worker took over saving this video", task_id=attempt.task_id, credits_spent="yes"
            ) from None
    if was_first:
        jobs.notify("saved", record, attempt.number)
    await jobs.records.unindex(submission.key)
    return _saved(jobs, record, record.attempt(attempt.number), submission), was_first


def _say_more(error: BaseException, jobs: VideoJobs, attempt: Attempt, unchecked: StoredVideo | None) -> None:
    """Add to the error that ended saving what is known of the task."""
    if not isinstance(error, Exception):  # cancelled, or a signal
        again = "ask for the same request again to have it"
        log.warning("Loova task %s: saving was cancelled, and nothing is lost: %s", attempt.task_id, again)
    if isinstance(error, LoovaError):
        error.task_id = error.task_id or attempt.task_id
        error.credits_spent = "yes"
        if unchecked is not None:
            where = jobs.records.uri(unchecked.object_key)
            error.message += f"; what came is kept, unchecked, at {where} ({unchecked.size_bytes} bytes)"


async def _bring(
    lease: HeldLease,
    submission: Submission,
    target: Target,
    kept: list[StoredVideo],
    max_bytes: int,
    max_seconds: float,
) -> CopyResult:
    """Clear away what the last holder of the lease left, and copy the video, or `kept` what is no whole mp4."""
    unchecked = replace(
        target,
        key=f"{target.key.removesuffix('.mp4')}.unchecked",
        options={**target.options, "ContentType": "application/octet-stream"},
    )
    left = lease.attempt.saving
    if left is not None:
        for one in (target, unchecked):
            s3 = lease.jobs.records.s3
            await abort_uploads(s3, one.bucket, one.key, left.upload_id, options=one.options)

    async def copy() -> CopyResult:
        task = await _finished(lease.jobs, submission)
        if task.video_url is None:
            raise TaskFailedError(
                "Loova now says that the task failed; the record keeps that it had succeeded",
                trace_id=task.trace_id,
                loova_message=task.error_message,
            )
        return await copy_video(
            task.video_url,
            lease.jobs.records.s3,
            target,
            allow_private=lease.jobs.loova.is_private,
            max_bytes=max_bytes,
            on_upload=lease.renew_for,
            on_commit=lease.renew,
            unchecked=None if lease.attempt.unchecked else unchecked,
            on_unchecked=lambda copied: kept.append(stored_video(unchecked.key, copied)),
            sleep=lease.jobs.sleep,
            total_timeout=max_seconds,
        )

    try:
        return await copy()
    except VideoUrlRefusedError as error:
        log.warning("task %s: %s; asking Loova once more for the URL", lease.attempt.task_id, error)
        return await copy()


async def _finished(jobs: VideoJobs, submission: Submission) -> VideoTask:
    """One look at a task that must have a video by now."""
    task = await poll_once(jobs, submission.task_id)
    if task.state == "running":
        raise WaitTimeoutError("the task still runs: wait for it first", task_id=task.task_id, credits_spent="yes")
    return task


async def _is_there(jobs: VideoJobs, attempt: Attempt) -> bool:
    if attempt.video is None:
        return False
    try:
        return await jobs.records.object_size(attempt.video.object_key) == attempt.video.size_bytes
    except StorageError as error:
        error.task_id, error.credits_spent = attempt.task_id, "yes"
        raise


def _saved(jobs: VideoJobs, record: JobRecord, attempt: Attempt, submission: Submission) -> SavedVideo:
    video = attempt.video
    assert video is not None and attempt.task_id is not None  # noqa: S101
    return SavedVideo(
        key=record.key,
        attempt=attempt.number,
        request=record.request,
        task_id=attempt.task_id,
        video=jobs.records.uri(video.object_key),
        record=submission.record,
        size_bytes=video.size_bytes,
        sha256=video.sha256,
        duration_seconds=video.duration_seconds,
        width=video.width,
        height=video.height,
        differs=differences(record.request, video),
        credits_estimate=attempt.credits_estimate,
        credits_cost=attempt.credits_cost,
        times=attempt.times,
        reused=submission.reused,
    )


def _no_video(attempt: Attempt) -> LoovaError:
    return TaskFailedError(
        f"attempt {attempt.number} is {attempt.state}: there is no video to save",
        task_id=attempt.task_id,
        trace_id=attempt.trace_id,
        loova_message=attempt.reason,
        credits_spent="maybe",
    )


def _ascii(text: str) -> str:
    """A metadata value that every S3 server takes."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:256]
