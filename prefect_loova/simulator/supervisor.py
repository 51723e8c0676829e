"""Runs a command until this script's stdin closes, which also happens when the parent process dies.

    python -I supervisor.py LOCK COMMAND...

A byte on stdin kills the command at once. The script holds the lock while the command runs, so that a successor can
wait for it. The embedded S3 server runs this file directly; it imports only the standard library, to start fast.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

END_SECONDS = 10.0
"""How many seconds the command may take to end before it is killed."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the operating system's lock on a file. It is released at the end, or when the process dies.

    Args:
        path: The file, created if missing.
        wait: How long to wait for another holder, in seconds.

    Raises:
        BlockingIOError: Another process, or another thread of this one, holds it.
    """
    deadline = time.monotonic() + wait
    with path.open("ab") as file:
        while True:
            try:
                _lock(file)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise BlockingIOError(f"{path} is locked by another process") from None
                time.sleep(0.05)
        yield


def _end(command: subprocess.Popen[bytes]) -> None:
    command.terminate()
    try:
        command.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()


def _end_with_parent(command: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1):
        command.kill()
    _end(command)


def _start(arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    if sys.platform != "linux":
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: S603
    # Linux ends the command even if somebody kills this script, for example by `pkill -9 python`.
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return subprocess.Popen(  # noqa: S603
        arguments,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: prctl(set_parent_death_signal, signal.SIGKILL),  # noqa: PLW1509
    )


def main(lock: str, *arguments: str) -> int:
    """Run a command until it ends or stdin closes. Return its exit code, or 1 if another process holds the lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    try:
        with locked(Path(lock)):
            command = _start(arguments)
            signal.signal(signal.SIGTERM, lambda *_: command.terminate())
            threading.Thread(target=_end_with_parent, args=(command,), daemon=True).start()
            return command.wait()
    except BlockingIOError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
