"""How often a generation is looked at, and how late its end is noticed: ours, fixed intervals, and four SDKs.

    make bench-waiting
    make bench-waiting ARGS="--generations 500"

Generation times are log-uniform between 30 s and 3 h, with a fixed seed, the same for everybody. Ours is the package's
own `wait_for_video` with another clock and sleep, at a Loova that answers by that clock. The SDKs run in environments
of their own, in their newest releases, and are driven for real through 3 hours of a clock that only their sleeps move
(`peers/polls*.py` name the call of each): when a generation ends changes nothing before, so that each end in between
is noticed at the next look. A look itself takes no time, for anybody.

The lag is given in seconds and as a share of the generation time. Below 200 s of generation ours may be over 10%,
as its first pauses are 10 to 20 s; above, it cannot. How many of all are over it stands in the last column.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.wait import PollSchedule, wait_for_video
from prefect_loova.models.results import Submission, VideoTask
from tests.benchmarks.lost_reply import PEERS_FOLDER, Competitor, environment_of
from tests.benchmarks.report import finish

SHORTEST, LONGEST = 30.0, 3 * 3600.0
SEED = 7
OURS = "prefect-loova"
GROWTHS = [percent / 100 for percent in range(2, 21)]
PEERS = (
    ("fal-client", "polls_fal.py", ()),
    ("replicate", "polls_replicate.py", ()),
    ("openai", "polls_openai.py", ()),
    ("runwayml", "polls_runway.py", ()),
    ("runwayml, timeout=None", "polls_runway.py", ("never",)),
)
Look = Callable[[int, float], tuple[int, float] | None]
"""Of a generation, by its number and its seconds: the polls and the second of the last one, or None if it gave up."""


@dataclass(frozen=True)
class Waiting:
    """What one way to wait costs, over all generations whose end it saw."""

    polls_for_3_h: float | None
    polls_mean: float
    lag_median: float
    lag_p90: float
    share_median: float
    share_p90: float
    share_over_a_tenth: float
    longest_lag_share_over_200_s: float
    gave_up: float


class _VirtualLoova:
    """The two parts of `VideoJobs` that waiting uses, by a clock that only sleeping moves."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.polls = seconds, 0.0, 0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def get_task(self, task_id: str) -> VideoTask:
        self.polls += 1
        if self.now < self.seconds:
            return VideoTask(task_id=task_id, state="running")
        return VideoTask(task_id=task_id, state="succeeded", video_url="https://example.com/video.mp4")

    async def change(self, key: str, change: Callable[[Any], Any], known: Any = None) -> None:
        """The job record's end is noted elsewhere."""


SUBMISSION = Submission(
    key="0" * 64,
    attempt=1,
    state="submitted",
    task_id="task",
    api_origin="https://api.loova.ai",
    record="s3://bucket/loova/record.json",
    prompt="a boat",
    model="seedance_2_0",
    credits_estimate=75,
    credits_cost=75,
    trace_id=None,
    reused=False,
)


def by_our_code(number: int, seconds: float) -> tuple[int, float]:
    """The package's own waiting."""
    loova: Any = _VirtualLoova(seconds)
    loova.bucket = loova.prefix = ""
    jobs = VideoJobs(loova, loova, sleep=loova.sleep, clock=lambda: float(loova.now))
    random.seed(number)
    asyncio.run(wait_for_video(jobs, SUBMISSION))
    return loova.polls, loova.now


def by_schedule(schedule: PollSchedule) -> Look:
    """The arithmetic alone, for the settings that `wait_for_video` does not offer."""

    def look(number: int, seconds: float) -> tuple[int, float]:
        random.seed(number)
        now, polls = schedule.pause(0.0), 1
        while now < seconds:
            now += schedule.pause(now)
            polls += 1
        return polls, now

    return look


def every(interval: float) -> Look:
    """A plain loop: sleep, then look."""

    def look(_: int, seconds: float) -> tuple[int, float]:
        polls = max(1, math.ceil(seconds / interval - 1e-9))
        return polls, polls * interval

    return look


def by_looks(runs: list[list[float]], held: float) -> Look:
    """What a driven SDK would have seen: the first look at or after the end."""

    def look(number: int, seconds: float) -> tuple[int, float] | None:
        if seconds <= held:
            return 0, seconds  # the answer to the POST, which the service holds, is the end
        looks = runs[number % len(runs)]
        place = bisect_left(looks, seconds)
        return (place + 1, looks[place]) if place < len(looks) else None

    return look


def driven(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a peer's script in its own environment."""
    python, reason = environment_of(Competitor(script, script, ""))
    if python is None:
        raise SystemExit(f"{script}: {reason}")
    settings = {"PYTHONWARNINGS": "ignore", "NO_PROXY": "*"}
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [python, str(PEERS_FOLDER / script), *arguments],
            env=os.environ | settings | {"HOME": home},
            cwd=home,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def measured(look: Look, generations: list[float]) -> Waiting:
    """One way to wait, over all generations."""
    seen = [(found, seconds) for n, seconds in enumerate(generations) if (found := look(n, seconds)) is not None]
    lags = [at - seconds for (_, at), seconds in seen]
    shares = [lag / seconds for lag, (_, seconds) in zip(lags, seen, strict=True)]
    longest = [found for number in range(100) if (found := look(number, LONGEST)) is not None]
    return Waiting(
        polls_for_3_h=statistics.mean(polls for polls, _ in longest) if longest else None,
        polls_mean=statistics.mean(polls for (polls, _), _ in seen),
        lag_median=statistics.median(lags),
        lag_p90=statistics.quantiles(lags, n=10)[-1],
        share_median=statistics.median(shares),
        share_p90=statistics.quantiles(shares, n=10)[-1],
        share_over_a_tenth=sum(share > 0.1 for share in shares) / len(shares),
        longest_lag_share_over_200_s=max(s for s, (_, seconds) in zip(shares, seen, strict=True) if seconds > 200),
        gave_up=1 - len(seen) / len(generations),
    )


def row(name: str, one: Waiting) -> list[str | float | None]:
    gives_up = f"{one.gave_up:.0%} of all" if one.gave_up else "no"
    polls = None if one.polls_for_3_h is None else f"{one.polls_for_3_h:,.0f}"
    shares = [f"{share:.1%}" for share in (one.share_median, one.share_p90, one.share_over_a_tenth)]
    return [name, polls, f"{one.polls_mean:,.0f}", one.lag_median, one.lag_p90, *shares, gives_up]


def main() -> None:
    parser = argparse.ArgumentParser(description="Polls and lag of ways to wait.")
    parser.add_argument("--generations", type=int, default=4000)
    args = parser.parse_args()
    chance = random.Random(SEED)
    generations = [math.exp(chance.uniform(math.log(SHORTEST), math.log(LONGEST))) for _ in range(args.generations)]

    found = {OURS: measured(by_our_code, generations)}
    arithmetic = by_schedule(PollSchedule())
    assert all(arithmetic(n, seconds) == by_our_code(n, seconds) for n, seconds in enumerate(generations[:200]))
    curve = {growth: measured(by_schedule(PollSchedule(growth=growth)), generations) for growth in GROWTHS}
    for interval in (1, 5, 60):
        found[f"every {interval} s"] = measured(every(interval), generations)
    versions: dict[str, str] = {}
    for name, script, arguments in PEERS:
        said = driven(script, arguments)
        versions[name.partition(",")[0]] = said["version"]
        found[name] = measured(by_looks(said["polls"], said["held"]), generations)

    ours = found[OURS]
    finish(
        "waiting",
        f"{args.generations:,} generations of 30 s to 3 h (log-uniform, seed {SEED}); lag in seconds and as a share of"
        " the generation time, of those whose end was seen; a look takes no time",
        ["", "polls for 3 h", "polls", "lag s", "p90", "lag %", "p90", "over 10%", "gives up before 3 h"],
        [row(name, one) for name, one in found.items()],
        aims={
            "the median lag is at most 30 s": ours.lag_median <= 30,
            "the median lag is at most 10% of the generation time": ours.share_median <= 0.1,
            "the lag is at most 10% of each generation time over 200 s": ours.longest_lag_share_over_200_s <= 0.1,
            "the lag is at most 10% of the generation time in 9 of 10 generations": ours.share_p90 <= 0.1,
            "a generation of 3 h takes at most 120 polls": (ours.polls_for_3_h or math.inf) <= 120,
        },
        figures={name: asdict(one) for name, one in found.items()}
        | {"growth": {f"{growth:.0%}": asdict(one) for growth, one in curve.items()}},
        tools=versions,
        plot=lambda figure: draw(figure, found, curve),
    )


def draw(figure: Any, found: dict[str, Waiting], curve: dict[float, Waiting]) -> None:
    """Polls for 3 h against the median lag."""
    axes = figure.add_subplot()
    axes.plot(
        [one.polls_for_3_h or math.nan for one in curve.values()],
        [one.lag_median for one in curve.values()],
        label="prefect-loova, pauses growing by 2% to 20%",
    )
    for name, one in found.items():
        if one.polls_for_3_h is None:
            continue
        axes.plot(one.polls_for_3_h, one.lag_median, "D" if name == OURS else "o", color="C0" if name == OURS else "C1")
        label = f"{name}, 7%" if name == OURS else name
        offset = (6, -10) if name.startswith("every") else (6, 4)
        axes.annotate(label, (one.polls_for_3_h, one.lag_median), textcoords="offset points", xytext=offset, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="polls for a generation of 3 h", ylabel="median lag, seconds")
    axes.set_xlim(right=5e5)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
