"""Run a coroutine from sync code, in the context of the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result. The caller's context variables are set in it.

    It runs in this thread, where Python delivers signals, or in a thread of its own if this thread has a running event
    loop, as in a Jupyter cell. An exception of a signal, such as KeyboardInterrupt, cancels the coroutine.
    """

    async def finish() -> T:
        return await work

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with start_blocking_portal() as portal:
        return portal.call(finish)
