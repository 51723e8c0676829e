"""The flows of many videos: from a list of requests, and from a list in a file."""

# No `from __future__ import annotations`: see `flows/video.py`.

from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.context import DEFAULT_PREFIX, location_of
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.run import local_files
from prefect_loova.batches.manifest import MAX_ROWS, read_manifest
from prefect_loova.batches.templates import PromptTemplate
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import counted
from prefect_loova.flows.batch_run import REVIEW_SECONDS, Batch, OnFailure, OverBudget, ReviewMode, file_run_name
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.model_rules import ModelName
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest
from prefect_loova.videos import LoovaVideos


def _batch_name() -> str:
    return counted(len(flow_run.parameters.get("requests") or ()), "video")


def _manifest_name() -> str:
    return file_run_name("manifest", "generate-from-manifest")


@sync_or_async
@flow(name="generate-videos", flow_run_name=_batch_name)
async def generate_videos(
    requests: list[VideoRequest],
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    over_budget: OverBudget = "refuse",
    on_failure: OnFailure = "raise",
    wait: bool = True,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    concurrency_limit: str | None = None,
    preview: Preview | None = None,
    review: ReviewMode = "none",
    review_seconds: Annotated[float, Field(gt=0)] = REVIEW_SECONDS,
    draft: ModelName | None = None,
    draft_duration: Annotated[int, Field(ge=1)] | None = None,
    quality_gates: list[Any] | None = None,
    videos: LoovaVideos | None = None,
) -> BatchReport:
    """Make many videos on Loova, pay for each once, and save them to the bucket.

    The whole batch is priced and admitted before the first submit. Duplicate requests are one video, and a video that
    is already saved costs nothing. One bad video does not stop the others.

    Args:
        requests: The videos to make.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        max_credits: The credits that this run may spend, a hard limit. None for no limit.
        keep_credits: The credits to keep in the account.
        over_budget: What to do if the batch may cost more than that. `refuse`: start nothing. `stop`: make the videos
            that certainly fit, in the given order.
        on_failure: What to do if videos are missing at the end. `raise`: the run fails. `report`: the run succeeds, and
            the report says what is missing.
        wait: Whether to wait for the videos and save them. If not, the run queues them, submits as many as there are
            free slots, and ends. The scheduled flow `collect_videos` does the rest.
        max_wait: Seconds to wait for each video.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How many times each request may be bought in total, if Loova fails to make the video.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        concurrency_limit: The Prefect global concurrency limit. Its value is how many videos all runs together make at
            the same time. It is created with 6 if it does not exist.
        preview: What the page of each video shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.
            With `none`, the page of the batch has no pictures either.
        review: `suspend`: when the takes are in the bucket, the run is suspended until a person chooses in a form in
            the Prefect UI, and then goes on. A run that Prefect cannot suspend ends there: decide with
            `prefect-loova review`, and run it again. A re-run honours the decisions.
        review_seconds: How long the person may take, in seconds. After that Prefect fails the run, and all takes stay.
        draft: A cheaper model. The takes are made with it, and after the review the chosen ones with the request's own.
        draft_duration: A shorter duration of the drafts, in seconds.
        quality_gates: What judges each saved video, before a person does: names of shipped gates (`black`, `frozen`,
            `silent`, `duration`, `ratio`), deployments of your own (`flow-name/deployment-name`), or functions. A
            re-take that a gate asks for is bought within `max_paid_attempts` and the budget.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`. Its model and ratio apply if
            a request names none.

    Returns:
        The outcome of each request.

    Raises:
        BudgetError: The batch as a whole was refused; nothing was bought.
        BatchError: Videos are missing, and `on_failure` is `raise`. Its `report` says which.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, generate_videos

        async def main() -> str:
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            requests = [VideoRequest(prompt=prompt, duration=4) for prompt in ("a boat", "a kite")]
            report = await generate_videos(requests, credentials, bucket, max_credits=200)
            return report.summary
        ```
    """
    batch = Batch.from_parameters(locals(), local_files())
    return await batch.make(requests)


@sync_or_async
@flow(name="generate-from-manifest", flow_run_name=_manifest_name)
async def generate_from_manifest(
    manifest: str,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    dry_run: bool = False,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    over_budget: OverBudget = "refuse",
    on_failure: OnFailure = "raise",
    wait: bool = True,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    max_rows: Annotated[int, Field(ge=1)] = MAX_ROWS,
    prompt_template: str = "",
    columns: list[str] | None = None,
    upload_options: dict[str, Any] | None = None,
    concurrency_limit: str | None = None,
    preview: Preview | None = None,
    review: ReviewMode = "none",
    review_seconds: Annotated[float, Field(gt=0)] = REVIEW_SECONDS,
    draft: ModelName | None = None,
    draft_duration: Annotated[int, Field(ge=1)] | None = None,
    quality_gates: list[Any] | None = None,
    media_folder: str | None = None,
    videos: LoovaVideos | None = None,
) -> BatchReport:
    """Make the videos of a list in CSV, JSON lines or YAML, and pay only for those that are missing.

    The columns have the names of a request's fields: prompt, model, ratio, duration, and so on. All problems of the
    list are reported together, before anything is spent. The run writes a report beside the list
    (`prompts.report.csv`).

    Args:
        manifest: The list: a local path, or an `s3://` URI that the bucket's credentials may read. It ends with `.csv`,
            `.jsonl`, `.yaml` or `.json`.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        dry_run: Show the price table and spend nothing.
        max_credits: The credits that this run may spend, a hard limit. None for no limit.
        keep_credits: The credits to keep in the account.
        over_budget: What to do if the batch may cost more than that. `refuse`: start nothing. `stop`: make the videos
            that certainly fit, in the given order.
        on_failure: What to do if videos are missing at the end. `raise`: the run fails. `report`: the run succeeds, and
            the report says what is missing.
        wait: Whether to wait for the videos and save them. If not, `collect_videos` does the rest.
        max_wait: Seconds to wait for each video.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How many times each request may be bought in total, if Loova fails to make the video.
        max_rows: The most rows to accept.
        prompt_template: A prompt with columns in braces, `{product} at {place}`. It makes the prompt of each row from
            the row's other columns. A list in YAML may have its own.
        columns: The names of the columns in `prompt_template`, to check it; by default those that it names.
        upload_options: boto3's `ExtraArgs` of an upload.
        concurrency_limit: The Prefect global concurrency limit. Its value is how many videos are made at the same time.
        preview: What the page of each video shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.
            With `none`, the page of the batch has no pictures either.
        review: `suspend`: when the takes are in the bucket, the run is suspended until a person chooses in a form in
            the Prefect UI, and then goes on. A run that Prefect cannot suspend ends there: decide with
            `prefect-loova review`, and run it again. A re-run honours the decisions.
        review_seconds: How long the person may take, in seconds. After that Prefect fails the run, and all takes stay.
        draft: A cheaper model. The takes are made with it, and after the review the chosen ones with the request's own.
        draft_duration: A shorter duration of the drafts, in seconds.
        quality_gates: What judges each saved video, before a person does: names of shipped gates (`black`, `frozen`,
            `silent`, `duration`, `ratio`), deployments of your own (`flow-name/deployment-name`), or functions. A
            re-take that a gate asks for is bought within `max_paid_attempts` and the budget.
        media_folder: The folder of the local files that the list names. A list in S3 may name local files only if you
            set it, and relative paths start there. In a local list they start at the list's own folder.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`. Its model and ratio apply if
            a request names none.

    Returns:
        The outcome of each request.

    Raises:
        InvalidRequestError: The list has problems; the error lists all of them, by line and column.
        BudgetError: The batch as a whole was refused; nothing was bought.
        BatchError: Videos are missing, and `on_failure` is `raise`. Its `report` says which.

    Example:
        ```python
        from pathlib import Path
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, generate_from_manifest

        async def main() -> str:
            Path("prompts.csv").write_text("prompt,duration\\na boat,4\\na kite,4\\n")
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            report = await generate_from_manifest("prompts.csv", credentials, bucket, dry_run=True)
            return report.left_to_buy
        ```
    """
    source = Manifest(manifest, location_of(videos, credentials, bucket, prefix).bucket)
    template = PromptTemplate.of(prompt_template, columns)
    requests = read_manifest(await source.read(), manifest, max_rows=max_rows, template=template)
    batch = Batch.from_parameters(locals(), source.local_files(media_folder))
    if dry_run:
        return await batch.dry_run(requests)
    return await batch.make(requests, source.write_report)
