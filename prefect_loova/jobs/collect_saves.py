"""Save the finished videos that a collector found, three at a time. A video that fails does not stop the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prefect_loova.errors import TransferError, WaitTimeoutError
from prefect_loova.models.attempts import Attempt
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.records import StoredRecord

_CONCURRENT_SAVES = 3  # each takes about 40 MiB of memory
_MAX_PAUSE = 3600.0

log = logging.getLogger(__name__)


class Saves:
    """The saves of a collector. What is saved and what fails is added to `report`.

    `save` saves one video. If a save failed, the next one starts `again_after` seconds later, or twice as long after
    each failure. `on_saved` is called for each saved video.
    """

    def __init__(
        self,
        report: CollectedVideos,
        save: Callable[[StoredRecord, Attempt], Awaitable[SavedVideo]],
        again_after: float,
        on_saved: Callable[[SavedVideo], Awaitable[None]],
    ) -> None:
        self._report = report
        self._save_video = save
        self._again_after = again_after
        self._on_saved = on_saved
        self._finished: list[tuple[StoredRecord, Attempt]] = []
        self._taken: set[tuple[str, int]] = set()
        """The attempts whose video is being saved or is saved: a look may have read the record just before that."""
        self._slots = asyncio.Semaphore(_CONCURRENT_SAVES)

    def add(self, stored: StoredRecord, attempt: Attempt) -> None:
        """Note a finished video. `start` begins to save it."""
        self._finished.append((stored, attempt))

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start to save the videos that were added. Videos that failed before are last."""
        finished = [one for one in self._finished if (one[0].record.key, one[1].number) not in self._taken]
        due = [one for one in finished if not self._must_wait(*one)]
        due.sort(key=lambda one: one[1].save_failures)
        self._finished = []
        for stored, attempt in due:
            self._taken.add((stored.record.key, attempt.number))
            group.create_task(self._save(stored, attempt))

    def _must_wait(self, stored: StoredRecord, attempt: Attempt) -> bool:
        """Return whether the last save failed so recently that this pass does not retry it."""
        if not attempt.save_failures:
            return False
        pause = min(self._again_after * 2.0 ** min(attempt.save_failures - 1, 30), _MAX_PAUSE)
        left = pause - stored.age
        if left > 0:
            times = "1 time" if attempt.save_failures == 1 else f"{attempt.save_failures} times"
            problem = f"task {attempt.task_id} could not be saved {times}; the next try is in {left:.0f} s"
            self._report.add_problem(stored.record.key, TransferError(problem))
        return left > 0

    async def _save(self, stored: StoredRecord, attempt: Attempt) -> None:
        key = stored.record.key
        async with self._slots:
            try:
                saved = await self._save_video(stored, attempt)
            except WaitTimeoutError as error:
                log.debug("job %s: %s", key, error)  # another worker is saving it
                self._taken.discard((key, attempt.number))
            except Exception as error:
                self._report.add_problem(key, error)
                self._taken.discard((key, attempt.number))
            else:
                self._report.saved.append(saved)
                await self._on_saved(saved)
