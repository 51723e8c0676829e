"""Ctrl-C and SIGTERM: end within seconds, and say what is bought.

A signal raises KeyboardInterrupt, which cancels the flow. If the flow does not end, for example because the Prefect
server is gone, the process ends anyway, but never while a submit waits for its answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 3.5
"""How long the flow may take to end after a signal, in seconds."""

_HANDLED_SECONDS = 0.3
_MOST_NAMED = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

purchases: list[str] = []
"""The Loova tasks that this run bought or waits for, and that are not saved yet."""

before_message: list[Callable[[], None]] = []
"""What has to be done before the last line is printed."""

at_end: list[Callable[[], None]] = []
"""What has to be done before the process ends at once. Each takes a second at most."""

_state = {"as_json": False, "is_interrupted": False}
_leaving = threading.Lock()
_handled = threading.Event()


def end_on_signals(*, as_json: bool) -> None:
    """Raise KeyboardInterrupt at the first signal, and end the process at the second one."""
    _state["as_json"] = as_json
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    if hasattr(signal, "pthread_kill"):  # not on Windows
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
        threading.Thread(target=_wake_main_thread, args=(receiver,), daemon=True).start()


def _wake_main_thread(receiver: socket.socket) -> None:
    """Send a signal again, to the main thread, if that has not handled it.

    The system may deliver a signal to any thread, mostly to one that has just started a thread. Python's handler runs
    in the main thread only, and nothing wakes that thread while it waits for a lock.
    """
    main = threading.main_thread().ident
    while number := receiver.recv(1):
        if main is not None and not _handled.wait(_HANDLED_SECONDS):
            signal.pthread_kill(main, number[0])
        _handled.clear()


def end_quietly_on_signals(code: int) -> None:
    """End the process with this exit code at a signal: the result is printed, and only the cleaning up is left."""

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        _handled.set()
        _end(code)

    for number in _SIGNALS:
        signal.signal(number, end)


def is_how_it_ends() -> None:
    """Take the signal as the usual end of the command, which then has as long as it needs."""
    _state["is_interrupted"] = False


def leave() -> NoReturn:
    """Say what is bought, and end the process with exit code 1, without waiting for other threads."""
    _leaving.acquire()  # never released: the main thread and the watchdog say it once
    _do(before_message)
    message, task_id = interruption()
    if _state["as_json"]:
        error = {"type": "InterruptedRunError", "message": message, "task_id": task_id, "trace_id": None}
        print(json.dumps({"state": "error", "error": error}), flush=True)
    else:
        print(f"interrupted: {message}", file=sys.stderr, flush=True)
    _end(1)


def _end(code: int) -> NoReturn:
    _do(at_end)
    os._exit(code)


def _do(works: list[Callable[[], None]]) -> None:
    for work in works:
        with suppress(Exception):
            work()


def interruption() -> tuple[str, str | None]:
    """Return what a person has to know, and the Loova task if there is one."""
    again = "run the same command again"
    if purchases:
        named = ", ".join(purchases[:_MOST_NAMED])
        more = len(purchases) - _MOST_NAMED
        tasks = f"Loova task {named} is" if len(purchases) == 1 else f"{len(purchases)} Loova tasks are"
        listed = "" if len(purchases) == 1 else f" ({named}{f' and {more} more' if more > 0 else ''})"
        videos = "its video" if len(purchases) == 1 else "their videos"
        return f"{tasks} bought{listed}; nothing is lost: {again} to get {videos}", purchases[0]
    if _is_finishing():
        return f"a submit has no answer yet, so it may be bought: {again}, which shows whether it is", None
    return f"nothing is lost: {again} to continue", None


def _interrupt(_signal: int, frame: FrameType | None) -> NoReturn:
    _handled.set()
    if _state["is_interrupted"] or (_is_importing(frame) and not _is_finishing()):
        leave()
    _state["is_interrupted"] = True
    threading.Thread(target=_leave_soon, daemon=True).start()
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether an import runs. Python ignores an exception that is raised in the callback of an import lock."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _leave_soon() -> None:
    time.sleep(GRACE_SECONDS)
    if _is_finishing():
        print(
            "A submit waits for its answer, so that it is not lost. Ctrl-C ends at once: then it may be in doubt.",
            file=sys.stderr,
            flush=True,
        )
        while _is_finishing():
            time.sleep(0.1)
        time.sleep(GRACE_SECONDS)
    if _state["is_interrupted"]:
        leave()


def _is_finishing() -> bool:
    """Return whether work runs that must not be interrupted. Without its module, none has started."""
    module = sys.modules.get("prefect_loova._cancellation")
    return module is not None and module.is_finishing()
