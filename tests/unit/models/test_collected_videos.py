"""The report of a collector."""

from __future__ import annotations

import logging

import pytest

from prefect_loova.models.reports import CollectedVideos


def test_an_unexpected_error_is_logged_and_reported_without_signatures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "prefect_loova")
    report = CollectedVideos()
    report.add_problem("key", RuntimeError("no GET of https://b.s3.test/a.mp4?X-Amz-Signature=SECRET"))
    assert "RuntimeError: no GET of https://b.s3.test/a.mp4" in caplog.text
    assert "SECRET" not in caplog.text + str(report.problems)
