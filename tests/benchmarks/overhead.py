"""What a video costs beside its generation: ours against a plain script (a) and a plain Prefect flow (b).

    make bench-overhead ARGS="--requests 50"

One video, and a batch, of each contestant in turn, each in a process of its own, all against the same simulated
Loova, SeaweedFS and Prefect server (on PostgreSQL; `--sqlite` shows the other). All poll by the same rule and keep
their connections; `peers/plain_script.py` and `peers/prefect_tasks.py` are the others. Ours keeps the record, checks
the video and makes its pictures; without the pictures it is measured too. Seconds are those beyond `ceil(N / 6) x
generation`, and processor seconds those of the client's process after its imports; the database is Prefect's. Videos
are small: what large ones cost is in bench-saving and bench-preview.

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

from tests.benchmarks.report import finish
from tests.benchmarks.stage import PLACES, Stage, stage

POLL_SECONDS = 0.2
MOST = 1.3

S3_REQUESTS = (
    ("GetObject loova/KEY/record.json", "is it bought? then no slot is taken from those who want to buy"),
    ("GetObject loova/KEY/record.json", "with the slot held, perhaps an hour later: the look that a claim rests on"),
    ("PutObject loova/_spend/DAY/KEY.1.0.60", "the day's budget counts it, whatever dies next"),
    ("PutObject loova/_open/KEY", "whoever collects finds the job, whatever dies next"),
    ("PutObject loova/KEY/record.json", "claimed: nobody else buys it"),
    ("PutObject loova/KEY/record.json", "submitting: nobody submits again if this process dies"),
    ("PutObject loova/KEY/record.json", "submitted: the task id is durable before anything else happens"),
    (
        "GetObject loova/KEY/record.json",
        "the wait may be of another process than the submit",
    ),
    ("PutObject loova/KEY/record.json", "succeeded: its price and time are known, whoever saves it"),
    ("GetObject loova/KEY/record.json", "the save may be of another process than the wait"),
    ("PutObject loova/KEY/record.json", "the lease: two collectors do not abort each other's uploads"),
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


class Contestant(NamedTuple):
    """Who makes videos: a module of `peers`, and what it is told."""

    name: str
    module: str
    options: dict[str, Any]


PLAIN = Contestant("(a) plain script", "plain_script", {})
TASKS = Contestant("(b) Prefect flow of three tasks", "prefect_tasks", {})
OURS = Contestant("prefect-loova", "our_flows", {})
NO_PICTURES = Contestant("prefect-loova, preview=none", "our_flows", {"preview": "none"})
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


def by_video(found: dict[str, Any], count: int, ideal: float) -> dict[str, float]:
    """What one video of a run cost; the seconds and the memory are those of the whole run."""
    return {
        "seconds beyond": found["seconds"] - ideal,
        "client CPU s": found["cpu_seconds"] / count,
        "server CPU s": found["server_cpu_seconds"] / count,
        "API requests": found["prefect_requests"] / count,
        "API messages": (found["prefect_requests"] + found["prefect_events"]) / count,
        "database KiB": found["database_bytes"] / count / 1024,
        "S3 requests": found["s3_requests"] / count,
        "peak MiB": found["peak_mib"],
    }


class Overhead:
    """The rounds on one stage.

    Args:
        on: The stage.
        generation: Seconds of each generation.
    """

    def __init__(self, on: Stage, generation: float) -> None:
        self._stage = on
        self._generation = generation
        self.found: dict[str, dict[str, list[dict[str, Any]]]] = {"one": {}, "batch": {}}

    def one(self, who: Contestant, takes: int) -> None:
        """Some videos, one after the other, in a process that has made one before."""
        prompts = list(_prompts(takes + 1))
        options = who.options | ({"entry": "one"} if who.module == OURS.module else {})
        found = self._stage.run(who.module, prompts, POLL_SECONDS, in_turn=True, log=True, **options)
        log = found.pop("log")
        s3 = [what.removeprefix("s3 ") for _, what in log if what.startswith("s3 ")]
        found["s3_requests_in_order"] = s3[-len(s3) // takes :]
        cost = by_video(found, takes, self._generation * takes)
        cost["seconds beyond"] /= takes
        self._note("one", who, found | {"cost": cost})

    def batch(self, who: Contestant, count: int) -> None:
        """One batch."""
        found = self._stage.run(who.module, list(_prompts(count)), POLL_SECONDS, **who.options)
        found["requests"] = dict(list(found["requests"].items())[:40])
        self._note("batch", who, found | {"cost": by_video(found, count, math.ceil(count / PLACES) * self._generation)})

    def _note(self, what: str, who: Contestant, found: dict[str, Any]) -> None:
        self.found[what].setdefault(who.name, []).append(found)
        print(f"{what:5}  {who.name:32}  {found['seconds']:.1f} s", file=sys.stderr, flush=True)

    def cost(self, what: str, who: Contestant) -> dict[str, float]:
        """The medians of the rounds."""
        costs = [one["cost"] for one in self.found[what][who.name]]
        return {measure: statistics.median(cost[measure] for cost in costs) for measure in MEASURES}

    def rows(self) -> Iterator[list[str | float | None]]:
        """Of the table: (b) as it is, and everybody over (b)."""
        for what in self.found:
            base = self.cost(what, TASKS)
            yield [f"{what}: (b), by video", *base.values()]
            for who in ALL:
                cost = self.cost(what, who)
                yield [f"{what}: {who.name}, x (b)", *(_ratio(cost[name], base[name]) for name in MEASURES)]

    def aims(self) -> dict[str, bool]:
        """What was aimed at."""
        reached = {}
        for what in self.found:
            ours, base = self.cost(what, OURS), self.cost(what, TASKS)
            for measure, name in MEASURES.items():
                if measure in ("S3 requests", "API requests"):
                    continue
                reached[f"{what}: {name}, at most {MOST} x (b)"] = ours[measure] <= MOST * base[measure]
        sent = self.found["one"][OURS.name][0]["s3_requests_in_order"]
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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--takes", type=int, default=5, help="of one video, in each round")
    parser.add_argument("--generation-seconds", type=float, default=1.0)
    parser.add_argument("--sqlite", action="store_true", help="the Prefect server on SQLite, not on PostgreSQL")
    args = parser.parse_args()
    with stage("--generation-seconds", str(args.generation_seconds), on_postgres=not args.sqlite) as on:
        overhead = Overhead(on, args.generation_seconds)
        for round_ in range(args.rounds):
            for who in ALL:
                overhead.one(who, args.takes)
            for who in ALL:
                if who is not NO_PICTURES or not round_:
                    overhead.batch(who, args.requests)
    finish(
        "overhead",
        f"What a video costs beside its generation: one, and a batch of {args.requests}, as ratios to (b)",
        ["by video", *MEASURES],
        overhead.rows(),
        aims=overhead.aims(),
        figures=vars(args) | {"s3_requests_of_one_video": S3_REQUESTS} | overhead.found,
        packages=("prefect-aws", "prefect-loova", "aiosqlite"),
    )


if __name__ == "__main__":
    main()
