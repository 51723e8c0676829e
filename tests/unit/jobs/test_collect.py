"""A pass of the collector."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from prefect_loova.jobs.collect import _Pass, _show_nothing


def test_an_unexpected_error_is_logged_and_reported_without_signatures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "prefect_loova")
    run = _Pass(cast("Any", None), {}, max_bytes=1, save_seconds=1.0, poll_seconds=1.0, on_saved=_show_nothing)
    run._add_problem("key", RuntimeError("no GET of https://b.s3.test/a.mp4?X-Amz-Signature=SECRET"))
    assert "RuntimeError: no GET of https://b.s3.test/a.mp4" in caplog.text
    assert "SECRET" not in caplog.text + str(run.report.problems)
