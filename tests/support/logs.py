"""What was logged, each record once."""

from __future__ import annotations

import logging

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records that a test caught, in their order.

    pytest listens at the root logger and at each logger that does not propagate, and `prefect_loova.tasks` makes the
    package's logger hand its records to the root logger: they are caught twice.
    """
    return list({id(record): record for record in caplog.records}.values())
