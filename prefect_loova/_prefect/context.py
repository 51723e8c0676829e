"""The location of a run, made of blocks, and the core's tools for it."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

from prefect.blocks.core import Block
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.events import emit_job_event
from prefect_loova._prefect.run import run_identity
from prefect_loova._prefect.run_logs import forward_logs
from prefect_loova._prefect.telemetry import measure
from prefect_loova._urls import origin
from prefect_loova.client import LoovaClient
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.jobs.context import JobEvent, VideoJobs
from prefect_loova.models.attempts import Attempt
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import Submission
from prefect_loova.settings import LoovaSettings
from prefect_loova.store.records import JobRecords

if TYPE_CHECKING:
    from prefect_loova.videos import LoovaVideos

log = logging.getLogger(__name__)

DEFAULT_PREFIX = "loova"
"""The default prefix in the bucket, below the block's own folder."""

LOCATION_ARGUMENTS: ContextVar[str | None] = ContextVar("LOCATION_ARGUMENTS", default=None)
"""The command-line options that name the location, if it has no blocks: the simulated one."""


@dataclass(frozen=True)
class Location:
    """Where a run buys videos and where it saves them.

    Attributes:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
    """

    credentials: LoovaCredentials
    bucket: S3Bucket
    prefix: str = DEFAULT_PREFIX

    @classmethod
    def of(cls, submission: Submission, credentials: LoovaCredentials, bucket: S3Bucket) -> Self:
        """Return the location of a submission. The URI of its job record contains the prefix.

        Raises:
            InvalidRequestError: The blocks are for another API, another bucket or another folder.
        """
        start = f"s3://{bucket.bucket_name}/"
        end = f"/{submission.key}/record.json"
        path = f"/{submission.record.removeprefix(start)}"
        if not (submission.record.startswith(start) and path.endswith(end)):
            raise InvalidRequestError(
                f"bucket: {bucket.bucket_name} was given, but the job's record is {submission.record}"
            )
        if submission.api_origin != (given := origin(credentials.base_url)):
            raise InvalidRequestError(
                f"credentials: they are for {given}, but the job belongs to {submission.api_origin}"
            )
        path = path.removesuffix(end)[1:].rstrip("/")
        folder = bucket.bucket_folder.strip("/")
        if folder and path != folder and not path.startswith(f"{folder}/"):
            raise InvalidRequestError(f"bucket: its folder is {folder}, but the job's record is {submission.record}")
        return cls(credentials, bucket, path.removeprefix(folder).strip("/"))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[VideoJobs]:
        """Open the API client and the bucket, and forward the core's log lines to the current run."""
        credentials, bucket, prefix = self.credentials, self.bucket, self.prefix
        folder = bucket.bucket_folder.strip("/")
        below = "/".join(filter(None, (folder, prefix)))

        def notify(event: JobEvent, record: JobRecord, number: int) -> None:
            try:
                if event == "cost_differs" and _is_tolerated(record.attempt(number)):
                    return
                measure(event, record, number)
                emit_job_event(bucket.bucket_name, event, record, number)
            except Exception as error:  # the record is written, and nothing may hide a purchase
                log.warning("job %s: the event %s was not sent (%s)", record.key, event, redact(error))

        with forward_logs():
            async with _shared_client(credentials) as loova:
                yield VideoJobs(
                    loova,
                    JobRecords(bucket.credentials.get_s3_client(), bucket.bucket_name, below, loova.origin),
                    times=credentials.job_times,
                    by=run_identity(),
                    location_arguments=LOCATION_ARGUMENTS.get()
                    or _location_arguments(credentials, bucket, prefix, below),
                    max_credits_per_day=credentials.max_credits_per_day,
                    media=credentials.media,
                    notify=notify,
                )


@asynccontextmanager
async def _shared_client(credentials: LoovaCredentials) -> AsyncIterator[LoovaClient]:
    """Open an API client, or use the one that is open for this block: the tasks of a flow share its connections."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    shared = clients.get(id(credentials))
    if shared is None:
        shared = clients[id(credentials)] = _SharedClient(credentials, await credentials.get_client().__aenter__())
    shared.users += 1
    try:
        yield shared.client
    finally:
        shared.users -= 1
        if shared.users == 0:
            del clients[id(credentials)]
            await shared.client.__aexit__(None, None, None)


@dataclass
class _SharedClient:
    credentials: LoovaCredentials  # as long as it is here, no other block has its id
    client: LoovaClient
    users: int = 0


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _SharedClient]] = WeakKeyDictionary()


def _is_tolerated(attempt: Attempt) -> bool:
    """Return whether a charge differs too little from the estimate for an event."""
    return abs(attempt.cost_difference) <= LoovaSettings.load().cost_tolerance * attempt.credits_estimate


def location_of(
    videos: LoovaVideos | None, credentials: LoovaCredentials | None, bucket: S3Bucket | None, prefix: str
) -> Location:
    """Return the location that a call names, with `videos`, or with `credentials` and `bucket`.

    Raises:
        InvalidRequestError: The call names none, or both.
    """
    given = {"credentials": credentials, "bucket": bucket}
    if videos is not None:
        both = [name for name, value in given.items() if value is not None]
        both += ["prefix"] if prefix != DEFAULT_PREFIX else []
        if both:
            raise InvalidRequestError(f"{', '.join(both)}: given together with `videos`, which has its own")
        return videos.location
    if credentials is None or bucket is None:
        missing = [name for name, value in given.items() if value is None]
        raise InvalidRequestError(f"{', '.join(missing)}: missing; give `videos`, or `credentials` and `bucket`")
    return Location(credentials, bucket, prefix)


def location_of_submission(
    submission: Submission,
    videos: LoovaVideos | None,
    credentials: LoovaCredentials | None,
    bucket: S3Bucket | None,
) -> Location:
    """Return the location of a submission, with the blocks that a call names.

    Raises:
        InvalidRequestError: The call names no blocks or too many, or they are for another location.
    """
    named = location_of(videos, credentials, bucket, DEFAULT_PREFIX)
    return Location.of(submission, named.credentials, named.bucket)


def _location_arguments(credentials: LoovaCredentials, bucket: S3Bucket, prefix: str, below: str) -> str:
    """Return the command-line options that name these blocks. A block that was never saved has no name."""
    loova, s3 = _document_name(credentials), _document_name(bucket)
    words = ["--credentials", loova] if loova else []
    words += ["--s3-block", s3, "--prefix", prefix] if s3 else ["--bucket", bucket.bucket_name, "--prefix", below]
    return shlex.join(words)


def _document_name(block: Block) -> str | None:
    """Return the name under which a block was saved. Prefect 3 stores it only in a private attribute."""
    return block._block_document_name
