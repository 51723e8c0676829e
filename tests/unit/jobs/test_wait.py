"""The schedule of polls."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova.jobs.wait import PollSchedule
from tests.benchmarks.waiting import by_our_code, by_schedule

HOURS_3 = 3 * 3600.0


@given(
    waited=st.floats(0, 1e7),
    chance=st.floats(0, 1),
    first=st.floats(0.01, 600),
    growth=st.floats(0, 1),
    jitter=st.floats(0, 0.9),
)
def test_chance_only_shortens_a_pause(waited: float, chance: float, first: float, growth: float, jitter: float) -> None:
    schedule = PollSchedule(first, growth, jitter)
    longest = schedule.pause(waited, 0)
    assert longest == max(first, growth * waited)
    assert longest * (1 - jitter) * 0.999999 <= schedule.pause(waited, chance) <= longest
    assert schedule.pause(waited) <= longest


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_pauses_grow_with_the_time_waited(one: float, other: float) -> None:
    schedule = PollSchedule()
    assert schedule.pause(min(one, other), 0.3) <= schedule.pause(max(one, other), 0.3)


def test_the_first_pause_is_the_parameter_first() -> None:
    assert PollSchedule().pause(0, 0) == 20
    assert PollSchedule(first=3).pause(0, 0) == 3
    assert PollSchedule().pause(0, 1) == 10
    assert PollSchedule().pause(10_000, 0) == pytest.approx(700)


def polls_until(seconds: float, chance: random.Random) -> tuple[int, float]:
    """How often a task of so many seconds is looked at, and how late its end is noticed."""
    schedule, waited, polls = PollSchedule(), 0.0, 0
    while waited < seconds:
        waited += schedule.pause(waited, chance.random())
        polls += 1
    return polls, waited - seconds


def test_three_hours_take_about_ninety_polls() -> None:
    chance = random.Random(1)
    counts = [polls_until(HOURS_3, chance)[0] for _ in range(100)]
    assert 80 <= min(counts) <= max(counts) <= 120
    assert 85 <= statistics.mean(counts) <= 105


def test_an_end_is_noticed_soon_in_proportion_to_the_time_waited() -> None:
    chance = random.Random(2)
    lengths = [math.exp(chance.uniform(math.log(30), math.log(HOURS_3))) for _ in range(4000)]
    lags = [(polls_until(length, chance)[1], length) for length in lengths]
    assert statistics.median(lag for lag, _ in lags) <= 20
    assert all(lag <= max(20, 0.07 * (length + lag)) for lag, length in lags)


@pytest.mark.parametrize("seconds", [30.0, 200.0, HOURS_3])
def test_wait_for_video_follows_the_schedule_as_make_bench_waiting_measures_it(seconds: float) -> None:
    assert by_our_code(7, seconds) == by_schedule(PollSchedule())(7, seconds)
