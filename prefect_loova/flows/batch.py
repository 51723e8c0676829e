"""The flows of many videos: of a list that a flow has, and of one in a file."""

# No `from __future__ import annotations` here, as in flows.py.

from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.concurrency import LIMIT
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.run import local_files
from prefect_loova.batches.manifest import MAX_ROWS, read_manifest
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import redact
from prefect_loova.flows.batch_run import Batch, OnFailure, OverBudget
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest


def _batch_name() -> str:
    return f"{len(flow_run.parameters.get('requests') or ())} videos"


def _manifest_name() -> str:
    name = str(flow_run.parameters.get("manifest")).rpartition("/")[2]
    return redact(f"{name}{' (dry run)' if flow_run.parameters.get('dry_run') else ''}", 80) or "generate-from-manifest"


@flow(name="generate-videos", flow_run_name=_batch_name)
async def generate_videos(
    requests: list[VideoRequest],
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    over_budget: OverBudget = "refuse",
    on_failure: OnFailure = "raise",
    wait: bool = True,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    concurrency_limit: str = LIMIT,
    preview: Preview = "still",
) -> BatchReport:
    """Make many videos on Loova, each paid once, and save them in the bucket.

    The batch is priced and admitted as a whole before the first submit. Duplicates are one video; what is saved
    already costs nothing. One bad video does not stop the others.

    Args:
        requests: The videos to be made.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        max_credits: The credits that this run may spend: a hard stop. None for no bound.
        keep_credits: The credits that must be left in the account.
        over_budget: What to do when the batch may cost more than that. `refuse`: nothing is started. `stop`: as many
            videos are made as are certain to fit, in the order given.
        on_failure: Whether the run fails at its end when videos are missing. `raise`: yes. `report`: no, the report
            tells.
        wait: Whether to wait for the videos and save them. If not, they are queued, as many are submitted as there are
            places, and the run ends; the scheduled flow `collect_videos` does the rest.
        max_wait: Seconds to wait for each video.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How often each request may be bought in all, when Loova fails to make it.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        concurrency_limit: The Prefect global concurrency limit that says how many are made at once, in all runs
            together; made with 6 if it is missing.
        preview: What the page of each video shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.

    Raises:
        BudgetError: The batch as a whole was refused; nothing was bought.
        BatchError: Videos are missing at the end, and `on_failure` is `raise`. Its `report` tells which.
    """
    batch = Batch(
        location=Location(credentials, bucket, prefix),
        max_credits=max_credits,
        keep_credits=keep_credits,
        over_budget=over_budget,
        on_failure=on_failure,
        wait=wait,
        max_wait=max_wait,
        poll_seconds=poll_seconds,
        max_paid_attempts=max_paid_attempts,
        upload_options=upload_options,
        max_bytes=max_bytes,
        concurrency_limit=concurrency_limit,
        preview=preview,
        local=local_files(),
    )
    return await batch.make(requests)


@flow(name="generate-from-manifest", flow_run_name=_manifest_name)
async def generate_from_manifest(
    manifest: str,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    dry_run: bool = False,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    over_budget: OverBudget = "refuse",
    on_failure: OnFailure = "raise",
    wait: bool = True,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    max_rows: Annotated[int, Field(ge=1)] = MAX_ROWS,
    upload_options: dict[str, Any] | None = None,
    concurrency_limit: str = LIMIT,
    preview: Preview = "still",
    media_folder: str | None = None,
) -> BatchReport:
    """Make the videos of a list, CSV or JSON lines; only those that are not there yet are paid.

    The columns are named like a request's fields: prompt, model, ratio, duration, and so on. Everything that is wrong
    with the list is told at once, before anything is spent. A report is written beside it (`prompts.report.csv`).

    Args:
        manifest: The list: a local path, or an `s3://` URI that the bucket's credentials may read. Ends with `.csv` or
            `.jsonl`.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        dry_run: Show the price table and spend nothing.
        max_credits: The credits that this run may spend: a hard stop. None for no bound.
        keep_credits: The credits that must be left in the account.
        over_budget: What to do when the batch may cost more than that. `refuse`: nothing is started. `stop`: as many
            videos are made as are certain to fit, in the order given.
        on_failure: Whether the run fails at its end when videos are missing. `raise`: yes. `report`: no, the report
            tells.
        wait: Whether to wait for the videos and save them; else `collect_videos` does the rest.
        max_wait: Seconds to wait for each video.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How often each request may be bought in all, when Loova fails to make it.
        max_rows: The most rows to take.
        upload_options: boto3's `ExtraArgs` of an upload.
        concurrency_limit: The Prefect global concurrency limit that says how many are made at once.
        preview: What the page of each video shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.
        media_folder: The folder in which the local files must lie that the list names. A list from S3 may name none
            unless this is given, and its relative paths begin here; those of a local list begin beside it.

    Raises:
        InvalidRequestError: Everything that is wrong with the list, by line and column.
        BudgetError: The batch as a whole was refused; nothing was bought.
        BatchError: Videos are missing at the end, and `on_failure` is `raise`. Its `report` tells which.
    """
    source = Manifest(manifest, bucket)
    requests = read_manifest(await source.read(), manifest, max_rows=max_rows)
    batch = Batch(
        location=Location(credentials, bucket, prefix),
        max_credits=max_credits,
        keep_credits=keep_credits,
        over_budget=over_budget,
        on_failure=on_failure,
        wait=wait,
        max_wait=max_wait,
        poll_seconds=poll_seconds,
        max_paid_attempts=max_paid_attempts,
        upload_options=upload_options,
        concurrency_limit=concurrency_limit,
        preview=preview,
        local=source.local_files(media_folder),
    )
    if dry_run:
        return await batch.dry_run(requests)
    return await batch.make(requests, source.write_report)
