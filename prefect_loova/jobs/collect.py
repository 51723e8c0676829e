"""Look at the open jobs: poll each, submit queued requests, and save finished videos.

Run it on a schedule of about one minute. By default it looks once and ends. With `keep_for` it looks again until that
time is over, so that a slot does not stay free until the next run. It holds no slot while it waits. Several collectors
may run at the same time: the job record decides which one buys, and the lease which one saves.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect_loova._cancellation import task_group
from prefect_loova._concurrency import map_bounded
from prefect_loova._timing import POLL_SECONDS, Deadline
from prefect_loova.errors import (
    AuthenticationError,
    LoovaError,
    MissingVideoUrlError,
    RecordMismatchError,
    StorageError,
    TaskFailedError,
    TaskNotFoundError,
    UnexpectedResponseError,
)
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.collect_queue import QueuePass
from prefect_loova.jobs.collect_saves import Saves
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import describe_doubt, expire_submission
from prefect_loova.jobs.handover import handed_over
from prefect_loova.jobs.keys import find_open_key
from prefect_loova.jobs.queue import QueuedRequest, enqueue, queued_keys
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import PollSchedule, poll_once, record_end
from prefect_loova.models.attempts import Attempt
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.store.records import RecordConflictError, StoredRecord, is_key

__all__ = ["CollectedVideos", "collect", "enqueue"]

SAVE_SECONDS = 120.0
"""The default time for one save in a pass, in seconds. It doubles with each failure, so that a slow host can finish."""

_CONCURRENT_JOBS = 16
_MAX_FAILURES_IN_A_ROW = 16
_MAX_DOUBLINGS = 4
_LIST_QUEUE_SECONDS = 60.0
"""How long the list of queued requests is used: a list of 10,000 takes 10 requests, and a look needs a few entries."""
_LOOKS_A_POLL = 20
"""The most looks in `poll_seconds`. Polls that are due at about the same time share a look."""

log = logging.getLogger(__name__)


async def _show_nothing(saved: SavedVideo) -> None:
    """Do nothing: the default for `on_saved`."""


async def collect(
    jobs: VideoJobs,
    *,
    slots: int = 6,
    key: str = "",
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = saving.MAX_BYTES,
    save_seconds: float = SAVE_SECONDS,
    keep_for: float = 0.0,
    poll_seconds: float = POLL_SECONDS,
    on_saved: Callable[[SavedVideo], Awaitable[None]] = _show_nothing,
) -> CollectedVideos:
    """Process every open job, then submit queued requests while slots are free, then save finished videos.

    A job that cannot be read, submitted or saved is listed in `problems` and does not stop the others.

    Args:
        jobs: The API and the bucket.
        slots: How many tasks may run at Loova at the same time.
        key: Process only this job, by its key, the beginning of its key, or its Loova task. Nothing is submitted then.
        upload_options: boto3's `ExtraArgs` for the upload.
        max_bytes: The largest video to accept, in bytes.
        save_seconds: Seconds for one save, doubled with each failed save of the video, up to 16 times as long. After
            that time a later pass starts the save again.
        keep_for: Seconds to go on, while tasks run or requests are queued. Each task is polled as `PollSchedule` says,
            and a queued request takes the slot of a task that ended before its video is saved. 0: look once.
        poll_seconds: The longest first pause between polls, in seconds. Later pauses grow with the time waited.
        on_saved: Called for each saved video, before the next one is saved.

    Raises:
        InvalidRequestError: No job has this key or task.
        AuthenticationError: Loova does not accept the API key.
        StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached. With `keep_for`, S3 is
            asked again until the time is over.
    """
    report = CollectedVideos()

    async def save(stored: StoredRecord, attempt: Attempt) -> SavedVideo:
        seconds = save_seconds * 2.0 ** min(attempt.save_failures, _MAX_DOUBLINGS)
        with handed_over() as handover:
            handover.stored = stored
            saved, _ = await saving.save_video(
                jobs,
                jobs.submission(stored.record, attempt.number, reused=True),
                upload_options=upload_options,
                max_bytes=max_bytes,
                max_wait=0,
                max_seconds=saving.MAX_SECONDS if key else seconds,
            )
        return saved

    # A job that a person asked for is saved at once, and without the time limit of a pass.
    saves = Saves(report, save, 0.0 if key else jobs.times.save_again_after, on_saved)
    run = _Pass(jobs, report, saves, poll_seconds)
    deadline = Deadline(keep_for, jobs.clock)
    async with task_group() as group:
        if key:
            await run.process(await find_open_key(jobs.records, key))
            if run.refused is not None:
                raise run.refused
            saves.start(group)
            return report
        while True:
            is_over, pause = False, poll_seconds
            try:
                await run.look()
                await run.check_api_key()
                await run.submit_queued(slots)
                is_over, pause = deadline.left <= 0 or run.is_idle, run.pause()
            except StorageError as error:
                if not error.transient or deadline.left <= 0:
                    raise
                log.warning("%s. The collector lists it again in %.0f s", error, poll_seconds)
            saves.start(group)
            if is_over:
                return report
            await jobs.sleep(min(pause, deadline.left))


class _FailureCount:
    """Counts failures in a row, so that a pass stops asking a server that does not respond."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, failed: bool) -> None:
        self._count = self._count + 1 if failed else 0

    @property
    def is_down(self) -> bool:
        return self._count >= _MAX_FAILURES_IN_A_ROW


@dataclass
class _OpenJob:
    """What the last look knows of an open job: its slots, whether a task of it runs, and when to look again.

    `stored` is the record of a job that only waits for its tasks, as it was at `read_at`.
    """

    slots: int = 0
    runs: bool = False
    due: float = 0.0
    stored: StoredRecord | None = None
    read_at: float = 0.0


class _Pass:
    """One or more looks at the open jobs and the queue. `refused` is the error if Loova refused the key for a task."""

    def __init__(self, jobs: VideoJobs, report: CollectedVideos, saves: Saves, poll_seconds: float) -> None:
        self.report = report
        self.refused: AuthenticationError | None = None
        self._jobs = jobs
        self._saves = saves
        self._poll_seconds = poll_seconds
        self._schedule = PollSchedule(first=poll_seconds)
        self._is_key_accepted = False
        self._s3, self._loova = _FailureCount(), _FailureCount()
        self._open: dict[str, _OpenJob] = {}
        self._listed_at = self._queue_listed_at = self._submit_after = -math.inf
        self._must_list = True
        self._queue = deque[str]()

    async def look(self) -> None:
        """Process the jobs that are due. List the index if one of them ended, or after `poll_seconds`."""
        now = self._jobs.clock()
        self._s3, self._loova = _FailureCount(), _FailureCount()
        self.refused, self._is_key_accepted = None, False
        self._must_list = now - self._listed_at >= self._poll_seconds
        due = [key for key, job in self._open.items() if job.due <= now]
        await map_bounded(self.process, due, _CONCURRENT_JOBS)
        if not self._must_list:
            return
        now = self._jobs.clock()
        entries = [entry for entry in await self._jobs.records.list_objects("_open") if is_key(entry.name)]
        self._listed_at = now
        self._open = {entry.name: self._open[entry.name] for entry in entries if entry.name in self._open}
        self.report.running = sum(job.slots for job in self._open.values())
        new = [entry for entry in entries if entry.name not in self._open]
        await map_bounded(lambda entry: self.process(entry.name, entry.age), new, _CONCURRENT_JOBS)

    @property
    def is_idle(self) -> bool:
        """Whether no task runs and no request is queued."""
        return not self.report.queued and not any(job.runs for job in self._open.values())

    def pause(self) -> float:
        """Return the seconds until the next look."""
        due = min([self._listed_at + self._poll_seconds, *(job.due for job in self._open.values())])
        return max(due - self._jobs.clock(), self._poll_seconds / _LOOKS_A_POLL)

    async def process(self, key: str, entry_age: float = 0.0) -> None:
        """Read one job, and poll its running tasks once.

        `entry_age` is the age of the job's entry in the index, in seconds by S3's clock.
        """
        self._forget(key)
        job = self._open.setdefault(key, _OpenJob())
        job.runs, job.due = False, self._jobs.clock() + self._poll_seconds
        try:
            if self._s3.is_down:
                raise StorageError("skipped in this pass, because S3 does not respond", transient=True)
            stored = await self._read(key, job)
            if stored is None:
                if entry_age >= self._jobs.times.forget_after:
                    # The worker that wrote the entry never claimed. If it claims now, `unindex` restores the entry.
                    await self._jobs.records.unindex(key)
                return
            stored = await expire_submission(self._jobs, stored)
            if not stored.record.is_open:
                await self._jobs.records.unindex(key)
                self._hold(key, 0)
                return
            self._count(stored)
        except RecordConflictError:
            log.debug("job %s: another worker is working on it", key)
        except Exception as error:
            if isinstance(error, RecordMismatchError) and error.is_other_api:
                log.debug("job %s: %s", key, error)
            else:
                self.report.add_problem(key, error)
        else:
            for attempt in stored.record.attempts:
                if attempt.state in ("submitted", "succeeded"):
                    await self._process_attempt(stored, attempt)

    def _forget(self, key: str) -> None:
        """Remove what an earlier look reported of a job that is open still."""
        self.report.in_doubt[:] = [one for one in self.report.in_doubt if one.key != key]
        self.report.problems[:] = [one for one in self.report.problems if one[0] != key]

    async def _read(self, key: str, job: _OpenJob) -> StoredRecord | None:
        now = self._jobs.clock()
        known, job.stored, read_at, job.read_at = job.stored, None, job.read_at, now
        if known is not None:
            return replace(known, age=known.age + now - read_at)
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
        doubts = len(record.doubts) if stored.age < self._jobs.times.may_run else 0
        self._hold(record.key, doubts + sum(one.state in ("submitted", "submitting") for one in record.attempts))

    def _hold(self, key: str, slots: int) -> None:
        """Count the slots of a job; tell the look to list the index if it has fewer than before."""
        job = self._open.setdefault(key, _OpenJob())
        self._must_list = self._must_list or slots < job.slots
        self.report.running += slots - job.slots
        job.slots = slots

    async def _process_attempt(self, stored: StoredRecord, attempt: Attempt) -> None:
        """Poll the task of one attempt. A problem does not stop the other attempts of the job."""
        try:
            ended = await self._ended(stored, attempt) if attempt.state == "submitted" else stored
        except RecordConflictError:
            log.debug("job %s: another worker is working on it", stored.record.key)
        except TaskFailedError as error:
            self.report.add_failure(stored.record.key, error)
        except Exception as error:
            self.report.add_problem(stored.record.key, error)
        else:
            attempt = ended.record.attempt(attempt.number) if ended else attempt
            if ended is not None and attempt.state == "succeeded":  # else another collector has saved it
                self._saves.add(ended, attempt)

    async def _ended(self, stored: StoredRecord, attempt: Attempt) -> StoredRecord | None:
        """Poll the task of an attempt. Return the record with the end of the task, or None while the task runs."""
        jobs, submission = self._jobs, self._jobs.submission(stored.record, attempt.number, reused=True)
        job = self._open[stored.record.key]
        try:
            if self._loova.is_down:
                raise UnexpectedResponseError("skipped in this pass, because Loova does not respond")
            task = await poll_once(jobs, submission.task_id)
        except (TaskNotFoundError, MissingVideoUrlError):
            self._is_key_accepted = True
            self._loova.add(failed=False)
            self._hold(stored.record.key, job.slots - 1)
            raise
        except LoovaError as error:
            if isinstance(error, AuthenticationError):
                self.refused = error
            self._loova.add(failed=isinstance(error, UnexpectedResponseError))
            # After so long without a usable answer the task no longer holds a slot, or it could hold it forever.
            self._hold(stored.record.key, job.slots - (stored.age >= jobs.times.may_run))
            job.runs = True
            raise
        self._is_key_accepted = True
        self._loova.add(failed=False)
        if task.state == "running":
            job.runs, job.due = True, jobs.clock() + self._schedule.pause(stored.age)
            if all(one.state == "submitted" for one in stored.record.attempts):
                # Whoever ends the job, Loova's next answer says so too, and S3 refuses a write of an old record.
                job.stored = stored
            return None
        self._hold(stored.record.key, job.slots - 1)
        return await record_end(jobs, submission, task, known=stored)

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

    async def submit_queued(self, slots: int) -> None:
        """Submit queued requests one after the other, the oldest first, until no slot is free.

        An entry with a problem stays in the queue, and the next entry is submitted. After a look that did not list the
        index, nothing is submitted, because another collector may have taken the slots.
        """
        now = self._jobs.clock()
        if not self._must_list or now < self._submit_after:
            return
        is_new = now - self._queue_listed_at >= (_LIST_QUEUE_SECONDS if self.report.queued else self._poll_seconds)
        if is_new:
            self._queue, self._queue_listed_at = deque(await queued_keys(self._jobs)), now
            self.report.queued = len(self._queue)

        async def submit(entry: QueuedRequest) -> Submission:
            made = await submit_video(self._jobs, entry.request, max_wait=0, max_paid_attempts=entry.max_paid_attempts)
            if made.state == "submitted":
                due = self._jobs.clock() + self._schedule.pause(0)
                self._open.setdefault(made.key, _OpenJob(slots=1, runs=True, due=due))
            return made

        queue = QueuePass(self._jobs, submit, self.report, self._count)
        free = slots - self.report.running
        while self._queue and free > 0 and not queue.is_stopped:
            free -= await queue.submit(self._queue.popleft(), is_new_list=is_new)
        if queue.is_stopped:
            # The entries that were not submitted are listed again.
            wait = self._poll_seconds if queue.is_full else _LIST_QUEUE_SECONDS
            self._submit_after, self._queue_listed_at = now + wait, -math.inf
