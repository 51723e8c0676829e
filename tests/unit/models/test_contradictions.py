"""What contradicts a request: of a task that is to be adopted, and of the video that was made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_loova.models.attempts import Attempt, StoredVideo
from prefect_loova.models.contradictions import contradictions, differences
from prefect_loova.models.prices import MODELS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import VideoTask
from prefect_loova.transfer.mp4 import Mp4Check
from tests.support.films import film

SENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
REQUEST: dict[str, Any] = VideoRequest(prompt="a cat", duration=4).as_stored()
ATTEMPT = Attempt(number=1, state="in_doubt", credits_estimate=60, post_timeout_seconds=60, times={"submitting": SENT})


def after(**delta: float) -> datetime:
    return SENT + timedelta(**delta)


@pytest.mark.parametrize(
    ("facts", "contradicts"),
    [
        ({}, None),
        ({"model": "seedance_2_0"}, None),
        ({"model": "Seedance-2.0"}, None),
        ({"model": "seedance_2_0_fast"}, "model"),
        ({"created_at": SENT}, None),
        ({"created_at": after(minutes=-14)}, None),
        ({"created_at": after(minutes=-16)}, "created_at"),
        ({"created_at": after(minutes=15)}, None),
        ({"created_at": after(minutes=17)}, "created_at"),
        ({"created_at": after(days=1)}, "created_at"),
        ({"credits_cost": 60.0}, None),
        ({"credits_cost": 60.5}, None),
        ({"credits_cost": 0.0}, None),
        ({"credits_cost": 75.0}, "credits_cost"),
        ({"credits_cost": 12.0}, "credits_cost"),
        ({"credits_cost": -1.0}, None),
        ({"credits_cost": float("nan")}, None),
    ],
)
def test_the_fields_of_a_loova_task_are_compared_with_the_submit(facts: dict[str, Any], contradicts: str | None):
    found = contradictions(VideoTask(task_id="t", state="running", **facts), REQUEST, ATTEMPT)
    assert [line.partition(":")[0] for line in found] == ([contradicts] if contradicts else [])


def test_all_contradictions_are_reported_together():
    task = VideoTask(task_id="t", state="running", model="another", created_at=after(days=2), credits_cost=450)
    assert len(contradictions(task, REQUEST, ATTEMPT)) == 3


RATIOS = MODELS["seedance_2_0"].ratios
SIZES = {
    "21:9": (1504, 640),
    "16:9": (864, 496),
    "4:3": (752, 560),
    "1:1": (640, 640),
    "3:4": (560, 752),
    "9:16": (496, 864),
}
"""As generators of this kind make them: sides are multiples of 16, so that no ratio is exact."""


def stored(width: int = 1280, height: int = 720, seconds: float = 4.0, is_turned: bool = False) -> StoredVideo:
    return StoredVideo(
        object_key="k",
        size_bytes=1,
        sha256="0",
        duration_seconds=seconds,
        width=width,
        height=height,
        is_turned=is_turned,
    )


def test_every_ratio_differs_from_every_other_one():
    assert set(SIZES) == set(RATIOS)
    for asked in RATIOS:
        for made, (width, height) in SIZES.items():
            for turned in (False, True):
                size = (height, width) if turned else (width, height)
                told = differences(REQUEST | {"ratio": asked}, stored(*size, is_turned=turned))
                assert bool(told) == (asked != made), (asked, made, turned)


def test_the_ratio_of_first_and_last_frames_follows_the_images():
    asked = REQUEST | {"ratio": "16:9", "function_mode": "first_last_frames"}
    assert differences(asked, stored(496, 864)) == ""


@pytest.mark.parametrize("asked", range(4, 16))
def test_every_duration_differs_from_every_other_one(asked: int):
    for made in range(4, 16):
        for seconds in (made - 0.1, made, made + 0.2):
            told = differences(REQUEST | {"duration": asked}, stored(seconds=seconds))
            assert bool(told) == (asked != made), (asked, seconds)
            assert not told or f"{asked} s were asked for" in told


def test_an_unknown_value_does_not_differ():
    unknown = StoredVideo(object_key="k", size_bytes=1, sha256="0")
    assert differences(REQUEST, unknown) == ""
    assert differences({}, stored(496, 864)) == ""
    assert differences({"ratio": "0:0", "duration": "x"}, stored()) == ""


@pytest.mark.parametrize(("rotated", "is_turned"), [(None, False), (90, True), (180, False), (270, True)])
def test_the_matrix_of_the_file_decides_whether_a_picture_is_turned(rotated: int | None, is_turned: bool):
    check = Mp4Check()
    check.feed(film(3, (96, 54), rotated=rotated))
    facts = check.finish(length_is_known=True)
    assert (facts.width, facts.height, facts.is_turned) == (96, 54, is_turned)
