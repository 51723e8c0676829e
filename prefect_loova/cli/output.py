"""What the commands print to stderr: lines, and at a terminal the progress below them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_KEY = re.compile(r"(?<!resolve )(?<!keep: )\b([0-9a-f]{12})[0-9a-f]{52}\b")
_live: list[Console] = []


def say(line: str) -> None:
    """Print a line to stderr, above the progress; stdout is for the result."""
    if _live:
        _live[-1].print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        print(line, file=sys.stderr, flush=True)


def print_above(console: Console | None) -> None:
    """Print the next lines on the console of a progress display; None: without one."""
    _live[:] = [] if console is None else [console]


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show a text at a terminal while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status(text):
        yield


def short_keys(text: str) -> str:
    """Return text with the first 12 digits of each key. Those that a person copies, as after `keep:`, stay whole."""
    return _KEY.sub(r"\1…", text)
