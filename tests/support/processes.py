"""Processes and those that they started."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from contextlib import suppress
from pathlib import Path


def kill_with_all_its_children(pid: int) -> None:
    """kill -9, for a process and for those that it started: a flow's process has a session of its own."""
    for child in children_by_parent()[pid]:
        kill_with_all_its_children(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children_by_parent() -> dict[int, list[int]]:
    """The processes of this machine by the one that started them. A process without any has an empty list."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(stat.read_text().rpartition(") ")[2].split()[1])].append(int(stat.parent.name))
    return children
