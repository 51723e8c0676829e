"""What one video costs beside its generation: seconds over the generation time, and memory over an idle process.

    make bench-one

A simulated Loova and SeaweedFS run in processes of their own. The memory is that of the client process alone, before
and after it saved a video of 1 GiB.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials, VideoRequest, generate_video
from prefect_loova.simulator.s3 import EmbeddedS3

GENERATION = 2.0
RUNS = 5
SIZE = 1024**3


def simulator(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a simulator in its own process; its base URL is in the banner."""
    command = [sys.executable, "-m", "prefect_loova.simulator", "--port", "0", "--api-key", "key", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "/api" in line:
            return process, next(word for word in line.split() if "/api" in word).split("=")[-1].strip("'\"")
    raise SystemExit("the simulator did not start")


def place(base_url: str, s3: EmbeddedS3) -> dict[str, object]:
    aws = AwsCredentials(
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=SecretStr(s3.secret_key),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
    )
    return {
        "credentials": LoovaCredentials(api_key=SecretStr("key"), base_url=base_url),
        "bucket": S3Bucket(bucket_name=s3.bucket, credentials=aws),
        "poll_seconds": 0.1,
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def overhead(s3: EmbeddedS3) -> list[float]:
    process, base_url = simulator("--generation-seconds", str(GENERATION), "--short-side", "64")
    seconds = []
    for take in range(RUNS + 1):
        started = time.perf_counter()
        asyncio.run(generate_video(VideoRequest(prompt="overhead", take=take), **place(base_url, s3)))  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started - GENERATION)
    process.terminate()
    return sorted(seconds[1:])  # the first starts Prefect's server


def main() -> None:
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder)) as s3:
        seconds = overhead(s3)
        idle = peak_mib()
        process, base_url = simulator("--generation-seconds", "0", "--video-bytes", str(SIZE))
        started = time.perf_counter()
        asyncio.run(generate_video(VideoRequest(prompt="large"), **place(base_url, s3)))  # type: ignore[arg-type]
        large = time.perf_counter() - started
        process.terminate()
        result = {
            "overhead_seconds_median": round(seconds[len(seconds) // 2], 2),
            "overhead_seconds_min_max": [round(seconds[0], 2), round(seconds[-1], 2)],
            "idle_mib": round(idle, 1),
            "over_idle_mib_for_1_gib": round(peak_mib() - idle, 1),
            "seconds_for_1_gib": round(large, 1),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
