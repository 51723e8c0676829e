"""Harm at every request boundary of a run, and random schedules of several faults; then the servers' books are checked.

`make test` runs a fixed subset, `make test-crash` all of it.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

from tests.crash.conftest import EVERYTHING, SEED
from tests.crash.harms import Wire, drawn, harms_at, is_multipart, kind
from tests.crash.schedules import PARTS, Schedule, run_all, run_schedule
from tests.crash.stage import ForkServer
from tests.proxy import Harm, Seen

RANDOM = int(os.environ.get("CRASH_SCHEDULES", "1000" if EVERYTHING else "12"))
FEW = {None: 32, PARTS: 12}
"""How many of the boundary schedules are in the fixed subset, for each size of the video."""


def _boundaries(forks: ForkServer, s3_server, video_bytes: int | None) -> dict[Wire, list[Seen]]:
    """The requests of an undisturbed run on each wire."""
    bucket = s3_server.make_bucket()
    outcome = run_schedule(forks, s3_server, bucket.name, "undisturbed", Schedule({}, video_bytes))
    bucket.remove()
    assert (outcome.state, outcome.broken, len(outcome.runs)) == ("saved", [], 1), outcome.story
    return outcome.seen


def test_harm_at_any_request_boundary_pays_once_and_loses_nothing(forks, s3_server):
    schedules = []
    for video_bytes in (None, PARTS):
        some = _at_all_boundaries(forks, s3_server, video_bytes)
        some = some if EVERYTHING else _some_of_each_kind(some, FEW[video_bytes])
        schedules += [Schedule({wire: [harm]}, video_bytes) for wire, harm in some]
    states = run_all(forks, s3_server, schedules, SEED, "boundaries")
    assert states["saved"] and states["in_doubt"]


def _at_all_boundaries(forks: ForkServer, s3_server, video_bytes: int | None) -> list[tuple[Wire, Harm]]:
    """Each kind of harm at each request of an undisturbed run; of a large video's run from its upload on."""
    schedules: list[tuple[Wire, Harm]] = []
    requests = _boundaries(forks, s3_server, video_bytes)
    if video_bytes:  # until then both sizes send the same
        requests["api"] = []
    for wire, some in requests.items():
        first = next((at for at, request in enumerate(some) if is_multipart(request)), 0)
        for at in range(first, len(some)):
            schedules += [(wire, replace(harm, at=at)) for harm in harms_at(wire, some[at], s3_server.name)]
    return schedules


def _some_of_each_kind(schedules: list[tuple[Wire, Harm]], count: int) -> list[tuple[Wire, Harm]]:
    """A fixed choice: one of each wire and kind of harm before there is a second one of any."""
    chance = random.Random(SEED)
    shuffled = chance.sample(schedules, len(schedules))
    seen: dict[object, int] = {}
    turns = []
    for number, (wire, harm) in enumerate(shuffled):
        group = (wire, *kind(harm))
        seen[group] = seen.get(group, 0) + 1
        turns.append((seen[group], number))
    return [shuffled[number] for _, number in sorted(turns)[:count]]


def test_random_schedules_of_several_faults_pay_once_and_lose_nothing(forks, s3_server):
    chance = random.Random(f"{SEED} {s3_server.name}")
    schedules = []
    for _ in range(RANDOM):
        harms: dict[Wire, list[Harm]] = {}
        for _ in range(chance.randint(2, 5)):
            wire: Wire = chance.choice(["api", "api", "s3", "s3", "s3", "video"])
            harms.setdefault(wire, []).append(drawn(chance, wire, s3_server.name))
        schedules.append(Schedule(harms, chance.choice([None, None, None, PARTS])))
    run_all(forks, s3_server, schedules, SEED, "random schedules")
