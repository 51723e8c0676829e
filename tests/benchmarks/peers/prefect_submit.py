"""A plain Prefect flow that starts a generation, as Prefect's docs have it: blocks for the place, a task with retries.

It ends with its POST; `start.py` deploys it beside ours. Its imports are those of a flow that saves the video too.
"""

import boto3  # noqa: F401
import httpx
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect_aws.s3 import S3Bucket


@task(retries=3, retry_delay_seconds=5)
def submit(base_url: str, api_key: str, prompt: str, duration: int) -> str:
    answer = httpx.post(
        f"{base_url}/v1/video/seedance-2",
        headers={"Authorization": f"Bearer {api_key}"},
        json={"prompt": prompt, "duration": duration},
        timeout=60,
    )
    task_id: str = answer.raise_for_status().json()["data"]["task_id"]
    return task_id


@flow
def plain(prompt: str, bucket: S3Bucket, base_url: str, duration: int = 5) -> str:
    return submit(base_url, Secret.load("loova-key").get(), prompt, duration)
