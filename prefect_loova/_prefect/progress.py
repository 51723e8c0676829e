"""Progress bars in the Prefect UI, for one video and for a batch. A failure never fails a job."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger

from prefect_loova._prefect.artifacts import artifact_key
from prefect_loova._prefect.pages import duration, escaped
from prefect_loova._prefect.run import is_in_run
from prefect_loova.errors import counted, redact
from prefect_loova.models.reports import VideoOutcome
from prefect_loova.models.results import Submission

log = logging.getLogger(__name__)

_BATCH_SECONDS = 5.0
_TYPICAL_SECONDS = 240.0


class ProgressBar:
    """A progress artifact of the current run. Outside of a run it does nothing.

    Args:
        key: The artifact's key.
        every: The least time between two calls of Prefect's API, in seconds.
        api_seconds: The timeout of a call, in seconds. A slow server must not delay the next poll.
    """

    def __init__(self, key: str, *, every: float = 10.0, api_seconds: float = 10.0) -> None:
        self._key = key
        self._every = every
        self._api_seconds = api_seconds
        self._artifact: UUID | None = None
        self._next = -math.inf

    async def show(self, percent: float, description: str, *, now: bool = False) -> None:
        """Update the bar.

        Args:
            percent: From 0 to 100.
            description: The text beside the bar.
            now: Whether to update it even if the last update was a moment ago.
        """
        if time.monotonic() < self._next and not now:
            return
        self._next = time.monotonic() + self._every
        if not is_in_run():
            return
        try:
            async with asyncio.timeout(self._api_seconds):
                if self._artifact is None:
                    self._artifact = await acreate_progress_artifact(percent, key=self._key, description=description)
                else:
                    await aupdate_progress_artifact(self._artifact, percent, description=description)
        except Exception as error:
            get_run_logger().debug("the artifact %s was not created (%s)", self._key, redact(error))


class VideoProgress:
    """The progress bar of one video. Loova reports no progress, so the bar shows the elapsed time."""

    def __init__(self, submission: Submission) -> None:
        self._task_id = submission.task_id
        self._bar = ProgressBar(artifact_key("progress", submission.key))
        self._is_shown = False

    async def on_poll(self, waited: float, status: str) -> None:
        """Update the bar after a poll of a running task.

        Args:
            waited: Seconds since this run started to wait.
            status: The status that Loova returned.
        """
        self._is_shown = True
        description = f"{escaped(status, 40)} for {duration(waited)}, Loova task {escaped(self._task_id)}"
        await self._bar.show(95 * -math.expm1(-waited / _TYPICAL_SECONDS), description)

    async def end(self, result: str) -> None:
        """Complete the bar. Do not create one that was never shown."""
        if self._is_shown:
            await self._bar.show(100, f"{result}, Loova task {escaped(self._task_id)}", now=True)


@asynccontextmanager
async def batch_progress(total: int) -> AsyncIterator[Callable[[VideoOutcome], None]]:
    """Show a progress bar while a batch runs, and yield a function that counts an outcome.

    Args:
        total: How many videos the batch has.
    """
    bar, counts, changed = ProgressBar("loova-batch-progress", every=0), Counter[str](), asyncio.Event()

    def log_counts() -> None:
        """Log the counts for a display at a terminal."""
        done = {"videos": total, "done": dict(counts)}
        log.debug("%d of %s", counts.total(), counted(total, "video"), extra=done)

    def count(outcome: VideoOutcome) -> None:
        counts[outcome.outcome.replace("_", " ")] += 1
        log_counts()
        changed.set()

    async def show() -> None:
        summary = ", ".join(f"{number} {name}" for name, number in counts.most_common()) or "started"
        await bar.show(
            100 * counts.total() / max(total, 1), f"{counts.total()} of {counted(total, 'video')}: {summary}"
        )

    async def keep_updated() -> None:
        while True:
            await asyncio.sleep(_BATCH_SECONDS)
            await changed.wait()
            changed.clear()
            await show()

    log_counts()
    await show()  # not beside the first slot: SQLite would refuse that (decision 0030)
    updates = asyncio.create_task(keep_updated())
    try:
        yield count
    finally:
        updates.cancel()
    await show()
