"""The API that the client's contract is tried on. `make test-live` checks the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_loova.simulator import LoovaSimulator


@pytest.fixture
def simulator() -> Iterator[LoovaSimulator]:
    """A simulated Loova whose tasks take a minute of its own clock."""
    with LoovaSimulator(generation_seconds=60, credits=1000, short_side=120) as loova:
        yield loova
