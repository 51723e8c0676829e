"""What a person sees while a flow runs: a few lines, and at a terminal the progress.

If the user has not set Prefect's log level, the lines are those of this package, without Prefect's own. With it, they
are all lines of that level, as Prefect prints them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.logging.configuration import setup_logging
from prefect.settings import get_current_settings
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
from rich.text import Text

import prefect_loova
from prefect_loova.cli.interrupts import before_message, purchases
from prefect_loova.cli.output import print_above, say, short_keys
from prefect_loova.errors import LoovaError, counted, redact

_PACKAGE = str(Path(prefect_loova.__file__).parent)
_PROGRESS_LOGGERS = ("prefect_loova.jobs.wait", "prefect_loova._prefect.progress")
_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def console(*, shows_steps: bool = True) -> Iterator[None]:
    """Show the lines and the progress of the flow that runs in the block.

    Args:
        shows_steps: Whether to show what the tasks of each video log, besides its purchase and warnings.
    """
    setup_logging()
    root, package = logging.getLogger(), logging.getLogger("prefect_loova")
    levels = [(logger, logger.level) for logger in (package, *map(logging.getLogger, _PROGRESS_LOGGERS))]
    progress = _Progress() if sys.stderr.isatty() else None
    if progress is not None:
        before_message.append(progress.close)
    is_quiet = "level" not in get_current_settings().logging.model_fields_set
    facts, lines = _Facts(progress), _Lines(is_quiet=is_quiet, shows_steps=shows_steps)
    consoles = [handler for handler in root.handlers if isinstance(handler, logging.StreamHandler)]
    for handler in consoles:
        handler.addFilter(lines)
    root.addHandler(facts)
    package.addHandler(facts)
    package.setLevel(min(package.level or logging.INFO, logging.INFO))
    for name in _PROGRESS_LOGGERS if progress else ():
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield
    finally:
        if progress is not None:
            progress.close()
            before_message.remove(progress.close)
        for logger, level in levels:
            logger.setLevel(level)
        package.removeHandler(facts)
        root.removeHandler(facts)
        for handler in consoles:
            handler.removeFilter(lines)


class _Lines(logging.Filter):
    """Prints the lines of runs in short, instead of Prefect's console handler."""

    def __init__(self, *, is_quiet: bool, shows_steps: bool) -> None:
        super().__init__()
        self._is_quiet = is_quiet
        self._shows_steps = shows_steps

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], LoovaError):
            record.exc_info = record.exc_text = None  # the command prints its message
        if not self._is_quiet:
            return True
        if not record.name.startswith(_RUN_LOGGERS):
            return record.levelno >= logging.WARNING
        if "Retry" in str(record.msg):
            self._print(record, redact(record.getMessage(), 300))
        elif record.pathname.startswith(_PACKAGE) and not self._is_repeated(record):
            self._print(record, record.getMessage())
        return False

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        """Return whether the command says the same in another way."""
        if hasattr(record, "cancelled") or hasattr(record, "is_result"):
            return True
        is_step = record.name.startswith("prefect.task_runs") and record.levelno < logging.WARNING
        return hasattr(record, "saved") or (is_step and not self._shows_steps and not hasattr(record, "bought"))

    @staticmethod
    def _print(record: logging.LogRecord, message: str) -> None:
        say(f"{'warning: ' if record.levelno >= logging.WARNING else ''}{short_keys(message)}")


class _Facts(logging.Handler):
    """Keeps what is bought, for an interruption, and passes other facts to the progress."""

    def __init__(self, progress: _Progress | None) -> None:
        super().__init__(logging.DEBUG)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        task = getattr(record, "bought", None) or getattr(record, "cancelled", None)
        if task is not None and task not in purchases:
            purchases.append(task)
        saved = getattr(record, "saved", None)
        if saved in purchases:
            purchases.remove(saved)
        if self._progress is not None:
            self._progress.learn(record)


class _Progress:
    """One line: the elapsed time, a bar for a batch, Loova's status and the time until the next poll."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._display: Progress | None = None
        self._total: int | None = None
        self._done: dict[str, int] = {}
        self._status, self._next_poll = "", 0.0

    def learn(self, record: logging.LogRecord) -> None:
        """Update the line with the facts of a log record."""
        if hasattr(record, "videos") and hasattr(record, "done"):
            self._total, self._done = record.videos, record.done
            if sum(self._done.values()) == self._total:
                self._status = ""
        elif hasattr(record, "pause"):
            self._status = redact(getattr(record, "status", ""), 40)
            self._next_poll = time.monotonic() + record.pause
        elif hasattr(record, "ended") and self._total is None:
            self.close()
            return
        else:
            return
        self._show()

    def close(self) -> None:
        """Remove the line."""
        if self._display is not None:
            self._display.stop()
            self._display = None
            print_above(None)

    def text(self) -> str:
        """Return the text of the line."""
        parts = []
        if self._total is not None:
            parts.append(f"{sum(self._done.values())} of {counted(self._total, 'video')}")
            parts += [f"{count} {outcome}" for outcome, count in self._done.items()]
        if self._status:
            left = max(0.0, self._next_poll - time.monotonic())
            parts.append(f"{self._status}, next poll in {left:.0f} s")
        return ", ".join(parts)

    def _show(self) -> None:
        if self._display is None:
            bar = [] if self._total is None else [BarColumn(20)]
            columns: list[ProgressColumn] = [SpinnerColumn(), TimeElapsedColumn(), *bar, _TextOf(self)]
            self._display = Progress(*columns, console=self._console, transient=True)
            self._display.add_task("", total=self._total)
            self._display.start()
            print_above(self._console)
        if self._total is not None:
            self._display.update(self._display.task_ids[0], completed=sum(self._done.values()))


class _TextOf(ProgressColumn):
    max_refresh = None

    def __init__(self, progress: _Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.text())
