"""SIGTERM, held back while a paid submit is on its way.

Prefect turns SIGTERM into an exception that leaves the event loop at once: the answer to a submit would be lost, and
the job in doubt. Kubernetes waits 30 seconds before it kills; an answer takes one or two.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_waiting: list[Callable[[], None]] = []
_came: list[bool] = []
_before: Any = None


def _hold_back(_signal: int, _frame: FrameType | None) -> None:
    _came.append(True)
    for stop in list(_waiting):
        stop()


@contextmanager
def defer_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Handle a SIGTERM after the block instead of in the middle of it; several blocks may overlap.

    Off the main thread, where Python lets nobody handle signals, this does nothing.

    Args:
        stop: Called at once when the signal comes, so that what was not begun is not begun any more.
    """
    global _before  # noqa: PLW0603
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _waiting:
        _before = signal.signal(signal.SIGTERM, _hold_back)
    _waiting.append(stop)
    if _came:
        stop()
    try:
        yield
    finally:
        _waiting.remove(stop)
        if not _waiting and signal.getsignal(signal.SIGTERM) is _hold_back:
            # Prefect may have put a handler of its own in our place meanwhile: then it is the one to stay.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)
        if not _waiting and _came:
            _came.clear()
            signal.raise_signal(signal.SIGTERM)
