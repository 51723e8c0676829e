"""(a) A plain asyncio script, as a careful person writes it with httpx and boto3: submit, poll, download, put.

One HTTP client and one S3 client for all, six at a time, every answer checked, and ours' pauses between polls.
It has no memory: run again, it pays again.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import boto3
import httpx

from tests.benchmarks.environment import Where

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TLS = httpx.create_ssl_context()
"""Loaded once, as ours is: with a client for each run it would be 20 ms for each."""


def s3_client(where: Where) -> S3Client:
    """The one client of S3."""
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=where.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=where.access_key,
        aws_secret_access_key=where.secret_key,
    )
    return client


async def make(prompts: list[str], where: Where, s3: S3Client) -> int:
    """Make all videos; returns how many are in the bucket."""
    places = asyncio.Semaphore(where.places)

    async with httpx.AsyncClient(timeout=60, verify=TLS) as http:

        async def one(prompt: str) -> str:
            async with places:
                task_id = await submit(http, where, prompt)
                url = await wait(http, where, task_id)
            return await save(http, s3, where, task_id, url)

        return len(await asyncio.gather(*map(one, prompts)))


async def submit(http: httpx.AsyncClient, where: Where, prompt: str) -> str:
    """Buy one video."""
    body = {
        "model": "seedance_2_0",
        "function_mode": "omni_reference",
        "prompt": prompt,
        "ratio": "16:9",
        "duration": 4,
    }
    data = _data(await http.post(f"{where.base_url}/v1/video/seedance-2", json=body, headers=key_of(where)))
    return str(data["task_id"])


async def wait(http: httpx.AsyncClient, where: Where, task_id: str) -> str:
    """Poll until it is made; returns its URL."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(pause(where.poll_seconds, time.monotonic() - started))
        answer = await http.get(f"{where.base_url}/v1/tasks", params={"task_id": task_id}, headers=key_of(where))
        data = _data(answer)
        if url := (data.get("result") or {}).get("video_url"):
            return str(url)
        if data["status"] in ("failed", "error", "cancelled"):
            raise RuntimeError(f"task {task_id}: {data['status']}")


async def save(http: httpx.AsyncClient, s3: S3Client, where: Where, task_id: str, url: str) -> str:
    """Download it, and put it into the bucket."""
    answer = await http.get(url)
    answer.raise_for_status()
    key = f"videos/{task_id}.mp4"
    await asyncio.to_thread(s3.put_object, Bucket=where.bucket, Key=key, Body=answer.content, ContentType="video/mp4")
    return key


def key_of(where: Where) -> dict[str, str]:
    """The API key is for the API, never for the host of the videos."""
    return {"Authorization": f"Bearer {where.api_key}"}


def pause(first: float, waited: float) -> float:
    """The pauses of `prefect_loova.jobs.wait.PollSchedule`."""
    return max(first, 0.07 * waited) * (1 - 0.5 * random.random())


def _data(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    envelope = answer.json()
    if envelope["code"] != 200:
        raise RuntimeError(f"Loova answers {envelope['code']}: {envelope.get('message')}")
    data: dict[str, Any] = envelope["data"]
    return data
