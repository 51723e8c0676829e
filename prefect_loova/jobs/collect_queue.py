"""Submit what is queued, one entry after the other: what is wrong with one stops no other.

An error is one of three kinds. It is about the way to Loova or S3: the rest waits for the next pass. It is about the
entry: that one is reported and stays as it is, or ends as failed, and the next one has its turn. Or nobody knows: Loova
refused it with a status that may mean either (403, say). Then the next one is tried, and if that is taken, the refusal
was about the request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from prefect_loova.errors import (
    BudgetError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    NotSentError,
    RecordMismatchError,
    RejectedError,
    StorageError,
    TooManyRunningTasksError,
    WaitTimeoutError,
    redact,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.queue import QueuedRequest, dequeue, read_queued
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import Submission
from prefect_loova.store.records import StoredRecord

_TOO_DEAR = (InsufficientCreditsError, BudgetError)
_ABOUT_THE_REQUEST = (200, 400, 413, 422, 451)
"""HTTP statuses of a refusal that another request may escape."""

_STORAGE_ERRORS_IN_A_ROW = 3
_SUSPECTS = 10
"""How many refusals in a row that may be about the request or about the way to Loova end the submits of a pass."""

_TOO_DEAR_IN_A_ROW = 200
"""How many entries in a row are read in a pass only to see that each is too dear."""

log = logging.getLogger(__name__)


class QueuePass:
    """The submits of one pass.

    Args:
        jobs: The API and the bucket.
        submit: Submits one queued request and does not wait.
        found: What the pass has found so far; it is added to.
        count: Adds a job in doubt and the places that it may hold.
        problem: Adds what is wrong with a job.

    Attributes:
        is_stopped: Whether the rest of the queue waits for the next pass.
    """

    def __init__(
        self,
        jobs: VideoJobs,
        submit: Callable[[QueuedRequest], Awaitable[Submission]],
        found: CollectedVideos,
        count: Callable[[StoredRecord], None],
        problem: Callable[[str, Exception], None],
    ) -> None:
        self.is_stopped = False
        self._jobs = jobs
        self._submit = submit
        self._found = found
        self._count = count
        self._problem = problem
        self._too_dear = math.inf
        self._passed_over = 0
        self._storage_errors = 0
        self._suspects: list[tuple[QueuedRequest, LoovaError]] = []

    async def submit(self, key: str) -> bool:
        """Submit one queued job; returns whether it took a place."""
        try:
            entry = await read_queued(self._jobs, key)
            if entry is None:
                return True  # another collector was faster, and has the place
            if entry.request.estimate_credits() >= self._too_dear:
                self._passed_over += 1
                self.is_stopped = self._passed_over >= _TOO_DEAR_IN_A_ROW
                return False
            self._passed_over = 0
            return await self._buy(entry)
        except StorageError as error:
            self._problem(key, error)
            self._storage_errors += error.transient
            if self._storage_errors >= _STORAGE_ERRORS_IN_A_ROW:
                self._stop(error)
        except Exception as error:
            self._problem(key, error)
        return False

    async def _buy(self, entry: QueuedRequest) -> bool:
        try:
            submission = await self._submit(entry)
        except WaitTimeoutError:
            return True  # another collector is at it
        except (StorageError, RecordMismatchError):
            raise  # the record cannot be used: it stays queued, and is reported
        except _TOO_DEAR as error:
            log.warning("job %s waits: %s", entry.key, error)
            self._too_dear = min(self._too_dear, entry.request.estimate_credits())
        except (TooManyRunningTasksError, NotSentError) as error:
            self._stop(error)  # whatever refuses this one refuses the next
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
            self._found.submitted.append(submission)
            self._storage_errors = 0
            for suspect, error in self._suspects:
                await self._failed(suspect, error)  # another request is taken: the refusal was about this one
            self._suspects.clear()
        self._found.running += 1
        return True

    async def _in_doubt(self, entry: QueuedRequest, error: InDoubtError) -> bool:
        await self._dequeue(entry)
        is_counted = any(job.key == entry.key for job in self._found.in_doubt)
        if not is_counted:
            self._count(await self._jobs.records.expect(entry.key))
        if not error.found:
            self._stop(error)  # one lost answer may be bad luck; the next pass goes on
        return not is_counted

    async def _rejected(self, entry: QueuedRequest, error: RejectedError) -> None:
        if error.http_status in _ABOUT_THE_REQUEST and error.code != 401:
            await self._failed(entry, error)
            return
        statuses = {error.http_status, error.code}
        if 401 in statuses or error.http_status is None or not 400 <= error.http_status < 500:
            self._stop(error)
            return
        self._problem(entry.key, error)
        self._suspects.append((entry, error))
        if len(self._suspects) >= _SUSPECTS:
            self._stop(error)

    async def _failed(self, entry: QueuedRequest, error: LoovaError) -> None:
        await self._dequeue(entry)
        self._found.failed.append((entry.key, redact(error)))

    async def _dequeue(self, entry: QueuedRequest) -> None:
        if await dequeue(self._jobs, entry):
            self._found.queued -= 1

    def _stop(self, error: Exception) -> None:
        self.is_stopped = True
        log.warning("%d queued jobs wait: %s", self._found.queued, error)
