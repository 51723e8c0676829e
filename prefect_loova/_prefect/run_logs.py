"""Forward the package's log lines to the logs of the current run, where the Prefect UI shows them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS

from prefect_loova._prefect.run import JOB_FIELDS, is_in_run
from prefect_loova.settings import LoovaSettings

_logger = logging.getLogger("prefect_loova")

RESULT = MappingProxyType({"is_result": True})
"""Marks a line that has the result of a flow. The command prints the result itself."""

_FACTS = ("bought", "cancelled")
"""The facts of a line that the command needs for its own display."""


class _RunLogHandler(logging.Handler):
    """Passes records to the run logger. All runs of a process share it, because they share the package's logger."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0
        self._users_lock = threading.Lock()
        self._settings = _logger.propagate, _logger.level

    def emit(self, record: logging.LogRecord) -> None:
        try:
            facts = {name: getattr(record, name) for name in _FACTS if hasattr(record, name)}
            extra = facts | dict(JOB_FIELDS.get() or {})
            get_run_logger().log(record.levelno, record.getMessage(), extra=extra)
        except MissingContextError:  # a thread outside of every run
            logging.getLogger().handle(record)

    def install(self) -> None:
        with self._users_lock:
            if self._users == 0:
                level = LoovaSettings.load().log_level
                self._settings = _logger.propagate, _logger.level
                _logger.addHandler(self)
                _logger.propagate = False  # the run loggers write to the console too
                if _logger.level == logging.NOTSET:
                    _logger.setLevel(level)
            self._users += 1

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
    if not is_in_run() or _logger.name in PREFECT_LOGGING_EXTRA_LOGGERS.value():
        yield
        return
    _handler.install()
    try:
        yield
    finally:
        _handler.remove()
