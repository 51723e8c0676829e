"""Defer SIGTERM while a paid submit waits for its answer.

Prefect raises an exception on SIGTERM that leaves the event loop immediately. The answer to a submit would be lost, and
the job in doubt. An answer takes one or two seconds; Kubernetes waits 30 seconds before it kills a process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_callbacks: list[Callable[[], None]] = []
_pending: list[bool] = []
_previous_handler: Any = None


def _defer(_signal: int, _frame: FrameType | None) -> None:
    _pending.append(True)
    for stop in list(_callbacks):
        stop()


@contextmanager
def defer_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Handle a SIGTERM after the block instead of within it. Blocks may overlap.

    Only the main thread can handle signals in Python. In other threads this does nothing.

    Args:
        stop: Called immediately when the signal arrives, to prevent work that has not started.
    """
    global _previous_handler  # noqa: PLW0603
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _callbacks:
        _previous_handler = signal.signal(signal.SIGTERM, _defer)
    _callbacks.append(stop)
    if _pending:
        stop()
    try:
        yield
    finally:
        _callbacks.remove(stop)
        if not _callbacks and signal.getsignal(signal.SIGTERM) is _defer:
            # If Prefect replaced this handler within the block, Prefect's handler stays.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if _previous_handler is None else _previous_handler)
        if not _callbacks and _pending:
            _pending.clear()
            signal.raise_signal(signal.SIGTERM)
