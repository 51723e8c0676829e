"""prefect-loova: the flow `generate_video`, as it stands. It runs in this project's environment, not in one of its own.

Prefect's ephemeral server is started before the call by an empty flow, so that the seconds are those of the call.

    .venv/bin/python ours.py http://127.0.0.1:PORT '{"endpoint_url": ..., "access_key": ..., ...}'
"""

from __future__ import annotations

import asyncio
import json
import sys

from prefect import flow
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr
from witness import PROMPT, witness

from prefect_loova import LoovaCredentials, VideoRequest, generate_video
from prefect_loova.client import LoovaClient


@flow
async def start() -> None:
    """Nothing; Prefect's server is up after it."""


def main(base_url: str, s3: dict[str, str]) -> None:
    """Run the flow once."""
    aws = AwsCredentials(
        aws_access_key_id=s3["access_key"],
        aws_secret_access_key=SecretStr(s3["secret_key"]),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=s3["endpoint_url"]),
    )
    credentials = LoovaCredentials(api_key=SecretStr("benchmark"), base_url=f"{base_url}/api")
    bucket = S3Bucket(bucket_name=s3["bucket"], bucket_folder=s3["folder"], credentials=aws)
    asyncio.run(start())
    witness(
        "prefect-loova",
        lambda: generate_video(VideoRequest(prompt=PROMPT), credentials, bucket),
        can_list=any("list" in name for name in dir(LoovaClient)),
    )


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
