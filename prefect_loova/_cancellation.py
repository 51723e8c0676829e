"""Cancellation, where work must not be left half done and where tasks run side by side.

anyio, by which Prefect's `timeout_seconds` cancels, cancels a task again in each turn of the event loop until the task
leaves the cancelled scope. A loop that only waits once more would use a whole processor, so what waits here does so
under a shield.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anyio import CancelScope

T = TypeVar("T")
log = logging.getLogger(__name__)


def _nothing() -> None:
    return None


async def run_uncancelled(work: Coroutine[Any, Any, T], when_cancelled: Callable[[], None] = _nothing) -> T:
    """Await something that must not be left half done; a cancellation meanwhile is raised when it has ended.

    Args:
        work: What is awaited. It runs in a task of its own.
        when_cancelled: Called at once when the cancellation comes.
    """
    running = asyncio.ensure_future(work)
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        when_cancelled()
        with CancelScope(shield=True):
            while not running.done():
                try:
                    await asyncio.wait({running})
                except asyncio.CancelledError:
                    continue  # asyncio's own cancellations come once each; the shield keeps anyio's out
        if not running.cancelled() and running.exception():
            log.warning("failed after a cancellation: %s", running.exception())
        raise
    return running.result()


class _Group(asyncio.TaskGroup):
    def __init__(self) -> None:
        super().__init__()
        self.running: set[asyncio.Task[Any]] = set()

    def create_task(self, coro: Any, **settings: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **settings)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """As `asyncio.TaskGroup`, but the first error comes out as itself, and the wait for cancelled tasks is shielded.

    A signal strikes in whichever task runs, and Prefect knows its exception by the type.
    """
    try:
        with CancelScope() as scope:
            async with _Group() as group:
                try:
                    yield group
                    while group.running:
                        await asyncio.wait(set(group.running), return_when=asyncio.FIRST_COMPLETED)
                except BaseException:
                    scope.shield = True
                    raise
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
