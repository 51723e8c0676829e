"""(b) A Prefect flow as Prefect's docs would have it: three tasks with `retries=3`, six videos at a time.

Gathered, which is cheaper than the `.submit` of the guides. Six at a time by a semaphore, which costs nothing: a
global concurrency limit would add calls of Prefect's API for each video, and a task runner of six threads would
submit all videos before it waits for the first. The steps are those of the plain script, with its one HTTP client and
one S3 client; nothing is logged beside what Prefect logs itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from prefect import flow, task

from tests.benchmarks.environment import Where
from tests.benchmarks.peers import plain_script as steps

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

s3_client = steps.s3_client
_http: httpx.AsyncClient
_s3: S3Client


@task(retries=3, retry_delay_seconds=[1, 10, 60])
async def submit(where: Where, prompt: str) -> str:
    """Buy one video. A retry pays again."""
    return await steps.submit(_http, where, prompt)


@task(retries=3, retry_delay_seconds=[1, 10, 60])
async def wait(where: Where, task_id: str) -> str:
    """Poll until it is made."""
    return await steps.wait(_http, where, task_id)


@task(retries=3, retry_delay_seconds=[1, 10, 60])
async def save(where: Where, task_id: str, url: str) -> str:
    """Download it, and put it into the bucket."""
    return await steps.save(_http, _s3, where, task_id, url)


@flow(name="videos")
async def videos(prompts: list[str], where: Where) -> int:
    """Make all videos; returns how many are in the bucket."""
    global _http
    places = asyncio.Semaphore(where.places)

    async def one(prompt: str) -> str:
        async with places:
            task_id = await submit(where, prompt)
            url = await wait(where, task_id)
        return await save(where, task_id, url)

    async with httpx.AsyncClient(timeout=60, verify=steps.TLS) as _http:
        return len(await asyncio.gather(*map(one, prompts)))


async def make(prompts: list[str], where: Where, s3: S3Client) -> int:
    """Run the flow."""
    global _s3
    _s3 = s3
    return await videos(prompts, where)
