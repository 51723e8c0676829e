"""A command in a terminal of its own, with Ctrl-C as a terminal sends it: to the whole process group."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "prefect_loova.cli")


class Terminal:
    """A running command. Its stdout, stderr and stdin are a terminal.

    Args:
        arguments: The arguments of `prefect-loova`.
        env: Its environment.
        cwd: Its working directory.
    """

    def __init__(self, *arguments: str, env: dict[str, str], cwd: Path) -> None:
        self._fd, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=env | {"TERM": "xterm", "COLUMNS": "100", "PYTHONFAULTHANDLER": "1"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        self.pid = self._process.pid
        self.code: int | None = None

    @property
    def handles_signals(self) -> bool:
        """Whether the command handles SIGTERM. Before, Python itself starts."""
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{self.pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    @property
    def prefect_server(self) -> int | None:
        """The process of the temporary Prefect server, if it has been started."""
        for children in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                with suppress(OSError):
                    if b"prefect.server.api.server" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return child
        return None

    def until(self, told: str | Callable[[], bool], seconds: float = 120) -> None:
        """Read until a text is shown, or a condition holds."""
        deadline = time.monotonic() + seconds
        while not (told in self.shown if isinstance(told, str) else told()):
            assert time.monotonic() < deadline, self.shown
            assert self._read() or self._process.poll() is None, self.shown

    def interrupt(self) -> float:
        """Send Ctrl-C. Return the seconds until the command has ended."""
        sent = time.monotonic()
        self.press_ctrl_c()
        self.end()
        return time.monotonic() - sent

    def press_ctrl_c(self) -> None:
        """Send Ctrl-C to the process group, without waiting."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self, seconds: float = 120) -> None:
        """Read until the command ends, and keep its exit code."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read()
        if hangs := self._process.poll() is None:
            self._process.send_signal(signal.SIGABRT)  # it prints the stack of each thread
        while self._read():
            pass
        os.close(self._fd)
        self.code = self._process.wait()
        assert not hangs, self.shown

    @property
    def lines(self) -> list[str]:
        """What was shown, without control sequences."""
        return self.shown.replace("\r\n", "\n").splitlines()

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], 0.05)[0]:
            return False
        try:
            content = os.read(self._fd, 65_536)
        except OSError:  # the command has closed it
            return False
        self.shown += content.decode(errors="replace")
        return bool(content)
