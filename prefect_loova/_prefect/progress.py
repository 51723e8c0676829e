"""Bars in the Prefect UI while a video is waited for, and while a batch runs. Never a reason to fail a job."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_loova._prefect.artifacts import artifact_key
from prefect_loova._prefect.pages import duration, escaped
from prefect_loova._timing import Clock
from prefect_loova.errors import redact
from prefect_loova.models.reports import VideoOutcome
from prefect_loova.models.results import Submission

_BATCH_SECONDS = 5.0
_USUAL_SECONDS = 240.0


class ProgressBar:
    """One progress artifact of the current run; outside of a run, nothing.

    Args:
        key: The artifact's key.
        every: The fewest seconds between two calls of Prefect's API.
        api_seconds: The longest that a call may take: a server that is away must not hold up the next look.
        clock: Monotonic seconds.
    """

    def __init__(
        self, key: str, *, every: float = 10.0, api_seconds: float = 10.0, clock: Clock = time.monotonic
    ) -> None:
        self._key = key
        self._every = every
        self._api_seconds = api_seconds
        self._clock = clock
        self._artifact: UUID | None = None
        self._next = -math.inf

    async def show(self, percent: float, description: str, *, now: bool = False) -> None:
        """Show how far it is.

        Args:
            percent: From 0 to 100.
            description: What a person reads beside it.
            now: Whether it must not be left out for coming soon after another one.
        """
        if self._clock() < self._next and not now:
            return
        self._next = self._clock() + self._every
        try:
            get_run_context()
        except MissingContextError:
            return
        try:
            async with asyncio.timeout(self._api_seconds):
                if self._artifact is None:
                    self._artifact = await acreate_progress_artifact(percent, key=self._key, description=description)
                else:
                    await aupdate_progress_artifact(self._artifact, percent, description=description)
        except Exception as error:
            get_run_logger().debug("the artifact %s was not made (%s)", self._key, redact(error))


class VideoProgress:
    """The bar of one video. Loova tells no progress: it nears its end as time goes by, and the text says how long."""

    def __init__(self, submission: Submission) -> None:
        self._task_id = submission.task_id
        self._bar = ProgressBar(artifact_key("progress", submission.key))
        self._shown = False

    async def on_poll(self, waited: float, status: str) -> None:
        """Loova was looked at, and the task has not ended.

        Args:
            waited: Seconds since this run began to wait.
            status: What Loova said.
        """
        self._shown = True
        told = f"{escaped(status, 40)} for {duration(waited)}, Loova task {escaped(self._task_id)}"
        await self._bar.show(95 * -math.expm1(-waited / _USUAL_SECONDS), told)

    async def ended(self, how: str) -> None:
        """It is over; a bar that was never shown stays away."""
        if self._shown:
            await self._bar.show(100, f"{how}, Loova task {escaped(self._task_id)}", now=True)


@asynccontextmanager
async def batch_progress(total: int) -> AsyncIterator[Callable[[VideoOutcome], None]]:
    """A bar of a batch as long as it runs; yields what hears of each outcome.

    Args:
        total: How many videos there are.
    """
    bar, counts, changed = ProgressBar("loova-batch-progress", every=0), Counter[str](), asyncio.Event()

    def heard(outcome: VideoOutcome) -> None:
        counts[outcome.outcome.replace("_", " ")] += 1
        changed.set()

    async def show() -> None:
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        await bar.show(100 * counts.total() / max(total, 1), f"{counts.total()} of {total} videos: {told or 'begun'}")

    async def keep_showing() -> None:
        while True:
            changed.clear()
            await show()
            await asyncio.sleep(_BATCH_SECONDS)
            await changed.wait()

    showing = asyncio.create_task(keep_showing())
    try:
        yield heard
    finally:
        showing.cancel()
    await show()
