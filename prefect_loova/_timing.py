"""Deadlines and retry delays, in seconds. No I/O; the caller passes the clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

POLL_SECONDS = 20.0
"""The longest first pause between two polls. The setting `poll_seconds` and the argument replace it."""

Clock = Callable[[], float]
"""Returns seconds that never decrease, like `time.monotonic`."""


@dataclass(frozen=True)
class Deadline:
    """A point in time on a monotonic clock, `seconds` after the deadline was created."""

    seconds: float
    clock: Clock = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started", self.clock())

    @property
    def waited(self) -> float:
        """The seconds since the start."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """The remaining seconds, at least 0."""
        return max(0.0, self.seconds - self.waited)


def backoff(attempt: int, first: float = 0.5, most: float = 20.0, chance: float | None = None) -> float:
    """Return the delay before try `attempt` + 1: doubled each time up to `most`, minus a random part up to a half."""
    chance = random.random() if chance is None else chance  # noqa: S311
    return min(most, first * 2.0 ** min(attempt, 30)) * (1 - chance / 2)


def retry_after(value: str | None, now: datetime | None = None, most: float = 300.0) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, or None if it is missing or invalid.

    Args:
        value: The header: seconds or an HTTP date (RFC 9110).
        now: The current time, for a date.
        most: The longest pause to return, in seconds.
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
