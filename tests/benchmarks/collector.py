"""A detached batch worked off by a collector that comes once a minute, on the simulator's clock.

    make bench-collector ARGS="--jobs 10000"

Every pass is one look at all open jobs; between two passes the simulator's clock goes on by a minute, and a generation
takes 59 s of it. SeaweedFS and the simulator are real, the minutes are not. Printed: passes against the ideal
`ceil(N / 6) + 1`, seconds and S3 requests of a pass while the queue is long and while it is short, and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect_loova.client import LoovaClient
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.simulator.s3 import EmbeddedS3, s3_client
from prefect_loova.store.records import JobRecords
from tests.benchmarks.environment import rss_mib

PLACES = 6


async def work_off(jobs: VideoJobs, loova: LoovaSimulator, count: int, requests: list[int]) -> dict[str, Any]:
    started = time.monotonic()
    await enqueue(jobs, [VideoRequest(prompt=f"video {number}", duration=4) for number in range(count)])
    queued = time.monotonic() - started
    passes: list[tuple[float, int]] = []
    saved, memory = 0, [rss_mib()]
    while saved < count:
        began, before = time.monotonic(), requests[0]
        found = await collect(jobs, slots=PLACES)
        passes.append((time.monotonic() - began, requests[0] - before))
        assert not found.failed and not found.problems, found
        saved += len(found.saved)
        memory.append(rss_mib())
        loova.advance(60)
    tenth = max(1, len(passes) // 10)
    return {
        "jobs": count,
        "passes": len(passes),
        "ideal_passes": math.ceil(count / PLACES) + 1,
        "billed": loova.ledger["totals"]["billed"],
        "refused": loova.ledger["totals"]["refused"],
        "seconds_to_queue": round(queued, 1),
        "seconds_a_pass_long_queue": round(statistics.median(s for s, _ in passes[:tenth]), 3),
        "seconds_a_pass_short_queue": round(statistics.median(s for s, _ in passes[-tenth - 1 : -1]), 3),
        "s3_requests_a_pass_long_queue": statistics.median(n for _, n in passes[:tenth]),
        "s3_requests_a_pass_short_queue": statistics.median(n for _, n in passes[-tenth - 1 : -1]),
        "mib_after_a_quarter": round(memory[len(memory) // 4], 1),
        "mib_at_the_end": round(memory[-1], 1),
    }


async def measure(count: int) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedS3(Path(folder)) as s3,
        LoovaSimulator(generation_seconds=59, short_side=64, credits=60 * count) as loova,
    ):
        client = s3_client(s3.endpoint_url, s3.access_key, s3.secret_key)
        requests = [0]

        def count_it(**_: Any) -> None:
            requests[0] += 1

        client.meta.events.register("before-send.s3", count_it)
        async with LoovaClient(loova.api_key, loova.base_url) as api:
            jobs = VideoJobs(api, JobRecords(client, s3.bucket, "loova", loova.origin))
            return await work_off(jobs, loova, count, requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=600)
    print(json.dumps(asyncio.run(measure(parser.parse_args().jobs)), indent=1))


if __name__ == "__main__":
    main()
