"""Finish what earlier runs left: look at each open job once, save what is made, submit what is queued, and end.

Made for a schedule of every minute or so. It holds no place for hours, and any number of collectors may run at once:
the job record decides who buys, and the lease who saves.

A detached batch queues its requests under `{prefix}/_open/queued/`, beside the index of open jobs, so that a look at
the open jobs costs the same however many are queued.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from prefect_loova import saving, submitting
from prefect_loova.cancelling import task_group
from prefect_loova.doubt import described, doubt_what_is_overdue, full_key
from prefect_loova.errors import (
    AuthenticationError,
    BudgetError,
    InDoubtError,
    InsufficientCreditsError,
    InvalidRequestError,
    LoovaError,
    MissingVideoUrlError,
    NotSentError,
    RecordMismatchError,
    RejectedError,
    StorageError,
    TaskFailedError,
    TaskNotFoundError,
    TooManyRunningTasksError,
    WaitTimeoutError,
    shown,
)
from prefect_loova.jobs import VideoJobs
from prefect_loova.models import STORED, JobInDoubt, SavedVideo, Submission, VideoRequest
from prefect_loova.records import RecordMovedError, StoredRecord, is_key
from prefect_loova.states import Attempt
from prefect_loova.waiting import ended, look

QUEUE = "_open/queued"
"""Where a detached batch puts what a collector is to submit, below the prefix."""

DOUBT_MAY_RUN = 4 * 3600.0
"""For how long a job in doubt may hold a place at Loova, in seconds; a generation takes up to 3 hours."""

_LOOKS_AT_ONCE = 16
_SAVES_AT_ONCE = 3  # each takes some 40 MiB
_STOPS = (TooManyRunningTasksError, InsufficientCreditsError, AuthenticationError, BudgetError, NotSentError)
_ABOUT_THE_REQUEST = (200, 400, 422)
"""HTTP statuses of a refusal that another request may escape; the others say something about the way to Loova."""

log = logging.getLogger(__name__)


class CollectedVideos(BaseModel):
    """What one pass found and did."""

    saved: list[SavedVideo] = Field(
        [], description="Videos that are in the bucket since this pass, or since another one at the same time."
    )
    failed: list[tuple[str, str]] = Field([], description="Jobs that ended without a video: key and reason.")
    in_doubt: list[JobInDoubt] = Field([], description="Jobs that wait for a person.")
    running: int = Field(0, description="How many jobs hold a place at Loova, or may.")
    submitted: list[Submission] = Field([], description="Queued jobs that this pass bought.")
    queued: int = Field(0, description="How many wait in the queue.")
    problems: list[tuple[str, str]] = Field([], description="What could not be looked at or saved: key and reason.")

    @property
    def summary(self) -> str:
        """One line for a log."""
        told = {
            "saved": len(self.saved),
            "failed": len(self.failed),
            "in doubt": len(self.in_doubt),
            "submitted": len(self.submitted),
            "running": self.running,
            "queued": self.queued,
            "with problems": len(self.problems),
        }
        return ", ".join(f"{count} {name}" for name, count in told.items() if count) or "nothing to do"


async def collect(
    jobs: VideoJobs,
    *,
    places: int = 6,
    key: str = "",
    upload_options: Mapping[str, Any] | None = None,
    max_bytes: int = saving.MAX_BYTES,
) -> CollectedVideos:
    """Look at every open job once, and go on with it; then submit what is queued, as far as places are free.

    Args:
        jobs: The API and the bucket.
        places: How many tasks may run at Loova at once.
        key: Only this job, by its key, the beginning of its key, or its Loova task; nothing is submitted then.
        upload_options: boto3's `ExtraArgs` of an upload.
        max_bytes: The largest video to accept, in bytes.

    Raises:
        InvalidRequestError: No job has this key or task.
        AuthenticationError: Loova does not accept the API key.
        StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    one = _Pass(jobs, dict(upload_options or {}), max_bytes)
    if key:
        await one.look_at(await _key_of(jobs, key))
    else:
        await _each(await jobs.records.open_keys(), one.look_at, _LOOKS_AT_ONCE)
    if one.refused is not None:
        raise one.refused
    if not key:
        await one.submit_queued(places)
    return one.found


async def queue(jobs: VideoJobs, requests: Sequence[VideoRequest], *, max_paid_attempts: int = 1) -> None:
    """Leave requests to a collector. Queued twice, a request is still bought once.

    Raises:
        InvalidRequestError: A media URL has a query: it may be a signature, which the queue must not hold.
        StorageError: The bucket cannot be written.
    """
    media = (url for one in requests for url in (*one.image_urls, *one.audio_urls, *one.video_urls))
    lost = [shown(url, 120) for url in media if "?" in url]
    if lost:
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        raise InvalidRequestError(
            f"media: {', '.join(lost[:10])}{more}: a URL with a query may be signed, and is not queued; "
            "run this batch with wait=True, or give URLs without one"
        )

    async def put(request: VideoRequest) -> None:
        entry = {
            "format": 1,
            "api_origin": jobs.loova.origin,
            "request": request.model_dump(mode="json"),
            "max_paid_attempts": max_paid_attempts,
        }
        await jobs.records.put_json(jobs.records.object_key(QUEUE, request.key), entry)

    await _each(requests, put, _LOOKS_AT_ONCE)


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
    for key in await jobs.records.open_keys():
        if key.startswith(name.lower()):
            return await full_key(jobs, name)
        stored = await jobs.records.read(key)
        if stored and any(attempt.task_id == name for attempt in stored.record.attempts):
            return key
    raise InvalidRequestError(f"key: {shown(repr(name), 120)} was given: no open job has such a key or Loova task")


class _Pass:
    """One pass over the open jobs."""

    def __init__(self, jobs: VideoJobs, upload_options: dict[str, Any], max_bytes: int) -> None:
        self.jobs = jobs
        self.found = CollectedVideos()
        self.refused: AuthenticationError | None = None
        self._upload_options = upload_options
        self._max_bytes = max_bytes
        self._saves = asyncio.Semaphore(_SAVES_AT_ONCE)

    async def look_at(self, key: str) -> None:
        """Take one job as far as it goes now."""
        try:
            stored = await self.jobs.records.read(key)
            if stored is None:
                return  # whoever wrote the index has yet to claim
            stored = await doubt_what_is_overdue(self.jobs, stored)
            if not stored.record.is_open:
                await self.jobs.records.note_ended(key)
                return
            self._count(stored)
        except RecordMovedError:
            log.debug("job %s: another worker is at it", key)
        except RecordMismatchError as error:
            log.debug("job %s: %s", key, error)  # another API's
        except Exception as error:
            self._problem(key, error)
        else:
            for attempt in stored.record.attempts:
                if attempt.state in ("submitted", "succeeded"):
                    await self._look_at_task(stored, attempt)

    async def _look_at_task(self, stored: StoredRecord, attempt: Attempt) -> None:
        """Take one paid attempt as far as it goes now; what is wrong with it stops no other attempt of the job."""
        try:
            await self._finish(stored, attempt)
        except RecordMovedError:
            log.debug("job %s: another worker is at it", stored.record.key)
        except AuthenticationError as error:
            self.refused = error
        except Exception as error:
            self._problem(stored.record.key, error)

    def _count(self, stored: StoredRecord) -> None:
        record = stored.record
        for doubt in record.doubts:
            self.found.in_doubt.append(described(self.jobs, record, doubt.number, None))
            self.found.running += stored.age < DOUBT_MAY_RUN
        self.found.running += sum(attempt.state in ("submitted", "submitting") for attempt in record.attempts)

    async def _finish(self, stored: StoredRecord, attempt: Attempt) -> None:
        jobs, submission = self.jobs, self.jobs.submission(stored.record, attempt.number, reused=True)
        if attempt.state == "submitted":
            try:
                task = await look(jobs, submission.task_id)
            except (TaskNotFoundError, MissingVideoUrlError):
                self.found.running -= 1
                raise
            if task.state == "running":
                return
            self.found.running -= 1
            try:
                await ended(jobs, submission, task)
            except TaskFailedError as error:
                self.found.failed.append((stored.record.key, shown(error)))
                return
        try:
            async with self._saves:
                options, most = self._upload_options, self._max_bytes
                saved = await saving.save_video(jobs, submission, upload_options=options, max_bytes=most, max_wait=0)
        except WaitTimeoutError as error:
            log.debug("job %s: %s", stored.record.key, error)  # another worker is saving it
        else:
            self.found.saved.append(saved)

    async def submit_queued(self, places: int) -> None:
        """Submit what waits longest, one after the other, until no place is free."""
        free = places - self.found.running
        listed = [one for one in await self.jobs.records.listed(QUEUE) if is_key(one.name)]
        waiting = sorted(listed, key=lambda one: (one.written, one.name))
        self.found.queued = len(waiting)
        for entry in waiting:
            if free <= 0:
                return
            try:
                free -= await self._submit(entry.name)
            except (StorageError, *_STOPS, RejectedError, InDoubtError) as error:
                # One lost answer may be bad luck; the next pass goes on. Whatever refuses this one refuses the next.
                log.warning("%d queued jobs wait: %s", self.found.queued, error)
                return

    async def _submit(self, key: str) -> bool:
        """Submit one queued job; returns whether it took a place."""
        records, name = self.jobs.records, self.jobs.records.object_key(QUEUE, key)
        try:
            queued = await self._queued(name)
            if queued is None:
                return True  # another collector was faster, and has the place
            request, max_paid_attempts = queued
            submission = await submitting.submit_video(
                self.jobs, request, max_wait=0, max_paid_attempts=max_paid_attempts
            )
        except _STOPS:
            raise
        except WaitTimeoutError:
            return True  # another collector is at it
        except StorageError as error:
            self._problem(key, error)
            raise
        except (InDoubtError, RejectedError) as error:
            if isinstance(error, RejectedError) and error.http_status not in _ABOUT_THE_REQUEST:
                raise
            await self._dequeued(name)
            if isinstance(error, InDoubtError):
                is_counted = any(job.key == key for job in self.found.in_doubt)
                if not is_counted:
                    self._count(await records.expect(key))
                if error.found:
                    return not is_counted
                raise
            self.found.failed.append((key, shown(error)))
            return False
        except LoovaError as error:
            await self._dequeued(name)
            self.found.failed.append((key, shown(error)))
            return False
        await self._dequeued(name)
        if submission.state in ("succeeded", "saved"):
            return False
        if not submission.reused:
            self.found.submitted.append(submission)
        self.found.running += 1
        return True

    async def _dequeued(self, name: str) -> None:
        await self.jobs.records.delete(name)
        self.found.queued -= 1

    async def _queued(self, name: str) -> tuple[VideoRequest, int] | None:
        entry = await self.jobs.records.get_json(name)
        if entry is None:
            return None
        try:
            content = entry[0]
            if content["api_origin"] != self.jobs.loova.origin:
                raise ValueError("it is for another API")
            return VideoRequest.model_validate(content["request"], context=STORED), int(content["max_paid_attempts"])
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.jobs.records.uri(name)} is no queued request: {shown(error)}") from None

    def _problem(self, key: str, error: Exception) -> None:
        log.warning("job %s: %s", key, error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}")
        self.found.problems.append((key, shown(error)))
