"""The same faults in real flow runs on a real Prefect server, and kill -9 for that server itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.crash.conftest import EVERYTHING, SEED
from tests.crash.environment import Environment, ForkServer
from tests.crash.faults import Wire
from tests.crash.schedules import Schedule, broken_invariants, run_all, run_schedule
from tests.support.prefect_server import PrefectServer
from tests.support.proxy import NetworkFault

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]
AT_ONCE = 3

SUBMIT, RECORD, POLL, VIDEO = r"^POST", r"^PUT .*record\.json", r"^GET .*tasks", r"^GET"
POINTS: list[tuple[Wire, NetworkFault]] = [
    ("api", NetworkFault(what="kill", when="before", matching=SUBMIT)),
    ("api", NetworkFault(what="kill", when="after", matching=SUBMIT)),
    ("api", NetworkFault(what="drop", when="after", matching=SUBMIT)),
    ("s3", NetworkFault(what="kill", when="after", matching=RECORD, at=0)),
    ("s3", NetworkFault(what="kill", when="before", matching=RECORD, at=1)),
    ("video", NetworkFault(what="kill", when="mid_reply", matching=VIDEO)),
]
"""Around the submit, around its two writes, and in the download."""


@pytest.fixture(scope="module")
def prefect(killable_prefect: PrefectServer) -> PrefectServer:
    # A killed run leaves its slot taken for a minute: with 6 of them, the next runs would only wait.
    limit = {"name": "crash", "limit": 1000}
    url = f"{killable_prefect.api_url}/v2/concurrency_limits/"
    httpx.post(url, json=limit, trust_env=False, timeout=60).raise_for_status()
    return killable_prefect


@pytest.fixture(autouse=True)
def afterwards_it_runs(killable_prefect: PrefectServer) -> Iterator[None]:
    """Whatever becomes of a test here: others use that server, too."""
    yield
    if not killable_prefect.runs:
        killable_prefect.start()


@pytest.fixture(scope="module")
def flow_forks(prefect, tmp_path_factory) -> Iterator[ForkServer]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = str(tmp_path_factory.mktemp("home"))
    forks = ForkServer("flowserver.py", env | {"PREFECT_HOME": home, "PREFECT_API_URL": prefect.api_url})
    yield forks
    forks.close()


def test_a_flow_that_is_killed_pays_once_and_loses_nothing(flow_forks, s3_server):
    points = POINTS
    if EVERYTHING:
        bucket = s3_server.make_bucket()
        outcome = run_schedule(flow_forks, s3_server, bucket.name, "undisturbed", Schedule({}))
        bucket.remove()
        assert (outcome.state, outcome.broken, len(outcome.runs)) == ("saved", [], 1), outcome.story
        kills = [
            NetworkFault(what="kill", when="before"),
            NetworkFault(what="kill", when="after"),
            NetworkFault(what="drop", when="after"),
        ]
        points = [
            (wire, NetworkFault(what=fault.what, when=fault.when, at=at))
            for wire, seen in outcome.seen.items()
            for at in range(len(seen))
            for fault in kills
        ]
    schedules = [Schedule({wire: [fault]}) for wire, fault in points]
    states = run_all(flow_forks, s3_server, schedules, SEED, "flow schedules", AT_ONCE)
    assert states["saved"] > 0


@pytest.mark.parametrize(
    ("wire", "request_line", "at"),
    [("api", SUBMIT, 0), ("s3", RECORD, 0), ("api", POLL, 0), ("video", VIDEO, 0), ("s3", RECORD, 3)][
        : None if EVERYTHING else 1
    ],
)
def test_a_prefect_server_that_is_killed_costs_no_second_payment(
    prefect, flow_forks, s3_server, wire, request_line, at
):
    bucket = s3_server.make_bucket()
    with Environment(flow_forks, s3_server, bucket.name, "loova") as stage:
        left, watch = [at], stage.proxies[wire].watch

        def kill_the_server(line: str) -> None:
            if watch is not None:
                watch(line)
            if re.search(request_line, line):
                left[0] -= 1
                if left[0] == -1:
                    prefect.kill()

        stage.proxies[wire].watch = kill_the_server
        lonely = stage.run()
        assert not prefect.runs
        prefect.start()
        assert stage.run().state == "saved", stage.story
        print(f"\nwithout its server the run ended {lonely.state}")
        # The ledger is right. Only the end of the first run, an error of Prefect, differs from a run without a fault.
        broken = [problem for problem in broken_invariants(stage, "saved") if not problem.startswith("run 1 ")]
        assert not broken, f"{broken}\n{stage.story}"
        assert stage.loova.ledger["totals"]["posted"] == 1
    bucket.remove()
