"""The lease on saving one video. It is stored in the job record, so that two workers do not abort each other's uploads.

The holder renews the lease while it works, and stops if another worker took the lease over. Only an expired lease is
taken over. The new holder then aborts the old holder's upload.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import StorageError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.attempts import Attempt, AttemptFields, Lease, StoredVideo
from prefect_loova.models.job_record import JobRecord
from prefect_loova.store.records import RecordConflictError, StoredRecord
from prefect_loova.transfer.copy import CopyResult

T = TypeVar("T")
log = logging.getLogger(__name__)


class SaveLease:
    """The right of this worker to save one attempt's video. Create it with `take`."""

    def __init__(self, jobs: VideoJobs, stored: StoredRecord, attempt: Attempt, lease: Lease, object_key: str) -> None:
        self.attempt = attempt
        self.object_key = object_key
        self._jobs = jobs
        self._stored = stored
        self._lease = lease
        self._renewals = asyncio.Lock()

    @classmethod
    async def take(cls, jobs: VideoJobs, stored: StoredRecord, record: JobRecord, number: int) -> SaveLease:
        """Take the lease of an attempt that no worker is saving.

        Args:
            jobs: The API and the bucket.
            stored: The record as it was read or written last.
            record: The record to write with the lease: the same, or one move further.
            number: The attempt.

        Raises:
            RecordConflictError: Another worker wrote the record in between.
        """
        attempt = record.attempt(number)
        object_key = _object_key(jobs, record, attempt)
        lease = Lease(holder=secrets.token_hex(8), seconds=jobs.times.lease, object_key=object_key)
        leased = record.move("lease", number, task_id=attempt.task_id, saving=lease)
        return cls(jobs, await jobs.records.advance(stored, leased), attempt, lease, object_key)

    @property
    def record(self) -> JobRecord:
        """The record as this worker wrote it last."""
        return self._stored.record

    async def renew_until_done(self, work: asyncio.Task[T]) -> T:
        """Return the result of a task, and renew the lease until the task ends.

        Raises:
            RecordConflictError: Another worker took the lease over. The task was cancelled and has ended.
        """
        renewals = asyncio.create_task(self._renew_regularly())
        try:
            await asyncio.wait({work, renewals}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                renewals.result()  # raises
            return work.result()
        finally:
            work.cancel()
            renewals.cancel()
            await run_uncancelled(_gather_results(work, renewals))

    async def renew(self) -> None:
        """Write the record again, which restarts the lease.

        Raises:
            RecordConflictError: Another worker took the lease over.
            StorageError: The record cannot be written.
        """
        async with self._renewals:
            await self._change(lambda record: self._with_lease(record, self._lease))

    async def renew_with_upload(self, upload_id: str) -> None:
        """Renew the lease and store the id of the upload, which the next holder aborts."""
        self._lease = self._lease.model_copy(update={"upload_id": upload_id})
        await self.renew()

    async def _renew_regularly(self) -> None:
        while True:
            # The event loop's clock, because S3's clock measures the lease in real seconds.
            await asyncio.sleep(self._lease.seconds / 4)
            try:
                await self.renew()
            except StorageError as error:
                # The lease may expire now. The next renewal that succeeds shows whether it was taken over.
                log.warning("task %s: could not renew the lease on saving: %s", self.attempt.task_id, error)

    async def _change(self, change: Callable[[JobRecord], JobRecord]) -> None:
        """Write a change of the record, also if it was written in between.

        Raises:
            RecordConflictError: Another worker took the lease over.
        """

        def change_if_held(record: JobRecord) -> JobRecord:
            self._check_held(record)
            return change(record)

        records, stored = self._jobs.records, self._stored
        self._stored = await records.change(stored.record.key, change_if_held, known=stored)

    def _with_lease(self, record: JobRecord, lease: Lease, **fields: Unpack[AttemptFields]) -> JobRecord:
        values: AttemptFields = {**fields, "task_id": self.attempt.task_id, "saving": lease}
        return record.move("lease", self.attempt.number, **values)

    def _check_held(self, record: JobRecord) -> None:
        held = record.attempt(self.attempt.number).saving
        if held is None or held.holder != self._lease.holder:
            raise RecordConflictError

    async def record_saved(self, copied: CopyResult) -> tuple[JobRecord, bool]:
        """Store the video in the record. Return the record and whether this worker was the one that saved the video.

        Raises:
            RecordConflictError: Another worker took the lease over and has not saved yet. It will replace the object.
        """
        video = stored_video(self.object_key, copied)
        was_first = True

        def change(record: JobRecord) -> JobRecord:
            nonlocal was_first
            # A worker that took the lease over may have saved the same video.
            was_first = record.attempt(self.attempt.number).state != "saved"
            if not was_first:
                return record
            self._check_held(record)
            return record.move("save", self.attempt.number, task_id=self.attempt.task_id, video=video, saving=None)

        records, stored = self._jobs.records, self._stored
        return (await records.change(stored.record.key, change, known=stored)).record, was_first

    async def release(self, **fields: Unpack[AttemptFields]) -> bool:
        """End the lease, so that other workers can save at once. If this fails, the lease expires.

        The ended lease stays in the record, because the next holder aborts its upload if this worker could not. Return
        False if another worker took the lease over. `fields` are those of the attempt that describe the failure.
        """
        ended = self._lease.model_copy(update={"seconds": 0.0})
        try:
            await self._change(lambda record: self._with_lease(record, ended, **fields))
        except RecordConflictError:
            return False
        except StorageError as error:
            log.debug("task %s: could not release the lease: %s", self.attempt.task_id, error)
        return True


def stored_video(object_key: str, copied: CopyResult) -> StoredVideo:
    """Return an object's entry for the job record."""
    return StoredVideo(
        object_key=object_key,
        size_bytes=copied.size_bytes,
        sha256=copied.sha256,
        crc32=copied.crc32,
        duration_seconds=copied.duration_seconds,
        width=copied.width,
        height=copied.height,
        is_turned=copied.is_turned or None,
    )


async def _gather_results(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _object_key(jobs: VideoJobs, record: JobRecord, attempt: Attempt) -> str:
    """Return the key for an attempt's video: the key it has already, or one that no other task of the request has."""

    def reserved(one: Attempt) -> str | None:
        return (one.video.object_key if one.video else None) or (one.saving.object_key if one.saving else None)

    if key := reserved(attempt):
        return key
    used = {reserved(one) for one in record.attempts if one.number != attempt.number}
    # The video of a task that was taken back keeps its key.
    used |= {one.object_key for other in record.attempts for one in other.taken_back or ()}
    names = [f"video-attempt-{attempt.number}.mp4"]
    names += [f"video-attempt-{attempt.number}-{count}.mp4" for count in range(2, len(used) + 3)]
    if attempt.number == record.current.number:
        names.insert(0, "video.mp4")
    keys = (jobs.records.object_key(record.key, name) for name in names)
    return next(key for key in keys if key not in used)
