"""The record protocol in every order of the requests of its workers, with a bounded number of faults.

`make test` runs the smaller searches, `make test-protocol` all of them; both print what they saw.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.protocol.scenario import Scenario, make, submit_twice_at_most
from tests.support.protocol.search import BrokenPromiseError, Search, SearchResult

EVERYTHING = "CRASH_EVERYTHING" in os.environ

FEW = [
    Scenario("two workers, one fault"),
    Scenario("a worker and a collector, one fault", workers=1, collectors=1),
    Scenario("a worker that also saves and a collector, one fault", workers=1, collectors=1, work=make),
    Scenario("a worker and a collector after a claim, one fault", workers=1, collectors=1, claimed=True),
    Scenario(
        "two workers after a claim, one late answer, 20 steps", kinds=frozenset({"late"}), claimed=True, most_depth=20
    ),
]
MORE = [
    Scenario(
        "two workers and two persons, two lost answers",
        persons=("submit-again", "give-up"),
        faults=2,
        kinds=frozenset({"lost"}),
    ),
    Scenario("two workers, one fault, one refusal", refusals=1),
    Scenario("two workers and a person who gives up, one fault", persons=("give-up",)),
    Scenario("a worker and two persons, two faults", workers=1, persons=("submit-again", "give-up"), faults=2),
    Scenario("two workers and a collector, one fault", collectors=1),
    Scenario("two workers and a collector, one refusal", collectors=1, faults=0, refusals=1),
    Scenario("a worker and two collectors, one fault", workers=1, collectors=2),
    Scenario("two workers and a person who submits again, one fault", persons=("submit-again",)),
    Scenario("two workers and a person who adopts, one fault", persons=("adopt",)),
    Scenario(
        "a worker and two persons, one of whom adopts, two faults",
        workers=1,
        persons=("submit-again", "adopt"),
        faults=2,
    ),
    Scenario(
        "a worker that may buy twice and a collector, no video, one fault",
        workers=1,
        collectors=1,
        work=submit_twice_at_most,
        fails=True,
    ),
    Scenario(
        "two workers that may buy twice and a collector, no video",
        collectors=1,
        work=submit_twice_at_most,
        fails=True,
        faults=0,
    ),
    Scenario("two workers that also save, one fault", work=make),
    Scenario("two workers that also save and a collector", work=make, collectors=1, faults=0),
    Scenario("a worker that also saves and a person who gives up", workers=1, work=make, persons=("give-up",)),
    Scenario("two workers after a claim, one fault", claimed=True),
    Scenario("two workers and a collector after a claim, one fault", collectors=1, claimed=True),
    Scenario("three workers, one fault", workers=3),
    Scenario("three workers, two faults, 14 steps", workers=3, faults=2, most_depth=14),
    Scenario("two workers, two faults, 40 steps", faults=2, most_depth=40),
]


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="states are compared by the bytecode of suspended frames, as of Python 3.12"
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of runs that the search closes
@pytest.mark.parametrize("scenario", FEW + MORE * EVERYTHING, ids=lambda scenario: scenario.name)
def test_no_order_of_requests_breaks_a_promise(scenario: Scenario) -> None:
    found = _searched(scenario)
    print(f"\n{found}")
    assert found.terminal or scenario.most_depth
    assert not found.divergences, found.divergences[0]


def _searched(scenario: Scenario) -> SearchResult:
    """In a thread of its own: the code leaves signals alone there."""
    logging.disable(logging.CRITICAL)
    try:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(Search(scenario).run)
        if isinstance(error := found.exception(), BrokenPromiseError):
            pytest.fail(str(error), pytrace=False)
        return found.result()
    finally:
        logging.disable(logging.NOTSET)
