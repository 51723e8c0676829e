"""Forward the package's log lines to the logs of the current run, where the Prefect UI shows them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS

from prefect_loova._prefect.run import JOB_FIELDS

_logger = logging.getLogger("prefect_loova")


_FACTS = ("bought", "cancelled", "pause", "ended")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """Return the facts of a line that the command needs for its own display."""
    return {name: getattr(record, name) for name in _FACTS if hasattr(record, name)}


class _RunLogHandler(logging.Handler):
    """Passes records to the run logger. All runs of a process share it, because they share the package's logger."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0
        self._users_lock = threading.Lock()
        self._settings = _logger.propagate, _logger.level

    def emit(self, record: logging.LogRecord) -> None:
        try:
            extra = _facts(record) | dict(JOB_FIELDS.get() or {})
            get_run_logger().log(record.levelno, record.getMessage(), extra=extra)
        except MissingContextError:  # a thread outside of every run
            logging.getLogger().handle(record)

    def install(self) -> None:
        with self._users_lock:
            self._users += 1
            if self._users == 1:
                self._settings = _logger.propagate, _logger.level
                _logger.addHandler(self)
                _logger.propagate = False  # the run loggers write to the console too
                if _logger.level == logging.NOTSET:
                    _logger.setLevel(logging.INFO)

    def remove(self) -> None:
        with self._users_lock:
            self._users -= 1
            if self._users == 0:
                _logger.removeHandler(self)
                _logger.propagate, level = self._settings
                _logger.setLevel(level)


_handler = _RunLogHandler()


@contextmanager
def forward_logs() -> Iterator[None]:
    """Forward the package's log lines to the current run while the block is open, then restore the logger.

    Does nothing outside of a run, or if `PREFECT_LOGGING_EXTRA_LOGGERS` names the package: Prefect then forwards them.
    """
    if not _is_needed():
        yield
        return
    _handler.install()
    try:
        yield
    finally:
        _handler.remove()


def _is_needed() -> bool:
    try:
        get_run_context()
    except MissingContextError:
        return False
    return _logger.name not in PREFECT_LOGGING_EXTRA_LOGGERS.value()
