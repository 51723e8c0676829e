"""Processes and those that they started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def kill_with_all_its_children(pid: int) -> None:
    """kill -9, for a process and for those that it started: a flow's process has a session of its own."""
    for child in children_of(pid):
        kill_with_all_its_children(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found
