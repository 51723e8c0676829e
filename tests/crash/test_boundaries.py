"""Faults at every request of a run, and random schedules of faults. Then the ledgers of the servers are checked.

`make test` runs a fixed subset, `make test-crash` all of it.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass, replace

from tests.crash.conftest import EVERYTHING, SEED
from tests.crash.environment import ForkServer
from tests.crash.faults import Wire, drawn, faults_at, is_multipart, kind, place
from tests.crash.schedules import PARTS, Schedule, run_all, run_schedule
from tests.support.proxy import NetworkFault, Seen

RANDOM = int(os.environ.get("CRASH_SCHEDULES", "1000" if EVERYTHING else "12"))
FEW = {None: 12, PARTS: 8}
"""How many of the boundary schedules are in the fixed subset, for each size of the video, beside those at the heart."""
ALWAYS: dict[tuple[object, ...], int] = {
    ("submit", "delay", "after"): 0,
    ("record", "kill", "before", 0, 4.5): 1,  # the first one creates it
    ("read", "answer", "before", 404): 0,
    ("object", "answer", "before", 2): 0,
    ("video", "truncate", "after"): 0,
}
"""Place and kind of those that only one check each stands against, and which of such requests it is."""


@dataclass(frozen=True)
class Boundary:
    """One fault at one request of a run."""

    wire: Wire
    place: str
    fault: NetworkFault


def _boundaries(forks: ForkServer, s3_server, video_bytes: int | None) -> dict[Wire, list[Seen]]:
    """The requests of an undisturbed run on each wire."""
    bucket = s3_server.make_bucket()
    outcome = run_schedule(forks, s3_server, bucket.name, "undisturbed", Schedule({}, video_bytes))
    bucket.remove()
    assert (outcome.state, outcome.broken, len(outcome.runs)) == ("saved", [], 1), outcome.story
    return outcome.seen


def test_a_fault_at_any_request_pays_once_and_loses_nothing(forks, s3_server):
    schedules = []
    for video_bytes in (None, PARTS):
        some = _at_all_boundaries(forks, s3_server, video_bytes)
        some = some if EVERYTHING else _fixed_subset(some, video_bytes, s3_server.name)
        schedules += [Schedule({one.wire: [one.fault]}, video_bytes) for one in some]
    states = run_all(forks, s3_server, schedules, SEED, "boundaries")
    assert states["saved"] and states["in_doubt"]


def _at_all_boundaries(forks: ForkServer, s3_server, video_bytes: int | None) -> list[Boundary]:
    """Each kind of fault at each request of an undisturbed run; of a large video's run from its upload on."""
    found = []
    requests = _boundaries(forks, s3_server, video_bytes)
    if video_bytes:  # until then both sizes send the same
        requests["api"] = []
    for wire, some in requests.items():
        first = next((at for at, request in enumerate(some) if is_multipart(request)), 0)
        for at in range(first, len(some)):
            faults = faults_at(wire, some[at], s3_server.name)
            found += [Boundary(wire, place(wire, some[at]), _at(fault, at, some)) for fault in faults]
    return found


def _at(fault: NetworkFault, at: int, requests: list[Seen]) -> NetworkFault:
    """The fault at the request with this index: a fault counts the requests that it matches."""
    before = [one for one in requests[:at] if re.search(fault.matching, f"{one.method} {one.path}")]
    return replace(fault, at=len(before))


def _fixed_subset(boundaries: list[Boundary], video_bytes: int | None, server: str) -> list[Boundary]:
    """A fixed choice: half of all kinds of fault at a submit and at a record's write, and a few of the others.

    The other half is the other server's.
    """
    groups: dict[tuple[object, ...], list[Boundary]] = {}
    for one in boundaries:
        groups.setdefault((one.place, *kind(one.fault)), []).append(one)
    always = {name: at for name in groups for start, at in ALWAYS.items() if name[: len(start)] == start}
    names = sorted(set(groups) - set(always), key=str)[server == "moto" :: 2]
    heart = [name for name in names if name[0] in ("submit", "record") and not video_bytes]
    others = [name for name in names if name not in heart]
    chance = random.Random(SEED)
    chosen = heart + chance.sample(others, FEW[video_bytes])
    return [groups[name][at] for name, at in always.items() if at < len(groups[name])] + [
        chance.choice(groups[name]) for name in chosen
    ]


def test_random_schedules_of_several_faults_pay_once_and_lose_nothing(forks, s3_server):
    chance = random.Random(f"{SEED} {s3_server.name}")
    schedules = []
    for _ in range(RANDOM):
        faults: dict[Wire, list[NetworkFault]] = {}
        for _ in range(chance.randint(2, 5)):
            wire: Wire = chance.choice(["api", "api", "s3", "s3", "s3", "video"])
            faults.setdefault(wire, []).append(drawn(chance, wire, s3_server.name))
        schedules.append(Schedule(faults, chance.choice([None, None, None, PARTS])))
    run_all(forks, s3_server, schedules, SEED, "random schedules")
