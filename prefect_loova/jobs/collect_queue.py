"""Submit queued requests one after the other. A problem with one entry does not stop the others.

There are three kinds of errors:

- The way to Loova or S3 is broken. The other entries wait for the next pass.
- The entry is bad. It is reported and stays in the queue, or it ends as failed. The next entry is submitted.
- The error may mean either, such as a refusal with HTTP 403. The next entry is submitted. If Loova accepts that one,
  the refusal was about the first request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from prefect_loova.errors import (
    BudgetError,
    ContentRefusedError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    NotSentError,
    RecordMismatchError,
    RejectedError,
    StorageError,
    TooManyRunningTasksError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.queue import QueuedRequest, dequeue, read_queued
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import Submission
from prefect_loova.store.records import StoredRecord

_TOO_EXPENSIVE = (InsufficientCreditsError, BudgetError)
_ABOUT_THE_REQUEST = (200, 400, 413, 422, 451)
"""HTTP statuses of refusals that are about the request."""

_MAX_STORAGE_ERRORS = 3
_MAX_SUSPECTS = 10
"""How many refusals in a row that may mean either stop the submits of a pass."""

_MAX_SKIPPED = 200
"""How many entries in a row a pass reads only to find that they are too expensive."""

log = logging.getLogger(__name__)


class QueuePass:
    """The submits of one look. If `is_stopped` is true, the other entries wait. `is_full`: Loova has no free slot.

    `submit` submits one request without waiting. `count` adds a job in doubt and its slots to the report.
    """

    def __init__(
        self,
        jobs: VideoJobs,
        submit: Callable[[QueuedRequest], Awaitable[Submission]],
        report: CollectedVideos,
        count: Callable[[StoredRecord], None],
    ) -> None:
        self.is_stopped = self.is_full = False
        self._jobs = jobs
        self._submit = submit
        self._report = report
        self._count = count
        self._too_expensive = math.inf
        self._skipped = 0
        self._storage_errors = 0
        self._suspects: list[tuple[QueuedRequest, LoovaError]] = []

    async def submit(self, key: str, *, is_new_list: bool = True) -> bool:
        """Submit one queued request. Return whether a slot was taken that the collector has not counted.

        `is_new_list` is whether the queue was listed after the open jobs were counted.
        """
        try:
            entry = await read_queued(self._jobs, key)
            if entry is None:  # another collector submitted it and took the slot
                self._report.queued -= 1
                return is_new_list
            if entry.request.estimate_credits(self._jobs.loova.models) >= self._too_expensive:
                self._skipped += 1
                self.is_stopped = self._skipped >= _MAX_SKIPPED
                return False
            self._skipped = 0
            return await self._buy(entry)
        except StorageError as error:
            self._report.add_problem(key, error)
            self._storage_errors += error.transient
            if self._storage_errors >= _MAX_STORAGE_ERRORS:
                self._stop(error)
        except Exception as error:
            self._report.add_problem(key, error)
        return False

    async def _buy(self, entry: QueuedRequest) -> bool:
        try:
            submission = await self._submit(entry)
        except WaitTimeoutError:
            self._report.queued -= 1
            return True  # another collector is submitting it
        except (StorageError, RecordMismatchError):
            raise  # the record cannot be used: the entry stays in the queue and is reported
        except _TOO_EXPENSIVE as error:
            log.warning("job %s waits: %s", entry.key, error)
            self._too_expensive = min(self._too_expensive, entry.request.estimate_credits(self._jobs.loova.models))
        except (TooManyRunningTasksError, NotSentError) as error:
            self.is_full = isinstance(error, TooManyRunningTasksError)
            self._stop(error)  # the next entry would fail too
        except InDoubtError as error:
            return await self._in_doubt(entry, error)
        except RejectedError as error:
            await self._rejected(entry, error)
        except LoovaError as error:
            await self._failed(entry, error)
        else:
            return await self._bought(entry, submission)
        return False

    async def _bought(self, entry: QueuedRequest, submission: Submission) -> bool:
        await self._dequeue(entry)
        if submission.state in ("succeeded", "saved"):
            return False
        if not submission.reused:
            self._report.submitted.append(submission)
            self._storage_errors = 0
            for suspect, error in self._suspects:
                await self._failed(suspect, error)  # Loova accepts other requests, so it refused this request
            self._suspects.clear()
        self._report.running += 1
        return True

    async def _in_doubt(self, entry: QueuedRequest, error: InDoubtError) -> bool:
        await self._dequeue(entry)
        key = error.key or entry.key  # the fallback prompt has another key
        is_counted = any(job.key == key for job in self._report.in_doubt)
        if not is_counted:
            self._count(await self._jobs.records.expect(key))
        if not error.found:
            self._stop(error)  # more answers may be lost; the next pass tries again
        return not is_counted

    async def _rejected(self, entry: QueuedRequest, error: RejectedError) -> None:
        is_about_it = error.http_status in _ABOUT_THE_REQUEST and error.code != 401
        if is_about_it or isinstance(error, ContentRefusedError):
            await self._failed(entry, error)
            return
        statuses = {error.http_status, error.code}
        if 401 in statuses or error.http_status is None or not 400 <= error.http_status < 500:
            self._stop(error)
            return
        self._report.add_problem(entry.key, error)
        self._suspects.append((entry, error))
        if len(self._suspects) >= _MAX_SUSPECTS:
            self._stop(error)

    async def _failed(self, entry: QueuedRequest, error: LoovaError) -> None:
        await self._dequeue(entry)
        self._report.add_failure(entry.key, error)

    async def _dequeue(self, entry: QueuedRequest) -> None:
        if await dequeue(self._jobs, entry):
            self._report.queued -= 1

    def _stop(self, error: Exception) -> None:
        self.is_stopped = True
        log.warning("%d queued jobs wait: %s", self._report.queued, error)
