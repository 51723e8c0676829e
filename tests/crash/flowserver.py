"""The fork server whose jobs are runs of the flow `generate_video` on a real Prefect server (`PREFECT_API_URL`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials, VideoRequest, generate_video
from prefect_loova._prefect.context import Location
from prefect_loova.jobs.context import JobTimes

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.crash.forkserver import decide_as_told, main

SLOW_PREFECT = 45
"""Seconds more than without Prefect: over the 503s of a busy server its client waits 2, 4, 8 and then 16 s."""


async def _flow(spec: dict[str, Any]) -> dict[str, Any]:
    credentials = LoovaCredentials(
        api_key=SecretStr(spec["api_key"]),
        base_url=spec["api"],
        timeout=2,
        submit_timeout=spec["submit_timeout"],
        job_times=JobTimes(**spec["times"]),
    )
    aws = AwsCredentials(
        aws_access_key_id=spec["access_key"],
        aws_secret_access_key=SecretStr(spec["secret_key"]),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=spec["s3"]),
    )
    where: dict[str, Any] = {
        "credentials": credentials,
        "bucket": S3Bucket(bucket_name=spec["bucket"], credentials=aws),
        "prefix": spec["prefix"],
    }
    request = VideoRequest(**spec["request"])
    if spec.get("decision"):
        async with Location(**where).open() as jobs:
            await decide_as_told(jobs, request.key, **spec["decision"])
    max_wait = spec["max_wait"] + SLOW_PREFECT
    options: dict[str, Any] = {"max_wait": max_wait, "poll_seconds": 0.2, "concurrency_limit": "crash"}
    return (await generate_video(request, **where, **options)).model_dump(mode="json")


if __name__ == "__main__":
    main(_flow)
