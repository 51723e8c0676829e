"""Many videos in one run: makespan against the ideal, detection lag, memory, and Prefect API calls a video.

    make bench-batch ARGS="--requests 1000 --generation-seconds 2"

The ideal is `ceil(N / 6) x generation`. A Prefect server, a simulated Loova and SeaweedFS run in processes of their
own; the figures are those of the one process that runs the flow. The lag is from the end of a generation, by the
simulator's books, to the record's `succeeded`, by the client's clock; both are of one machine. `efficiency` is the
ideal over the makespan without the lag of a lane, `efficiency_with_lag` over the makespan as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
PLACES = 6


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


class Watched:
    """Memory over time, and requests to the Prefect API, of this process."""

    def __init__(self) -> None:
        self.calls = 0
        self.samples: list[float] = []
        self._ended = threading.Event()

    def __enter__(self) -> Watched:
        import httpx

        for kind in (httpx.AsyncClient, httpx.Client):
            self._count(kind)
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _count(self, kind: Any) -> None:
        api, send = os.environ["PREFECT_API_URL"], kind.send

        def counted(client: Any, request: Any, **options: Any) -> Any:
            self.calls += str(request.url).startswith(api)
            return send(client, request, **options)

        kind.send = counted

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            self.samples.append(rss_mib())


async def make(spec: dict[str, Any], watched: Watched) -> dict[str, Any]:
    from prefect_aws import AwsCredentials
    from prefect_aws.client_parameters import AwsClientParameters
    from prefect_aws.s3 import S3Bucket
    from pydantic import SecretStr

    from prefect_loova import LoovaCredentials, VideoRequest, generate_videos
    from prefect_loova.opening import open_jobs

    aws = AwsCredentials(
        aws_access_key_id=spec["access_key"],
        aws_secret_access_key=SecretStr(spec["secret_key"]),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=spec["s3"]),
    )
    credentials = LoovaCredentials(api_key=SecretStr("key"), base_url=spec["loova"])
    bucket = S3Bucket(bucket_name=spec["bucket"], credentials=aws)
    requests = [VideoRequest(prompt=f"video {number}", duration=4) for number in range(spec["requests"])]
    before, started = rss_mib(), time.monotonic()
    report = await generate_videos(requests, credentials, bucket, poll_seconds=spec["poll_seconds"])
    makespan, calls, samples = time.monotonic() - started, watched.calls, list(watched.samples)
    again = time.monotonic()
    await generate_videos(requests, credentials, bucket)
    again = time.monotonic() - again
    lags = []
    ended = {task["task_id"]: task["created_at"] + spec["generation_seconds"] for task in ledger(spec)["tasks"]}
    async with open_jobs(credentials, bucket, "loova") as jobs:
        for request in requests:
            attempt = (await jobs.records.expect(request.key)).record.current
            lags.append(attempt.times["succeeded"].timestamp() - ended[str(attempt.task_id)])
    ideal = math.ceil(spec["requests"] / PLACES) * spec["generation_seconds"]
    lag_of_a_lane = sum(lags) / PLACES
    quarter = len(samples) // 4
    return {
        "requests": spec["requests"],
        "generation_seconds": spec["generation_seconds"],
        "saved": report.count("saved"),
        "ideal_seconds": ideal,
        "makespan_seconds": round(makespan, 1),
        "lag_seconds_mean": round(statistics.mean(lags), 2),
        "efficiency": round(ideal / (makespan - lag_of_a_lane), 3),
        "efficiency_with_lag": round(ideal / makespan, 3),
        "prefect_api_calls_a_video": round(calls / spec["requests"], 1),
        "mib_before": round(before, 1),
        "mib_after_a_quarter": round(statistics.median(samples[quarter : quarter + 5]), 1),
        "mib_at_the_end": round(statistics.median(samples[-5:]), 1),
        "seconds_of_a_second_run": round(again, 1),
        "loova_totals": ledger(spec)["totals"],
    }


def ledger(spec: dict[str, Any]) -> dict[str, Any]:
    origin = spec["loova"].removesuffix("/api")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{origin}/_simulator/ledger") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def child(spec: dict[str, Any]) -> None:
    with Watched() as watched:
        print(json.dumps(asyncio.run(make(spec, watched)), indent=1))


def parent(args: argparse.Namespace) -> None:
    import subprocess

    from prefect_loova.simulator.s3 import EmbeddedS3
    from tests.benchmarks.one_video import simulator
    from tests.prefect_server import PrefectServer

    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder) / "s3") as s3:
        home = Path(folder) / "prefect"
        home.mkdir()
        seconds = str(args.generation_seconds)
        options = ("--generation-seconds", seconds, "--short-side", "64", "--credits", "10000000")
        process, base_url = simulator(*options)
        spec = vars(args) | {
            "loova": base_url,
            "s3": s3.endpoint_url,
            "bucket": s3.bucket,
            "access_key": s3.access_key,
            "secret_key": s3.secret_key,
        }
        with PrefectServer(home) as server:
            env = os.environ | {"PREFECT_API_URL": server.api_url, "PREFECT_LOGGING_LEVEL": "ERROR"}
            subprocess.run([sys.executable, __file__, "--child", json.dumps(spec)], env=env, check=True)
        process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--generation-seconds", type=float, default=2.0)
    parser.add_argument("--poll-seconds", type=float, default=0.5)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    spec = vars(args).pop("child")
    child(spec) if spec else parent(args)


if __name__ == "__main__":
    main()
