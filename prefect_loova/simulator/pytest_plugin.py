"""The pytest plugin: a fixture with a simulated Loova.

Every pytest run of everyone who has the package loads this module, so it imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_loova.simulator.server import LoovaSimulator


@pytest.fixture
def loova_simulator() -> Iterator[LoovaSimulator]:
    """A `LoovaSimulator` of the test's own: tasks succeed at once, the videos are small (120 pixels), money is fake.

    Point a client at `loova_simulator.base_url` with `loova_simulator.api_key`; tell it to misbehave with
    `loova_simulator.fail("lost_reply")`; see what was paid in `loova_simulator.ledger`.
    """
    from prefect_loova.simulator.server import LoovaSimulator  # noqa: PLC0415

    with LoovaSimulator(generation_seconds=0, short_side=120) as simulator:
        yield simulator
