"""Run a coroutine from sync code, in the context of the caller."""

from __future__ import annotations

import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from anyio.from_thread import start_blocking_portal

T = TypeVar("T")


class _TerminatedError(BaseException):
    """SIGTERM arrived, and nobody but this module handles it."""


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result. The caller's context variables are set in it.

    Its event loop is in a thread of its own. The exception of a signal, such as KeyboardInterrupt or the timeout of a
    sync flow, is raised in this thread. It cancels the coroutine, which can finish a submit, and cannot break the loop.
    """

    async def finish() -> T:
        return await work

    try:
        with _raise_on_sigterm(), start_blocking_portal() as portal:
            return portal.call(finish)
    except _TerminatedError:
        signal.raise_signal(signal.SIGTERM)
        raise


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Raise an exception where SIGTERM would end the process at once."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: Any) -> NoReturn:
    raise _TerminatedError
