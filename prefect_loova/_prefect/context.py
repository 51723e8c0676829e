"""From blocks to the core's tools: where a flow run buys and saves, and who it is."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.events import event_sink
from prefect_loova._prefect.run import run_identity
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.store.records import JobRecords

DEFAULT_PREFIX = "loova"
"""Where in the bucket, below the block's own folder, if nothing else is said."""

LOCATION_ARGUMENTS: ContextVar[str | None] = ContextVar("PLACE", default=None)
"""How a command names its account and bucket where blocks do not tell: the simulated ones."""


@asynccontextmanager
async def open_jobs(credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> AsyncIterator[VideoJobs]:
    """The core's tools, made of blocks. The prefix stands below the S3 block's own folder."""
    folder = bucket.bucket_folder.strip("/")
    below = "/".join(filter(None, (folder, prefix)))
    async with credentials.get_client() as loova:
        records = JobRecords(bucket.credentials.get_s3_client(), bucket.bucket_name, below, loova.origin)
        place = LOCATION_ARGUMENTS.get() or _location_arguments(credentials, bucket, prefix, below)
        yield VideoJobs(
            loova,
            records,
            times=credentials.job_times,
            by=run_identity(),
            place=place,
            max_credits_per_day=credentials.max_credits_per_day,
            media=credentials.media,
            notify=event_sink(bucket.bucket_name),
        )


def _location_arguments(credentials: LoovaCredentials, bucket: S3Bucket, prefix: str, below: str) -> str:
    """The arguments by which a command names these blocks; a block that is not stored is left to the environment."""
    loova, s3 = credentials._block_document_name, bucket._block_document_name
    words = ["--credentials", loova] if loova else []
    words += ["--s3-block", s3, "--prefix", prefix] if s3 else ["--bucket", bucket.bucket_name, "--prefix", below]
    return shlex.join(words)
