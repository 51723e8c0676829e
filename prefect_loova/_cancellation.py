"""Delay a cancellation until some work has ended, and run tasks in a group.

Prefect's `timeout_seconds` cancels through anyio, which cancels a task again in each iteration of the event loop until
the task leaves the cancelled scope. A loop that only waits again would use a whole CPU, so this module waits in a
shielded scope.
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

_unfinished: set[asyncio.Future[Any]] = set()


def is_finishing() -> bool:
    """Return whether `run_uncancelled` runs in this process, in any thread."""
    return bool(_unfinished)


async def run_uncancelled(work: Coroutine[Any, Any, T], when_cancelled: Callable[[], None] | None = None) -> T:
    """Run work that must not be interrupted and return its result. A cancellation is raised after the work has ended.

    Args:
        work: The coroutine. It runs in its own task.
        when_cancelled: Called immediately when a cancellation arrives.
    """
    task = asyncio.ensure_future(work)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        if when_cancelled is not None:
            when_cancelled()
        with CancelScope(shield=True):
            while not task.done():
                try:
                    await asyncio.wait({task})
                except asyncio.CancelledError:
                    continue  # asyncio cancels once per call of cancel(); the shield blocks anyio's cancellations
        if not task.cancelled() and task.exception():
            log.warning("failed after a cancellation: %s", task.exception())
        raise
    return task.result()


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
    """Run tasks like `asyncio.TaskGroup`, but raise the first error itself, and shield the wait for cancelled tasks.

    Prefect recognises the exception of a signal by its type, and a signal is raised in any of the tasks.
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
