"""Runs the live suite on a simulated Loova."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from prefect_loova.simulator import LoovaSimulator
from tests.live import __main__ as live
from tests.live.model import Row
from tests.live.observe import Settings
from tests.live.other_loova import KEY, OtherLoova
from tests.support.films import film

EVERYTHING = 160.0
"""Credits that allow every submit."""
DAY = 86_400


@cache
def mp4() -> bytes:
    return film(96, (64, 36))


def go(
    loova: OtherLoova | LoovaSimulator,
    folder: Path,
    allowance: float = EVERYTHING,
    days: float = 0,
    wait_seconds: float = 20,
) -> dict[str, Row]:
    """Run the suite, and return the rows by id."""
    key = loova.api_key if isinstance(loova, LoovaSimulator) else KEY
    settings = Settings(
        key,
        loova.base_url,
        folder / "requests",
        poll_seconds=0.05,
        wait_seconds=wait_seconds,
        say=lambda line: None,
        clock=lambda: time.time() + days * DAY,
    )
    seen = live.run(settings, lambda kept, seen: allowance)
    return {row.id: row for row in live.write(seen, key, folder)}
