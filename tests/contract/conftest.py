"""The APIs that the client's contract is tried on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from prefect_loova.client import DEFAULT_BASE_URL
from prefect_loova.simulator import LoovaSimulator

# The real API is asked for what is free only, and only by those who set both.
LIVE = os.environ.get("LOOVA_LIVE") == "1" and bool(os.environ.get("LOOVA_API_KEY"))


@dataclass
class Api:
    """An API and the key of an account of it."""

    base_url: str
    api_key: str


@pytest.fixture
def simulator() -> Iterator[LoovaSimulator]:
    """A simulated Loova whose tasks take a minute of its own clock."""
    with LoovaSimulator(generation_seconds=60, credits=1000, short_side=120) as loova:
        yield loova


@pytest.fixture(params=["simulator", "live"] if LIVE else ["simulator"])
def api(request: pytest.FixtureRequest) -> Api:
    """The simulator; with LOOVA_LIVE=1 and LOOVA_API_KEY the real API as well. Only for calls that cost nothing."""
    if request.param == "live":
        return Api(os.environ.get("LOOVA_BASE_URL") or DEFAULT_BASE_URL, os.environ["LOOVA_API_KEY"])
    loova = request.getfixturevalue("simulator")
    return Api(loova.base_url, loova.api_key)
