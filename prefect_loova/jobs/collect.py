"""Finish what earlier runs left: look at each open job once, submit what is queued, save what is made, and end.

Made for a schedule of every minute or so. It holds no place for hours, and any number of collectors may run at once:
the job record decides who buys, and the lease who saves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prefect_loova._cancellation import task_group
from prefect_loova.errors import (
    AuthenticationError,
    InvalidRequestError,
    LoovaError,
    MissingVideoUrlError,
    RecordMismatchError,
    StorageError,
    TaskFailedError,
    TaskNotFoundError,
    TransferError,
    UnexpectedResponseError,
    WaitTimeoutError,
    redact,
)
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.collect_queue import QueuePass
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import complete_key, describe_doubt, expire_submission
from prefect_loova.jobs.queue import QueuedRequest, enqueue, queued_keys
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import poll_once, record_end
from prefect_loova.models.job_record import Attempt
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import Submission
from prefect_loova.store.records import RecordConflictError, StoredRecord, is_key

__all__ = ["CollectedVideos", "collect", "enqueue"]

SAVE_SECONDS = 120.0
"""How long one save may take in a pass, in seconds; doubled with each failure, so that a slow host ends as well."""

_LOOKS_AT_ONCE = 16
_SAVES_AT_ONCE = 3  # each takes some 40 MiB
_SILENT_IN_A_ROW = 16
_DOUBLED_AT_MOST = 4
_LONGEST_PAUSE = 3600.0
log = logging.getLogger(__name__)


async def collect(
    jobs: VideoJobs,
    *,
    slots: int = 6,
    key: str = "",
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = saving.MAX_BYTES,
    save_seconds: float = SAVE_SECONDS,
) -> CollectedVideos:
    """Look at every open job once; then submit what is queued, as far as places are free; then save what is made.

    Each job is an island: what cannot be read, submitted or saved is in `problems`, and stops no other one.

    Args:
        jobs: The API and the bucket.
        places: How many tasks may run at Loova at once.
        key: Only this job, by its key, the beginning of its key, or its Loova task; nothing is submitted then.
        upload_options: boto3's `ExtraArgs` of an upload.
        max_bytes: The largest video to accept, in bytes.
        save_seconds: How long one save may take, in seconds, doubled with each time that this video could not be
            saved, up to 16 times. It gives way then, and a later pass starts it over.

    Raises:
        InvalidRequestError: No job has this key or task.
        AuthenticationError: Loova does not accept the API key.
        StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    one = _Pass(jobs, dict(upload_options or {}), max_bytes, save_seconds)
    if key:
        await one.look_at(await _key_of(jobs, key))
        if one.refused is not None:
            raise one.refused
        await one.save(patiently=True)
        return one.found
    entries = [entry for entry in await jobs.records.list_objects("_open") if is_key(entry.name)]
    await _each(entries, lambda entry: one.look_at(entry.name, entry.age), _LOOKS_AT_ONCE)
    await one.check_key()
    await one.submit_queued(slots)
    await one.save()
    return one.found


async def _each(items: Sequence[Any], work: Any, at_once: int) -> None:
    turn = asyncio.Semaphore(at_once)

    async def one(item: Any) -> None:
        async with turn:
            await work(item)

    async with task_group() as group:
        for item in items:
            group.create_task(one(item))


async def _key_of(jobs: VideoJobs, name: str) -> str:
    """The job of a key, of the beginning of one, or of a Loova task."""
    if is_key(name.lower()):
        if await jobs.records.read(name.lower()) is None:
            raise InvalidRequestError(f"key: {name} was given: no job has such a key, or its record may not be read")
        return name.lower()
    unread = []
    for key in await jobs.records.list_open_keys():
        if key.startswith(name.lower()):
            return await complete_key(jobs, name)
        try:
            stored = await jobs.records.read(key)
        except Exception as error:
            unread.append(f"{key}: {redact(error)}")
            continue
        if stored and any(attempt.task_id == name for attempt in stored.record.attempts):
            return key
    more = f"; {len(unread)} open jobs could not be read, the first one is {unread[0]}" if unread else ""
    given = redact(repr(name), 120)
    raise InvalidRequestError(f"key: {given} was given: no open job has such a key or Loova task{more}")


class _InARow:
    """Counts failures in a row: where nothing answers any more, a pass need not ask a thousand times."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def note(self, failed: bool) -> None:
        self._count = self._count + 1 if failed else 0

    @property
    def is_over(self) -> bool:
        return self._count >= self._most


class _Pass:
    """One pass over the open jobs and the queue."""

    def __init__(self, jobs: VideoJobs, upload_options: dict[str, Any], max_bytes: int, save_seconds: float) -> None:
        self.jobs = jobs
        self.found = CollectedVideos()
        self.refused: AuthenticationError | None = None
        self.heard = False
        self._upload_options = upload_options
        self._max_bytes = max_bytes
        self._save_seconds = save_seconds
        self._made: list[tuple[StoredRecord, Attempt]] = []
        self._s3, self._loova = _InARow(_SILENT_IN_A_ROW), _InARow(_SILENT_IN_A_ROW)

    async def look_at(self, key: str, entry_age: float = 0.0) -> None:
        """Look at one job, and note what it waits for.

        Args:
            key: The request's key.
            entry_age: The age of its entry in the index, in seconds by S3's clock.
        """
        try:
            if self._s3.is_over:
                raise StorageError("not looked at in this pass, because S3 does not answer", transient=True)
            stored = await self._read(key)
            if stored is None:
                if entry_age >= self.jobs.times.forget_after:
                    # Whoever wrote the entry never claimed. If it does so now, this puts the entry back.
                    await self.jobs.records.unindex(key)
                return
            stored = await expire_submission(self.jobs, stored)
            if not stored.record.is_open:
                await self.jobs.records.unindex(key)
                return
            self._count(stored)
        except RecordConflictError:
            log.debug("job %s: another worker is at it", key)
        except Exception as error:
            if isinstance(error, RecordMismatchError) and error.is_other_api:
                log.debug("job %s: %s", key, error)
            else:
                self._problem(key, error)
        else:
            for attempt in stored.record.attempts:
                if attempt.state in ("submitted", "succeeded"):
                    await self._look_at_task(stored, attempt)

    async def _read(self, key: str) -> StoredRecord | None:
        try:
            stored = await self.jobs.records.read(key, denied_is_missing=False)
        except StorageError as error:
            self._s3.note(failed=error.transient)
            raise
        self._s3.note(failed=False)
        return stored

    def _count(self, stored: StoredRecord) -> None:
        record = stored.record
        for doubt in record.doubts:
            self.found.in_doubt.append(describe_doubt(self.jobs, record, doubt.number, None))
            self.found.running += stored.age < self.jobs.times.may_run
        self.found.running += sum(attempt.state in ("submitted", "submitting") for attempt in record.attempts)

    async def _look_at_task(self, stored: StoredRecord, attempt: Attempt) -> None:
        """Look at one paid attempt; what is wrong with it stops no other attempt of the job."""
        try:
            if attempt.state == "submitted" and not await self._has_ended(stored, attempt):
                return
        except RecordConflictError:
            log.debug("job %s: another worker is at it", stored.record.key)
        except TaskFailedError as error:
            self.found.failed.append((stored.record.key, redact(error)))
        except Exception as error:
            self._problem(stored.record.key, error)
        else:
            self._made.append((stored, attempt))

    async def _has_ended(self, stored: StoredRecord, attempt: Attempt) -> bool:
        jobs, submission = self.jobs, self.jobs.submission(stored.record, attempt.number, reused=True)
        try:
            if self._loova.is_over:
                raise UnexpectedResponseError("not asked for in this pass, because Loova does not answer")
            task = await poll_once(jobs, submission.task_id)
        except (TaskNotFoundError, MissingVideoUrlError):
            self.heard = True
            self._loova.note(failed=False)
            self.found.running -= 1
            raise
        except LoovaError as error:
            if isinstance(error, AuthenticationError):
                self.refused = error
            self._loova.note(failed=isinstance(error, UnexpectedResponseError))
            # What tells nothing usable for so long runs no more: else six of these would hold all places for ever.
            self.found.running -= stored.age >= jobs.times.may_run
            raise
        self.heard = True
        self._loova.note(failed=False)
        if task.state == "running":
            return False
        self.found.running -= 1
        await record_end(jobs, submission, task)
        return True

    async def check_key(self) -> None:
        """Where no task was answered: find out whether the API key is wrong, or the tasks are another account's.

        Raises:
            AuthenticationError: The key is wrong.
        """
        if self.refused is None or self.heard:
            return
        if 401 in (self.refused.http_status, self.refused.code):
            raise self.refused
        try:
            await self.jobs.loova.get_credits(tries=1)
        except UnexpectedResponseError as error:
            log.debug("whether the API key is right is not known: %s", error)

    async def save(self, *, patiently: bool = False) -> None:
        """Save what is made, three at a time, what failed before last.

        Args:
            patiently: Save at once and take all the time that it takes: for a person who asks for this job.
        """
        due = [one for one in self._made if patiently or not self._waits(*one)]
        due.sort(key=lambda one: one[1].save_failures)
        await _each(due, lambda one: self._save(one[0], one[1], patiently), _SAVES_AT_ONCE)

    def _waits(self, stored: StoredRecord, attempt: Attempt) -> bool:
        """Whether it could not be saved so lately that it is not tried in this pass."""
        if not attempt.save_failures:
            return False
        pause = min(self.jobs.times.save_again_after * 2.0 ** min(attempt.save_failures - 1, 30), _LONGEST_PAUSE)
        left = pause - stored.age
        if left > 0:
            failures = "time" if attempt.save_failures == 1 else "times"
            told = f"task {attempt.task_id} could not be saved {attempt.save_failures} {failures}"
            self._problem(stored.record.key, TransferError(f"{told}; it is tried again in {left:.0f} s"))
        return left > 0

    async def _save(self, stored: StoredRecord, attempt: Attempt, patiently: bool) -> None:
        key = stored.record.key
        seconds = self._save_seconds * 2.0 ** min(attempt.save_failures, _DOUBLED_AT_MOST)
        try:
            saved, _ = await saving.save_video(
                self.jobs,
                self.jobs.submission(stored.record, attempt.number, reused=True),
                upload_options=self._upload_options,
                max_bytes=self._max_bytes,
                max_wait=0,
                max_seconds=saving.MAX_SECONDS if patiently else seconds,
            )
        except WaitTimeoutError as error:
            log.debug("job %s: %s", key, error)  # another worker is saving it
        except Exception as error:
            self._problem(key, error)
        else:
            self.found.saved.append(saved)

    async def submit_queued(self, slots: int) -> None:
        """Submit what waits longest, one after the other, until no place is free.

        What is wrong with an entry leaves it where it is, and the next one has its turn.
        """
        keys = await queued_keys(self.jobs)
        self.found.queued = len(keys)

        async def submit(entry: QueuedRequest) -> Submission:
            return await submit_video(self.jobs, entry.request, max_wait=0, max_paid_attempts=entry.max_paid_attempts)

        queue = QueuePass(self.jobs, submit, self.found, self._count, self._problem)
        free = slots - self.found.running
        for key in keys:
            if free <= 0 or queue.is_stopped:
                return
            free -= await queue.submit(key)

    def _problem(self, key: str, error: Exception) -> None:
        log.warning("job %s: %s", key, error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}")
        told = error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}"
        self.found.problems.append((key, redact(told)))
