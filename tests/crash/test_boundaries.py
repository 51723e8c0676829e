"""Harm at every request boundary of a run, and random schedules of several faults; then the servers' books are checked.

`make test` runs a fixed subset, `make test-crash` all of it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.crash.schedules import ForkServer, Outcome, Wire, run_schedule
from tests.proxy import Harm

EVERYTHING = "CRASH_EVERYTHING" in os.environ
SEED = int(os.environ.get("CRASH_SEED", "20261123"))
RANDOM = int(os.environ.get("CRASH_SCHEDULES", "2000" if EVERYTHING else "24"))
AT_ONCE = 8
PARTS = 12 * 1024 * 1024
"""The size of a video that goes to S3 in two parts."""

ANYWHERE = [
    *(Harm(what="kill", when=when) for when in ("before", "after", "mid_reply")),
    *(Harm(what="drop", when=when) for when in ("before", "after", "mid_reply")),
    *(Harm(what="reset", when=when) for when in ("before", "after")),
    *(Harm(what="answer", when=when, status=500) for when in ("before", "after")),
    *(Harm(what="answer", when=when, status=503, headers=(("Retry-After", "1"),)) for when in ("before", "after")),
    Harm(what="answer", when="after", status=502, body=b"<html>Bad Gateway</html>"),
    Harm(what="answer", when="after", status=200, body=b""),
    Harm(what="answer", when="after", status=200, body=b"<html>hello</html>"),
    Harm(what="delay", when="after", seconds=2.5),
    Harm(what="truncate", when="after"),
    Harm(what="corrupt", when="after"),
]
# Nothing but TLS notices a byte that changes between Loova and here (a task id, a video): no checksum is documented.
NOT_S3 = [harm for harm in ANYWHERE if harm.what != "corrupt"]
ONLY_S3 = [
    Harm(what="answer", when="before", status=412, body=b"<Error><Code>PreconditionFailed</Code></Error>"),
    Harm(what="answer", when="before", status=409, body=b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
    Harm(what="answer", when="before", status=503, body=b"<Error><Code>SlowDown</Code></Error>", times=2),
    Harm(what="corrupt", when="before"),
]
ONLY_SUBMIT = [Harm(what="answer", when="before", status=status) for status in (400, 401, 402, 404, 422, 429)]


def _harms(wire: Wire, s3_server) -> list[Harm]:
    """What can be done to a request on a wire. moto checks no checksum of what it is sent, SeaweedFS does."""
    if wire != "s3":
        return NOT_S3
    return [
        harm
        for harm in ANYWHERE + ONLY_S3
        if s3_server.name != "moto" or (harm.what, harm.when) != ("corrupt", "before")
    ]


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


def _all_at_once(
    forks: ForkServer, s3_server, schedules: list[tuple[dict[Wire, list[Harm]], int | None]]
) -> Counter[str]:
    """Run schedules, each below a prefix of its own, and hold every one against the invariants."""
    bucket = s3_server.make_bucket()

    def one(numbered: tuple[int, tuple[dict[Wire, list[Harm]], int | None]]) -> tuple[dict[Wire, list[Harm]], Outcome]:
        number, (harms, video_bytes) = numbered
        return harms, run_schedule(forks, s3_server, bucket.name, f"run-{number}", harms, video_bytes)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(one, enumerate(schedules)))
    broken = [(harms, outcome) for harms, outcome in ended if outcome.broken]
    told = "\n".join(f"{harms}: {outcome.broken}\n{_tail(outcome)}" for harms, outcome in broken[:3])
    bucket.remove()
    assert not broken, f"{len(broken)} of {len(ended)} schedules broke an invariant, seed {SEED}\n{told}"
    return Counter(outcome.state for _, outcome in ended)


def _tail(outcome: Outcome) -> str:
    lines = [line for line in outcome.story.splitlines() if "httpcore" not in line]
    return "\n".join(["    " + line for line in lines[-12:]])


def _boundaries(forks: ForkServer, s3_server, video_bytes: int | None) -> dict[Wire, int]:
    """How many requests an undisturbed run sends on each wire."""
    bucket = s3_server.make_bucket()
    outcome = run_schedule(forks, s3_server, bucket.name, "undisturbed", {}, video_bytes)
    bucket.remove()
    assert (outcome.state, outcome.broken, outcome.runs) == ("saved", [], 1), outcome.story
    return {wire: len(seen) for wire, seen in outcome.seen.items()}


@pytest.mark.parametrize("video_bytes", [None, PARTS], ids=["one part", "two parts"])
def test_harm_at_any_request_boundary_pays_once_and_loses_nothing(forks, s3_server, video_bytes):
    schedules: list[tuple[dict[Wire, list[Harm]], int | None]] = []
    for wire, count in _boundaries(forks, s3_server, video_bytes).items():
        for at in range(count):
            harms = [*_harms(wire, s3_server)]
            harms += ONLY_SUBMIT if wire == "api" and at == 0 else []
            schedules += [({wire: [replace(harm, at=at)]}, video_bytes) for harm in harms]
    if not EVERYTHING:
        schedules = random.Random(SEED).sample(schedules, 40 if video_bytes is None else 16)
    states = _all_at_once(forks, s3_server, schedules)
    print(f"\n{len(schedules)} schedules on {s3_server.name}: {dict(states)}, seed {SEED}")
    assert states["saved"] > 0


def test_random_schedules_of_several_faults_pay_once_and_lose_nothing(forks, s3_server):
    chance = random.Random(SEED)
    schedules = []
    for _ in range(RANDOM):
        harms: dict[Wire, list[Harm]] = {}
        for _ in range(chance.randint(2, 5)):
            wire: Wire = chance.choice(["api", "s3", "s3", "s3", "video"])
            harm = chance.choice(_harms(wire, s3_server))
            harms.setdefault(wire, []).append(
                replace(harm, at=chance.randint(0, {"api": 6, "s3": 30, "video": 2}[wire]))
            )
        schedules.append((harms, chance.choice([None, None, None, PARTS])))
    states = _all_at_once(forks, s3_server, schedules)
    print(f"\n{len(schedules)} random schedules on {s3_server.name}: {dict(states)}, seed {SEED}")
