"""The log records of a test, without duplicates."""

from __future__ import annotations

import logging

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records that a test captured, in order and without duplicates.

    pytest listens at the root logger and at each logger that does not propagate. In a run the package's logger does not
    propagate, and may pass its records to the root logger itself: pytest then captures them twice.
    """
    return list({id(record): record for record in caplog.records}.values())
