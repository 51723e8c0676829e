"""The flow of a story of several shots."""

# No `from __future__ import annotations` here, as in flows.py.

from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.concurrency import LIMIT
from prefect_loova._prefect.context import DEFAULT_PREFIX
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._prefect.previews import Preview
from prefect_loova.batches.storyboard import read_storyboard
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import redact
from prefect_loova.flows.batch_run import Batch
from prefect_loova.flows.storyboard_run import Story
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.models.reports import StoryReport


def _storyboard_name() -> str:
    name = str(flow_run.parameters.get("storyboard")).rpartition("/")[2]
    return redact(f"{name}{' (dry run)' if flow_run.parameters.get('dry_run') else ''}", 80) or "generate-storyboard"


@flow(name="generate-storyboard", flow_run_name=_storyboard_name)
async def generate_storyboard(
    storyboard: str,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    dry_run: bool = False,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    concurrency_limit: str = LIMIT,
    preview: Preview = "still",
    media_folder: str | None = None,
) -> StoryReport:
    """Make a story of several shots and join them into one film; a shot may go on from the one before.

    Each shot is paid once: running it again goes on where an earlier run ended, and a changed shot is made anew, with
    those that go on from it.

    Args:
        storyboard: The shots: a local `.yaml` or `.json` file, or its `s3://` URI.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records, shots and films.
        prefix: Where in the bucket, below the block's own folder.
        dry_run: Show the price table and spend nothing.
        max_credits: The credits that this run may spend: a hard stop. None for no bound.
        keep_credits: The credits that must be left in the account.
        max_wait: Seconds to wait for each shot.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How often each shot may be bought in all, when Loova fails to make it.
        upload_options: boto3's `ExtraArgs` of an upload.
        concurrency_limit: The Prefect global concurrency limit that says how many shots are made at once.
        preview: What the page of each shot shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.
        media_folder: The folder in which the local files must lie that the shots name. A storyboard from S3 may name
            none unless this is given, and its relative paths begin here; those of a local one begin beside it.

    Raises:
        InvalidRequestError: Everything that is wrong with the storyboard, by shot and field.
        BudgetError: The story as a whole was refused; nothing was bought.
        BatchError: Shots are missing at the end.
    """
    source = Manifest(storyboard, bucket, what="storyboard")
    board = read_storyboard(await source.read(), storyboard)
    batch = Batch(
        credentials=credentials,
        bucket=bucket,
        prefix=prefix,
        max_credits=max_credits,
        keep_credits=keep_credits,
        max_wait=max_wait,
        poll_seconds=poll_seconds,
        max_paid_attempts=max_paid_attempts,
        upload_options=upload_options,
        concurrency_limit=concurrency_limit,
        preview=preview,
        local=source.local_files(media_folder),
    )
    story = Story(board, batch)
    return await (story.dry_run() if dry_run else story.make())
