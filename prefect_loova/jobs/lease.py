"""The lease of saving one video: who has it renews it while the work lasts, and stops when another one took it over.

A lease is in the job record, so that two collectors do not abort each other's uploads. Only an expired one is taken
over, and only then is what it left behind aborted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import StorageError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.job_record import Attempt, JobRecord, Lease, StoredVideo
from prefect_loova.store.records import RecordConflictError, StoredRecord
from prefect_loova.transfer.copy import CopyResult

T = TypeVar("T")
log = logging.getLogger(__name__)


class HeldLease:
    """The right to save one attempt's video, held by this worker as long as its writes go through."""

    def __init__(self, jobs: VideoJobs, stored: StoredRecord, attempt: Attempt, lease: Lease, object_key: str) -> None:
        self.jobs = jobs
        self.attempt = attempt
        self.object_key = object_key
        self._stored = stored
        self._lease = lease
        self._turn = asyncio.Lock()

    @classmethod
    async def take(cls, jobs: VideoJobs, stored: StoredRecord, attempt: Attempt) -> HeldLease:
        """Take the lease of an attempt that nobody saves now.

        Raises:
            RecordMovedError: Another worker wrote the record in between.
        """
        object_key = _object_key(jobs, stored.record, attempt)
        lease = Lease(holder=secrets.token_hex(8), seconds=jobs.times.lease, object_key=object_key)
        record = stored.record.move("lease", attempt.number, task_id=attempt.task_id, saving=lease)
        return cls(jobs, await jobs.records.advance(stored, record), attempt, lease, object_key)

    async def while_held(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work of saving, and renew the lease meanwhile, however slow S3 and the video's host are.

        Raises:
            RecordMovedError: Another worker took the lease over; the work has ended.
        """
        saving, renewing = asyncio.ensure_future(work), asyncio.ensure_future(self._renew_again_and_again())
        try:
            await asyncio.wait({saving, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if not saving.done():
                renewing.result()  # raises what it ended with
            return saving.result()
        finally:
            saving.cancel()
            renewing.cancel()
            await run_uncancelled(_ended(saving, renewing))

    async def renew(self) -> None:
        """Write the record once more, so that the lease begins anew.

        Raises:
            RecordMovedError: Another worker took the lease over.
            StorageError: The record cannot be written.
        """
        async with self._turn:
            await self._change(lambda record: self._leased(record, self._lease))

    async def renew_for(self, upload_id: str) -> None:
        """Renew the lease and note the upload that whoever takes it over has to abort."""
        self._lease = self._lease.model_copy(update={"upload_id": upload_id})
        await self.renew()

    async def _renew_again_and_again(self) -> None:
        while True:
            # By the event loop's clock: a lease is counted in the real seconds of S3's clock.
            await asyncio.sleep(self._lease.seconds / 4)
            try:
                await self.renew()
            except StorageError as error:
                # The lease may run out; then the next renewal that succeeds tells whether it was taken over.
                log.warning("task %s: the lease of saving was not renewed: %s", self.attempt.task_id, error)

    async def _change(self, change: Callable[[JobRecord], JobRecord]) -> None:
        """Write the record while the lease is ours, whatever else moved in it.

        Raises:
            RecordMovedError: Another worker took the lease over.
        """

        def while_held(record: JobRecord) -> JobRecord:
            self._check_held(record)
            return change(record)

        try:
            self._stored = await self.jobs.records.advance(self._stored, change(self._stored.record))
        except RecordConflictError:
            self._stored = await self.jobs.records.change(self._stored.record.key, while_held)

    def _leased(self, record: JobRecord, lease: Lease, **facts: Any) -> JobRecord:
        return record.move("lease", self.attempt.number, task_id=self.attempt.task_id, saving=lease, **facts)

    def _check_held(self, record: JobRecord) -> None:
        held = record.attempt(self.attempt.number).saving
        if held is None or held.holder != self._lease.holder:
            raise RecordConflictError

    async def saved(self, copied: CopyResult) -> tuple[JobRecord, bool]:
        """Note the video in the record; returns it, and whether it was this worker that saved the video.

        Raises:
            RecordMovedError: Another worker took the lease over, and has not saved yet: what stands in the bucket is
                for that one to replace.
        """
        video = stored_video(self.object_key, copied)
        was_first = True

        def change(record: JobRecord) -> JobRecord:
            nonlocal was_first
            # A worker that took the lease over may have saved the same video meanwhile.
            was_first = record.attempt(self.attempt.number).state != "saved"
            if not was_first:
                return record
            self._check_held(record)
            return record.move("save", self.attempt.number, task_id=self.attempt.task_id, video=video, saving=None)

        try:
            stored = await self.jobs.records.advance(self._stored, change(self._stored.record))
        except RecordConflictError:
            stored = await self.jobs.records.change(self._stored.record.key, change)
        return stored.record, was_first

    async def release(self, **facts: Any) -> bool:
        """Let others save at once; if that fails, the lease runs out by itself.

        It stays in the record, over: if its upload could not be aborted, the next one has to.

        Args:
            facts: What the record keeps of this try to save: fields of the attempt.

        Returns:
            False where another worker took the lease over.
        """
        over = self._lease.model_copy(update={"seconds": 0.0})
        try:
            await self._change(lambda record: self._leased(record, over, **facts))
        except RecordConflictError:
            return False
        except StorageError as error:
            log.debug("task %s: the lease was not released: %s", self.attempt.task_id, error)
        return True


def stored_video(object_key: str, copied: CopyResult) -> StoredVideo:
    """What the record says of an object."""
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


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Wait for tasks that were cancelled, whatever they end with."""
    await asyncio.gather(*tasks, return_exceptions=True)


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
