"""Save the video of a finished Loova task into the bucket, once, under a lease in the job record."""

from __future__ import annotations

import asyncio
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
from prefect_loova.jobs.handover import current_handover
from prefect_loova.jobs.lease import SaveLease, stored_video
from prefect_loova.jobs.wait import check_task, notify_end, poll_once, record_end, with_end
from prefect_loova.models.attempts import Attempt, AttemptFields, StoredVideo
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import SavedVideo, Submission, VideoTask
from prefect_loova.store.records import RecordConflictError, StoredRecord
from prefect_loova.transfer.copy import CopyResult, Target, copy_video
from prefect_loova.transfer.stale_uploads import abort_uploads

MAX_BYTES = 8 * 1024**3
"""The default for the largest video to save, in bytes."""

MAX_SECONDS = 4 * 3600.0
"""The default for the longest transfer of a video, in seconds."""

_FREE_CONFLICTS = 3
"""How many conflicts are retried even after the deadline, to find the video that the other worker saved."""

log = logging.getLogger(__name__)


async def save_video(
    jobs: VideoJobs,
    submission: Submission,
    *,
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    max_wait: float = 3600.0,
    max_seconds: float = MAX_SECONDS,
) -> tuple[SavedVideo, bool]:
    """Save the video of a job, or find the saved video.

    Args:
        jobs: The API and the bucket.
        submission: The result of `submit_video`.
        upload_options: boto3's `ExtraArgs` for the upload: SSE-KMS, tags, storage class.
        max_bytes: The largest video to accept, in bytes.
        max_wait: Seconds to wait for another worker that saves the same video.
        max_seconds: Seconds for the download and upload together. After that time this raises TransferError, and the
            next call starts the transfer again.

    Returns:
        The video, and whether this call put it into the bucket.

    Raises:
        TransferError: The video could not be saved. You can retry; the task id is kept.
        WaitTimeoutError: The task still runs, or another worker is still saving the video.
        TaskFailedError: The Loova task ended without a video.
        StorageError: The bucket or the record cannot be used.
    """
    lease = await _take_lease(jobs, submission, max_bytes, Deadline(max_wait, jobs.clock))
    if isinstance(lease, SavedVideo):
        return lease, False
    attempt, unchecked = lease.attempt, list[StoredVideo]()
    metadata = {"task-id": attempt.task_id or "", "request-key": submission.key, "model": submission.model}
    ascii_metadata = {name: _ascii(value) for name, value in metadata.items()}
    target = Target(jobs.records.bucket, lease.object_key, ascii_metadata, dict(upload_options or {}))
    transfer = asyncio.create_task(_transfer(jobs, lease, submission, target, unchecked, max_bytes, max_seconds))
    try:
        record, was_first = await lease.record_saved(await lease.renew_until_done(transfer))
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, RecordConflictError)
        fields: AttemptFields = {"save_failures": attempt.save_failures + failed}
        if isinstance(error, IncompleteVideoError):
            fields["at_least_bytes"] = error.at_least_bytes
            fields["unchecked"] = unchecked[0] if unchecked else attempt.unchecked
        is_lost = isinstance(error, RecordConflictError) or not await run_uncancelled(lease.release(**fields))
        if not (is_lost and isinstance(error, RecordConflictError | StorageError)):
            _add_details(error, jobs, attempt, fields.get("unchecked"))
            raise
        # The new holder aborts this worker's upload, so S3 may refuse a part before the renewal of the lease fails.
        record, was_first = (await jobs.records.expect(submission.key)).record, False
        now = record.attempt(attempt.number)
        if (now.state, now.task_id) != ("saved", attempt.task_id):
            raise TransferError(
                "another worker took over saving this video", task_id=attempt.task_id, credits_spent="yes"
            ) from None
    if was_first:
        jobs.notify("saved", record, attempt.number)
    if not record.is_open:  # else the worker that ends the last attempt removes the entry
        await jobs.records.unindex(submission.key)
    return _saved(jobs, record, record.attempt(attempt.number), submission), was_first


async def find_saved(jobs: VideoJobs, submission: Submission) -> SavedVideo | None:
    """Return the saved video, or None if it is not saved or its object is missing. Loova is not asked."""
    stored = await jobs.records.expect(submission.key)
    attempt = stored.record.attempt(submission.attempt)
    if attempt.task_id != submission.task_id or attempt.state != "saved" or not await _is_in_bucket(jobs, attempt):
        return None
    return _saved(jobs, stored.record, attempt, submission)


async def _take_lease(
    jobs: VideoJobs, submission: Submission, max_bytes: int, deadline: Deadline
) -> SaveLease | SavedVideo:
    """Take the lease on saving the video, or return the video if it is saved. Wait while another worker saves it."""
    handover, is_logged, conflicts = current_handover(), False, 0
    while True:
        known, made = handover.take(submission.key)
        stored = known or await jobs.records.expect(submission.key)
        attempt = stored.record.attempt(submission.attempt)
        check_task(jobs, stored.record, submission)
        try:
            if attempt.state == "saved":
                if await _is_in_bucket(jobs, attempt):
                    return _saved(jobs, stored.record, attempt, submission)
                log.warning(
                    "task %s: the saved video is missing from the bucket; downloading it again", attempt.task_id
                )
                await _save_again(jobs, stored, attempt)
            elif attempt.state == "submitted":
                return await _take_with_end(jobs, submission, stored, made or await _poll_finished(jobs, submission))
            elif attempt.state != "succeeded":
                raise TaskFailedError(
                    f"attempt {attempt.number} is {attempt.state}: there is no video to save",
                    task_id=attempt.task_id,
                    trace_id=attempt.trace_id,
                    loova_message=attempt.reason,
                    credits_spent="maybe",
                )
            elif attempt.saving is not None and stored.age < attempt.saving.seconds:
                if deadline.left <= 0:
                    raise WaitTimeoutError(
                        "another worker is still saving this video", task_id=attempt.task_id, credits_spent="yes"
                    )
                if not is_logged:
                    left = attempt.saving.seconds - stored.age
                    log.info(
                        "Loova task %s: another worker is saving it, or has died; its lease ends in %.0f s at most",
                        attempt.task_id,
                        left,
                    )
                    is_logged = True
                await jobs.sleep(min(jobs.times.look_again, deadline.left))
            elif attempt.at_least_bytes is not None and attempt.at_least_bytes > max_bytes:
                raise IncompleteVideoError(
                    f"the video is larger than the bound of {max_bytes} bytes: an earlier download saw "
                    f"{attempt.at_least_bytes} bytes; max_bytes allows more",
                    task_id=attempt.task_id,
                    at_least_bytes=attempt.at_least_bytes,
                    credits_spent="yes",
                )
            else:
                return await SaveLease.take(jobs, stored, stored.record, attempt.number)
        except RecordConflictError:
            conflicts += 1
            if conflicts > _FREE_CONFLICTS and deadline.left <= 0:
                error = jobs.records.conflict_error(stored.record.key, conflicts)
                error.task_id, error.credits_spent = attempt.task_id, "yes"
                raise error from None
            await jobs.sleep(backoff(conflicts - 1, first=0.1, most=30.0))


async def _take_with_end(jobs: VideoJobs, submission: Submission, stored: StoredRecord, task: VideoTask) -> SaveLease:
    """Write the end of the task and take the lease, in one write.

    Raises:
        TaskFailedError: The task ended without a video.
        RecordConflictError: Another worker wrote the record in between.
    """
    if task.state == "failed":
        await record_end(jobs, submission, task, known=stored)
    lease = await SaveLease.take(jobs, stored, with_end(stored.record, submission, task), submission.attempt)
    notify_end(jobs, lease.record, submission.attempt)
    return lease


async def _save_again(jobs: VideoJobs, stored: StoredRecord, attempt: Attempt) -> None:
    """Open a saved job again, whose object is missing."""
    # Index the job before the move, in case of a crash, and after it, in case another worker unindexed it.
    await jobs.records.index(stored.record)
    record = stored.record.move("save_again", attempt.number, task_id=attempt.task_id)
    await jobs.records.index((await jobs.records.advance(stored, record)).record)


async def _transfer(
    jobs: VideoJobs,
    lease: SaveLease,
    submission: Submission,
    target: Target,
    unchecked: list[StoredVideo],
    max_bytes: int,
    max_seconds: float,
) -> CopyResult:
    """Abort the uploads of the last holder of the lease and copy the video.

    Content that is not a whole mp4 is kept beside the target, and its entry is added to `unchecked`.
    """
    s3, attempt = jobs.records.s3, lease.attempt
    beside = replace(
        target,
        key=f"{target.key.removesuffix('.mp4')}.unchecked",
        options={**target.options, "ContentType": "application/octet-stream"},
    )
    if attempt.saving is not None:
        for one in (target, beside):
            await abort_uploads(s3, one.bucket, one.key, attempt.saving.upload_id, options=one.options)
    for is_last in (False, True):
        task = await _poll_finished(jobs, submission)
        if task.video_url is None:
            raise TaskFailedError(
                "Loova now reports that the task failed; the record keeps that it had succeeded",
                trace_id=task.trace_id,
                loova_message=task.error_message,
            )
        try:
            return await copy_video(
                task.video_url,
                s3,
                target,
                allow_private=jobs.loova.is_private,
                max_bytes=max_bytes,
                on_upload=lease.renew_with_upload,
                on_commit=lease.renew,
                unchecked=None if attempt.unchecked else beside,
                on_unchecked=lambda copied: unchecked.append(stored_video(beside.key, copied)),
                sleep=jobs.sleep,
                clock=jobs.clock,
                total_timeout=max_seconds,
            )
        except VideoUrlRefusedError as error:
            if is_last:
                raise
            log.warning("task %s: %s; asking Loova for a new URL once", attempt.task_id, error)
    raise AssertionError("unreachable")


def _add_details(error: BaseException, jobs: VideoJobs, attempt: Attempt, unchecked: StoredVideo | None) -> None:
    """Add the task to the error that ended saving."""
    if not isinstance(error, Exception):  # cancelled, or a signal
        log.warning(
            "Loova task %s: saving was cancelled. Nothing is lost: ask for the same request again",
            attempt.task_id,
            extra={"cancelled": attempt.task_id},
        )
    if isinstance(error, LoovaError):
        error.task_id = error.task_id or attempt.task_id
        error.credits_spent = "yes"
        if unchecked is not None:
            uri = jobs.records.uri(unchecked.object_key)
            error.message += f"; the content is kept, unchecked, at {uri} ({unchecked.size_bytes} bytes)"


async def _poll_finished(jobs: VideoJobs, submission: Submission) -> VideoTask:
    """Poll once a task that must have ended by now."""
    task = await poll_once(jobs, submission.task_id)
    if task.state == "running":
        raise WaitTimeoutError("the task still runs: wait for it first", task_id=task.task_id, credits_spent="yes")
    return task


async def _is_in_bucket(jobs: VideoJobs, attempt: Attempt) -> bool:
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
        label=attempt.label,
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


def _ascii(text: str) -> str:
    """Return a metadata value that every S3 server accepts."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:256]
