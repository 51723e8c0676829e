"""What is warned of before a prompt is bought."""

from __future__ import annotations

import pytest

from prefect_loova import VideoRequest
from prefect_loova.jobs.media_delivery import warn_about_prompt


@pytest.mark.parametrize(("characters", "warnings"), [(4_000, 0), (4_001, 1), (20_000, 1)])
def test_a_very_long_prompt_logs_one_warning_with_its_length(
    caplog: pytest.LogCaptureFixture, characters: int, warnings: int
) -> None:
    warn_about_prompt(VideoRequest(prompt="a" * characters))
    assert len(caplog.messages) == warnings
    assert all(f"the prompt has {characters:,} characters" in message for message in caplog.messages)
    assert all(len(message) < 200 for message in caplog.messages)
