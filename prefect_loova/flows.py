"""The flows that users import: compositions of the tasks."""

# No `from __future__ import annotations` here: Prefect hands a served flow to its process by value, and annotations
# that are strings lose the names that they stand for. And no `result_serializer`: with it Prefect keeps results,
# and the retry of a parent takes those of its subflows by the order of their calls, whatever was asked for.

from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova.asking import ask_what_to_do
from prefect_loova.batch import BatchReport
from prefect_loova.batches import Batch, OnFailure, OverBudget
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InDoubtError, shown
from prefect_loova.jobs import MAX_WAIT
from prefect_loova.lineage import tag_this_run, tagged
from prefect_loova.manifest import MAX_ROWS, read_manifest
from prefect_loova.manifests import Manifest
from prefect_loova.models import SavedVideo, Submission, VideoRequest
from prefect_loova.opening import DEFAULT_PREFIX, local_files, open_jobs
from prefect_loova.polling import Deadline
from prefect_loova.quota import LIMIT, is_shared, slot
from prefect_loova.saving import MAX_BYTES
from prefect_loova.showing import Preview
from prefect_loova.states import PURCHASED
from prefect_loova.storyboard import StoryReport, read_storyboard
from prefect_loova.storyboards import Story
from prefect_loova.tasks import prepare_media, save_video, submit_video, wait_for_video


def _run_name() -> str:
    request = flow_run.parameters.get("request")
    try:
        return VideoRequest.model_validate(request).name
    except ValueError:
        return "generate-video"


def _batch_name() -> str:
    return f"{len(flow_run.parameters.get('requests') or ())} videos"


def _manifest_name() -> str:
    name = str(flow_run.parameters.get("manifest")).rpartition("/")[2]
    return shown(f"{name}{' (dry run)' if flow_run.parameters.get('dry_run') else ''}", 80) or "generate-from-manifest"


def _storyboard_name() -> str:
    name = str(flow_run.parameters.get("storyboard")).rpartition("/")[2]
    return shown(f"{name}{' (dry run)' if flow_run.parameters.get('dry_run') else ''}", 80) or "generate-storyboard"


@flow(name="generate-video", flow_run_name=_run_name)
async def generate_video(
    request: VideoRequest,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    on_in_doubt: Literal["raise", "suspend"] = "raise",
    concurrency_limit: str = LIMIT,
    wait: bool = True,
    preview: Preview = "moving",
    player_link_seconds: Annotated[int, Field(ge=0, le=604_800)] = 0,
) -> SavedVideo | Submission:
    """Make one video on Loova, paid once, and save it in the bucket.

    Running it again with the same request never pays again: it finds the video, or goes on where an earlier run ended.

    Args:
        request: The video to be made.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        max_wait: Seconds to wait in all.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How often this request may be bought in all, when Loova fails to make it.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        on_in_doubt: What to do when the answer to the submit is lost. `raise`: the run fails, and the error says what
            to do. `suspend`: the run is suspended, asks for the decision with a form in the Prefect UI, and goes on;
            where Prefect cannot suspend (subflows, tasks, runs without a deployment), it fails and the log says why.
        concurrency_limit: The Prefect global concurrency limit that spaces submits out between runs; made with 6 if it
            is missing, not used if the name is empty or no Prefect server is served.
        wait: Whether to wait for the video and save it. If not, the run ends after the submit with its `Submission`,
            and the scheduled flow `collect_videos` saves the video.
        preview: What the video's page in the Prefect UI shows. `moving`: an animated picture of at most 256 KiB.
            `still`: a small picture. `none`: no pictures are made.
        player_link_seconds: For how long the page has a link that plays the video, in seconds; whoever sees the page
            can use it. 0 for no such link.
    """
    deadline = Deadline(max_wait)
    where: dict[str, Any] = {"credentials": credentials, "bucket": bucket}
    with tagged([request.model]) as made:
        await tag_this_run(made)
        if not request.is_prepared:
            request = await prepare_media(request, **where, prefix=prefix)
        async with AsyncExitStack() as held:
            if wait and is_shared(concurrency_limit) and not await _is_bought(request, credentials, bucket, prefix):
                await held.enter_async_context(slot(concurrency_limit, max_wait=max_wait))
            while True:
                try:
                    submission: Submission = await submit_video(
                        request, **where, prefix=prefix, max_wait=deadline.left, max_paid_attempts=max_paid_attempts
                    )
                    break
                except InDoubtError as doubt:
                    if on_in_doubt == "raise":
                        raise
                    await ask_what_to_do(doubt, credentials, bucket, prefix)
            if not wait:
                return submission
            if submission.state == "submitted":
                await wait_for_video(submission, **where, max_wait=deadline.left, poll_seconds=poll_seconds)
        saved: SavedVideo = await save_video(
            submission,
            **where,
            upload_options=upload_options,
            max_bytes=max_bytes,
            max_wait=deadline.left,
            preview=preview,
            player_link_seconds=player_link_seconds,
        )
        return saved


async def _is_bought(request: VideoRequest, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> bool:
    """Whether there is nothing to submit: waiting for what runs already needs no slot."""
    async with open_jobs(credentials, bucket, prefix) as jobs:
        stored = await jobs.records.read(request.key)
    return stored is not None and stored.record.state in PURCHASED


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
        credentials=credentials,
        bucket=bucket,
        prefix=prefix,
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
        credentials=credentials,
        bucket=bucket,
        prefix=prefix,
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
