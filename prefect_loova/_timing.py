"""When to ask next: arithmetic on seconds, without I/O, the clock passed in."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

Clock = Callable[[], float]
"""Seconds that never go back, as `time.monotonic` counts them."""


@dataclass(frozen=True)
class PollSchedule:
    """Ask often at first and ever less often, in proportion to the time already waited.

    With the defaults a generation of 3 h takes about 90 polls, and one of 10 minutes is noticed after 15 s on average.
    Loova's guidance is about once a minute, for minutes to 3 hours (get-task-status).

    Args:
        first: The longest pause at the start, in seconds.
        growth: The share of the time waited that a pause may last.
        jitter: The largest share by which chance shortens a pause; it never lengthens one.
    """

    first: float = 20.0
    growth: float = 0.07
    jitter: float = 0.5

    def pause(self, waited: float, chance: float | None = None) -> float:
        """The seconds until the next poll, after `waited` seconds; `chance` is between 0 and 1."""
        chance = random.random() if chance is None else chance  # noqa: S311
        return max(self.first, self.growth * waited) * (1 - self.jitter * chance)


@dataclass(frozen=True)
class Deadline:
    """A point on one monotonic clock, `seconds` after it was made."""

    seconds: float
    clock: Clock = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started", self.clock())

    @property
    def waited(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.seconds - self.waited)


def backoff(attempt: int, first: float = 0.5, most: float = 20.0, chance: float | None = None) -> float:
    """The seconds before try `attempt` + 1: doubled each time, bounded, and shortened by chance by up to a half."""
    chance = random.random() if chance is None else chance  # noqa: S311
    return min(most, first * 2.0 ** min(attempt, 30)) * (1 - chance / 2)


def retry_after(value: str | None, now: datetime | None = None, most: float = 300.0) -> float | None:
    """The pause that a `Retry-After` header asks for, in seconds, or None.

    Args:
        value: Seconds or an HTTP date, as RFC 9110 allows.
        now: The time to count a date from.
        most: The longest pause that is granted, in seconds.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(most, max(0.0, seconds)) if seconds == seconds else None  # noqa: PLR0124  (NaN)
