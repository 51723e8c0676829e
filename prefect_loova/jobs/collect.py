"""One pass over the open jobs: poll each once, submit queued requests, and save finished videos.

Run it on a schedule of about one minute. A pass ends soon and holds no slot while it waits. Several collectors may run
at the same time: the job record decides which one buys, and the lease which one saves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect_loova._concurrency import map_bounded
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
from prefect_loova.models.attempts import Attempt
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import Submission
from prefect_loova.store.records import RecordConflictError, StoredRecord, is_key

__all__ = ["CollectedVideos", "collect", "enqueue"]

SAVE_SECONDS = 120.0
"""The default time for one save in a pass, in seconds. It doubles with each failure, so that a slow host can finish."""

_CONCURRENT_JOBS = 16
_CONCURRENT_SAVES = 3  # each takes about 40 MiB of memory
_MAX_FAILURES_IN_A_ROW = 16
_MAX_DOUBLINGS = 4
_MAX_PAUSE = 3600.0
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
    """Process every open job once, then submit queued requests while slots are free, then save finished videos.

    A job that cannot be read, submitted or saved is listed in `problems` and does not stop the others.

    Args:
        jobs: The API and the bucket.
        slots: How many tasks may run at Loova at the same time.
        key: Process only this job, by its key, the beginning of its key, or its Loova task. Nothing is submitted then.
        upload_options: boto3's `ExtraArgs` for the upload.
        max_bytes: The largest video to accept, in bytes.
        save_seconds: Seconds for one save, doubled with each failed save of the video, up to 16 times as long. After
            that time a later pass starts the save again.

    Raises:
        InvalidRequestError: No job has this key or task.
        AuthenticationError: Loova does not accept the API key.
        StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    run = _Pass(jobs, dict(upload_options or {}), max_bytes, save_seconds)
    if key:
        await run.process(await _find_key(jobs, key))
        if run.refused is not None:
            raise run.refused
        await run.save(is_requested=True)
        return run.report
    entries = [entry for entry in await jobs.records.list_objects("_open") if is_key(entry.name)]
    await map_bounded(lambda entry: run.process(entry.name, entry.age), entries, _CONCURRENT_JOBS)
    await run.check_api_key()
    await run.submit_queued(slots)
    await run.save()
    return run.report


async def _find_key(jobs: VideoJobs, name: str) -> str:
    """Return the key of a job by its key, the beginning of its key, or its Loova task."""
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


class _FailureCount:
    """Counts failures in a row, so that a pass stops asking a server that does not respond."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, failed: bool) -> None:
        self._count = self._count + 1 if failed else 0

    @property
    def is_down(self) -> bool:
        return self._count >= _MAX_FAILURES_IN_A_ROW


class _Pass:
    """One pass over the open jobs and the queue. `refused` is the error if Loova refused the API key for a task."""

    def __init__(self, jobs: VideoJobs, upload_options: dict[str, Any], max_bytes: int, save_seconds: float) -> None:
        self.report = CollectedVideos()
        self.refused: AuthenticationError | None = None
        self._jobs = jobs
        self._upload_options = upload_options
        self._max_bytes = max_bytes
        self._save_seconds = save_seconds
        self._is_key_accepted = False
        self._finished: list[tuple[StoredRecord, Attempt]] = []
        self._s3, self._loova = _FailureCount(), _FailureCount()

    async def process(self, key: str, entry_age: float = 0.0) -> None:
        """Read one job, and poll its running tasks once.

        `entry_age` is the age of the job's entry in the index, in seconds by S3's clock.
        """
        try:
            if self._s3.is_down:
                raise StorageError("skipped in this pass, because S3 does not respond", transient=True)
            stored = await self._read(key)
            if stored is None:
                if entry_age >= self._jobs.times.forget_after:
                    # The worker that wrote the entry never claimed. If it claims now, `unindex` restores the entry.
                    await self._jobs.records.unindex(key)
                return
            stored = await expire_submission(self._jobs, stored)
            if not stored.record.is_open:
                await self._jobs.records.unindex(key)
                return
            self._count(stored)
        except RecordConflictError:
            log.debug("job %s: another worker is working on it", key)
        except Exception as error:
            if isinstance(error, RecordMismatchError) and error.is_other_api:
                log.debug("job %s: %s", key, error)
            else:
                self._add_problem(key, error)
        else:
            for attempt in stored.record.attempts:
                if attempt.state in ("submitted", "succeeded"):
                    await self._process_attempt(stored, attempt)

    async def _read(self, key: str) -> StoredRecord | None:
        try:
            stored = await self._jobs.records.read(key, denied_is_missing=False)
        except StorageError as error:
            self._s3.add(failed=error.transient)
            raise
        self._s3.add(failed=False)
        return stored

    def _count(self, stored: StoredRecord) -> None:
        record = stored.record
        for doubt in record.doubts:
            self.report.in_doubt.append(describe_doubt(self._jobs, record, doubt.number, None))
            self.report.running += stored.age < self._jobs.times.may_run
        self.report.running += sum(attempt.state in ("submitted", "submitting") for attempt in record.attempts)

    async def _process_attempt(self, stored: StoredRecord, attempt: Attempt) -> None:
        """Poll the task of one attempt. A problem does not stop the other attempts of the job."""
        try:
            if attempt.state == "submitted" and not await self._has_ended(stored, attempt):
                return
        except RecordConflictError:
            log.debug("job %s: another worker is working on it", stored.record.key)
        except TaskFailedError as error:
            self.report.add_failure(stored.record.key, error)
        except Exception as error:
            self._add_problem(stored.record.key, error)
        else:
            self._finished.append((stored, attempt))

    async def _has_ended(self, stored: StoredRecord, attempt: Attempt) -> bool:
        jobs, submission = self._jobs, self._jobs.submission(stored.record, attempt.number, reused=True)
        try:
            if self._loova.is_down:
                raise UnexpectedResponseError("skipped in this pass, because Loova does not respond")
            task = await poll_once(jobs, submission.task_id)
        except (TaskNotFoundError, MissingVideoUrlError):
            self._is_key_accepted = True
            self._loova.add(failed=False)
            self.report.running -= 1
            raise
        except LoovaError as error:
            if isinstance(error, AuthenticationError):
                self.refused = error
            self._loova.add(failed=isinstance(error, UnexpectedResponseError))
            # After so long without a usable answer the task no longer holds a slot, or it could hold it forever.
            self.report.running -= stored.age >= jobs.times.may_run
            raise
        self._is_key_accepted = True
        self._loova.add(failed=False)
        if task.state == "running":
            return False
        self.report.running -= 1
        await record_end(jobs, submission, task)
        return True

    async def check_api_key(self) -> None:
        """If Loova refused every poll, find out whether the API key is wrong or the tasks belong to another account.

        Raises:
            AuthenticationError: The key is wrong.
        """
        if self.refused is None or self._is_key_accepted:
            return
        if 401 in (self.refused.http_status, self.refused.code):
            raise self.refused
        try:
            await self._jobs.loova.get_credits(tries=1)
        except UnexpectedResponseError as error:
            log.debug("cannot check the API key: %s", error)

    async def save(self, *, is_requested: bool = False) -> None:
        """Save the finished videos, three at a time. Videos that failed before are last.

        If a person requested the job, it is saved at once and without the time limit of a pass.
        """
        due = [one for one in self._finished if is_requested or not self._must_wait(*one)]
        due.sort(key=lambda one: one[1].save_failures)
        await map_bounded(lambda one: self._save(*one, is_requested), due, _CONCURRENT_SAVES)

    def _must_wait(self, stored: StoredRecord, attempt: Attempt) -> bool:
        """Return whether the last save failed so recently that this pass does not retry it."""
        if not attempt.save_failures:
            return False
        pause = min(self._jobs.times.save_again_after * 2.0 ** min(attempt.save_failures - 1, 30), _MAX_PAUSE)
        left = pause - stored.age
        if left > 0:
            times = "1 time" if attempt.save_failures == 1 else f"{attempt.save_failures} times"
            problem = f"task {attempt.task_id} could not be saved {times}; the next try is in {left:.0f} s"
            self._add_problem(stored.record.key, TransferError(problem))
        return left > 0

    async def _save(self, stored: StoredRecord, attempt: Attempt, is_requested: bool) -> None:
        key = stored.record.key
        seconds = self._save_seconds * 2.0 ** min(attempt.save_failures, _MAX_DOUBLINGS)
        try:
            saved, _ = await saving.save_video(
                self._jobs,
                self._jobs.submission(stored.record, attempt.number, reused=True),
                upload_options=self._upload_options,
                max_bytes=self._max_bytes,
                max_wait=0,
                max_seconds=saving.MAX_SECONDS if is_requested else seconds,
            )
        except WaitTimeoutError as error:
            log.debug("job %s: %s", key, error)  # another worker is saving it
        except Exception as error:
            self._add_problem(key, error)
        else:
            self.report.saved.append(saved)

    async def submit_queued(self, slots: int) -> None:
        """Submit queued requests one after the other, the oldest first, until no slot is free.

        An entry with a problem stays in the queue, and the next entry is submitted.
        """
        keys = await queued_keys(self._jobs)
        self.report.queued = len(keys)

        async def submit(entry: QueuedRequest) -> Submission:
            return await submit_video(self._jobs, entry.request, max_wait=0, max_paid_attempts=entry.max_paid_attempts)

        queue = QueuePass(self._jobs, submit, self.report, self._count, self._add_problem)
        free = slots - self.report.running
        for key in keys:
            if free <= 0 or queue.is_stopped:
                return
            free -= await queue.submit(key)

    def _add_problem(self, key: str, error: Exception) -> None:
        # Only our own errors are known to hold no secret.
        problem = error if isinstance(error, LoovaError) else redact(f"{type(error).__name__}: {error}")
        log.warning("job %s: %s", key, problem)
        self.report.problems.append((key, redact(problem)))
