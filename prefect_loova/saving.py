"""Bring the video of a finished Loova task into the bucket, once, under a lease in the job record.

The lease keeps two collectors from aborting each other's uploads: only an expired one is taken over, and only then is
what it left behind aborted.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from prefect_loova.comparing import differences
from prefect_loova.errors import (
    LoovaError,
    StorageError,
    TaskFailedError,
    TransferError,
    VideoUrlRefusedError,
    WaitTimeoutError,
)
from prefect_loova.jobs import VideoJobs
from prefect_loova.models import SavedVideo, Submission, VideoTask
from prefect_loova.polling import Deadline
from prefect_loova.records import RecordMovedError, StoredRecord
from prefect_loova.states import Attempt, JobRecord, Lease, StoredVideo
from prefect_loova.transfer import Copied, Target, abort_uploads, copy_video
from prefect_loova.waiting import check_task, ended, look

MAX_BYTES = 8 * 1024**3
"""The largest video that is saved by default, in bytes."""

MAX_SECONDS = 4 * 3600.0
"""How long one download and upload of a video may take by default, in seconds."""

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
    saved, _ = await bring_video(
        jobs,
        submission,
        upload_options=upload_options,
        max_bytes=max_bytes,
        max_wait=max_wait,
        max_seconds=max_seconds,
    )
    return saved


async def bring_video(
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
    told = False
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
                await jobs.records.advance(
                    stored, stored.record.move("save_again", attempt.number, task_id=attempt.task_id)
                )
                continue
            if attempt.state == "submitted":
                await ended(jobs, submission, await _finished(jobs, submission))
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
            lease = await _HeldLease.take(jobs, stored, attempt)
        except RecordMovedError:
            continue
        return await _save_under(lease, submission, dict(upload_options or {}), max_bytes, max_seconds), True


async def found(jobs: VideoJobs, submission: Submission) -> SavedVideo | None:
    """A video that the record says is saved, or None where its object is gone. Asks Loova nothing."""
    stored = await jobs.records.expect(submission.key)
    attempt = stored.record.attempt(submission.attempt)
    if attempt.task_id != submission.task_id or attempt.state != "saved" or not await _is_there(jobs, attempt):
        return None
    return _saved(jobs, stored.record, attempt, submission)


async def _save_under(
    lease: _HeldLease, submission: Submission, options: dict[str, Any], max_bytes: int, max_seconds: float
) -> SavedVideo:
    jobs, attempt = lease.jobs, lease.attempt
    metadata = {"task-id": attempt.task_id or "", "request-key": submission.key, "model": submission.model}
    target = Target(jobs.records.bucket, lease.object_key, {k: _ascii(v) for k, v in metadata.items()}, options)
    try:
        if attempt.saving is not None:
            await abort_uploads(jobs.records.s3, target.bucket, target.key, attempt.saving.upload_id, options=options)
        try:
            copied = await _copy(lease, submission, target, max_bytes, max_seconds)
        except VideoUrlRefusedError as error:
            log.warning("task %s: %s; asking Loova once more for the URL", attempt.task_id, error)
            copied = await _copy(lease, submission, target, max_bytes, max_seconds)
    except BaseException as error:
        await lease.release()
        if not isinstance(error, Exception):  # cancelled, or a signal
            again = "ask for the same request again to have it"
            log.warning("Loova task %s: saving was cancelled, and nothing is lost: %s", attempt.task_id, again)
        if isinstance(error, LoovaError):
            error.task_id = error.task_id or attempt.task_id
            error.credits_spent = "yes"
        if isinstance(error, RecordMovedError):
            raise TransferError(
                "another worker took over saving this video", task_id=attempt.task_id, credits_spent="yes"
            ) from None
        raise
    record, was_first = await lease.saved(copied)
    if was_first:
        jobs.tell("saved", record, attempt.number)
    await jobs.records.note_ended(submission.key)
    return _saved(jobs, record, record.attempt(attempt.number), submission)


async def _copy(
    lease: _HeldLease, submission: Submission, target: Target, max_bytes: int, max_seconds: float
) -> Copied:
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
        on_progress=lease.renew_when_due,
        sleep=lease.jobs.sleep,
        total_timeout=max_seconds,
    )


async def _finished(jobs: VideoJobs, submission: Submission) -> VideoTask:
    """One look at a task that must have a video by now."""
    task = await look(jobs, submission.task_id)
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


def _object_key(jobs: VideoJobs, record: JobRecord, attempt: Attempt) -> str:
    """Where the video goes. A second task of the same request gets a name of its own, and each keeps the one it has."""

    def taken(one: Attempt) -> str | None:
        return (one.video.object_key if one.video else None) or (one.saving.object_key if one.saving else None)

    if known := taken(attempt):
        return known
    others = {taken(one) for one in record.attempts if one.number != attempt.number}
    # What was saved of an adoption that was taken back stays what it is, under the key that it has.
    others |= {one.object_key for other in record.attempts for one in other.taken_back or ()}
    names = [f"video-attempt-{attempt.number}.mp4"]
    names += [f"video-attempt-{attempt.number}-{count}.mp4" for count in range(2, len(others) + 3)]
    if attempt.number == record.current.number:
        names.insert(0, "video.mp4")
    keys = (jobs.records.object_key(record.key, name) for name in names)
    return next(key for key in keys if key not in others)


def _ascii(text: str) -> str:
    """A metadata value that every S3 server takes."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:256]


class _HeldLease:
    """The right to save one attempt's video, held by this worker as long as its writes go through."""

    def __init__(self, jobs: VideoJobs, stored: StoredRecord, attempt: Attempt, lease: Lease, object_key: str) -> None:
        self.jobs = jobs
        self.attempt = attempt
        self.object_key = object_key
        self._stored = stored
        self._lease = lease
        self._renewed = jobs.clock()

    @classmethod
    async def take(cls, jobs: VideoJobs, stored: StoredRecord, attempt: Attempt) -> _HeldLease:
        object_key = _object_key(jobs, stored.record, attempt)
        lease = Lease(holder=secrets.token_hex(8), seconds=jobs.times.lease, object_key=object_key)
        record = stored.record.move("lease", attempt.number, task_id=attempt.task_id, saving=lease)
        return cls(jobs, await jobs.records.advance(stored, record), attempt, lease, object_key)

    async def renew_for(self, upload_id: str) -> None:
        self._lease = self._lease.model_copy(update={"upload_id": upload_id})
        await self._renew()

    async def renew_when_due(self, _stored_bytes: int) -> None:
        if self.jobs.clock() - self._renewed > self._lease.seconds / 4:
            await self._renew()

    async def _renew(self) -> None:
        await self._change(
            lambda record: record.move("lease", self.attempt.number, task_id=self.attempt.task_id, saving=self._lease)
        )
        self._renewed = self.jobs.clock()

    async def _change(self, change: Callable[[JobRecord], JobRecord]) -> None:
        """Write the record while the lease is ours, whatever else moved in it.

        Raises:
            RecordMovedError: Another worker took the lease over.
        """

        def while_held(record: JobRecord) -> JobRecord:
            held = record.attempt(self.attempt.number).saving
            if held is None or held.holder != self._lease.holder:
                raise RecordMovedError
            return change(record)

        try:
            self._stored = await self.jobs.records.advance(self._stored, change(self._stored.record))
        except RecordMovedError:
            self._stored = await self.jobs.records.change(self._stored.record.key, while_held)

    async def saved(self, copied: Copied) -> tuple[JobRecord, bool]:
        """Returns the record, and whether it was this worker that saved the video."""
        video = StoredVideo(
            object_key=self.object_key,
            size_bytes=copied.size_bytes,
            sha256=copied.sha256,
            crc32=copied.crc32,
            duration_seconds=copied.duration_seconds,
            width=copied.width,
            height=copied.height,
            is_turned=copied.is_turned or None,
        )

        was_first = True

        def change(record: JobRecord) -> JobRecord:
            nonlocal was_first
            # A worker that took the lease over may have saved the same video meanwhile.
            was_first = record.attempt(self.attempt.number).state != "saved"
            if not was_first:
                return record
            return record.move("save", self.attempt.number, task_id=self.attempt.task_id, video=video, saving=None)

        try:
            stored = await self.jobs.records.advance(self._stored, change(self._stored.record))
        except RecordMovedError:
            stored = await self.jobs.records.change(self._stored.record.key, change)
        return stored.record, was_first

    async def release(self) -> None:
        """Let others save at once; if that fails, the lease runs out by itself.

        It stays in the record, over: if its upload could not be aborted, the next one has to.
        """
        over = self._lease.model_copy(update={"seconds": 0.0})
        try:
            await self._change(
                lambda record: record.move("lease", self.attempt.number, task_id=self.attempt.task_id, saving=over)
            )
        except (RecordMovedError, StorageError) as error:
            log.debug("task %s: the lease was not released: %s", self.attempt.task_id, error)
