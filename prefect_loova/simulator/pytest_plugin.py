"""The pytest plugin: a fixture with a simulated Loova.

Every pytest run with the package installed loads this module, so it imports only pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_loova.simulator.server import LoovaSimulator


@pytest.fixture
def loova_simulator() -> Iterator[LoovaSimulator]:
    """Start a `LoovaSimulator` for one test. Tasks succeed at once, and the videos are small (120 pixels).

    Point a client at `loova_simulator.base_url` with `loova_simulator.api_key`. Add a fault with
    `loova_simulator.fail("lost_reply")`. Read what was billed from `loova_simulator.ledger`.
    """
    from prefect_loova.simulator.server import LoovaSimulator  # noqa: PLC0415

    with LoovaSimulator(generation_seconds=0, short_side=120) as simulator:
        yield simulator
