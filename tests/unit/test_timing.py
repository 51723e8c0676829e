"""Deadlines and retry delays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova._timing import Deadline, backoff, retry_after

# Others share this machine: slow is not wrong.

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Thu, 99 Foo 2026 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("0", 0),
        ("-5", 0),
        ("-inf", 0),
        ("7", 7),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("300", 300),
        ("301", 300),
        ("86400", 300),
        ("inf", 300),
        ("9" * 400, 300),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30),
        ("Thu, 01 Jan 2026 01:00:30 +0100", 30),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30),
        ("Thu Jan  1 00:00:30 2026", 30),
        ("Wed, 31 Dec 2025 23:59:59 GMT", 0),
        ("Fri, 01 Jan 2027 00:00:00 GMT", 300),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_is_honoured_up_to_a_bound(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_the_bound_of_retry_after_is_a_setting_and_now_is_the_default_time() -> None:
    assert retry_after("7", most=5) == 5
    in_a_minute = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 50 < (retry_after(in_a_minute) or 0) <= 60


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\w{3}, \d+ (Jan|Foo) \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True)))
def test_no_header_causes_an_endless_pause_or_an_exception(value: str) -> None:
    pause = retry_after(value, NOW)
    assert pause is None or 0 <= pause <= 300


def test_a_deadline_counts_on_its_own_clock_and_never_below_zero() -> None:
    time = 1000.0
    deadline = Deadline(10, lambda: time)
    assert (deadline.waited, deadline.left) == (0, 10)
    time = 1004
    assert (deadline.waited, deadline.left) == (4, 6)
    time = 1100
    assert (deadline.waited, deadline.left) == (100, 0)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_backoff_doubles_up_to_its_limit_and_chance_only_shortens_it(attempt: int, chance: float) -> None:
    longest = backoff(attempt, 0.5, 20, chance=0)
    assert longest == min(20, 0.5 * 2 ** min(attempt, 30))
    assert longest / 2 <= backoff(attempt, 0.5, 20, chance=chance) <= longest
    assert longest / 2 <= backoff(attempt, 0.5, 20) <= longest


def test_backoffs_begin_with_the_first_pause() -> None:
    assert [backoff(attempt, 1, 5, chance=0) for attempt in range(5)] == [1, 2, 4, 5, 5]
