"""The flows that users import: compositions of the tasks."""

# No `from __future__ import annotations` here: Prefect hands a served flow to its process by value, and annotations
# that are strings lose the names that they stand for.

import getpass
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova.accounts import CreditsReport, credits_report
from prefect_loova.artifacts import publish_credits, publish_jobs_in_doubt
from prefect_loova.asking import ask_what_to_do
from prefect_loova.batch import BatchReport
from prefect_loova.batches import Batch, OnFailure, OverBudget
from prefect_loova.collecting import CollectedVideos, collect
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.doubt import decide, jobs_in_doubt
from prefect_loova.errors import InDoubtError, InvalidRequestError, StorageError
from prefect_loova.events import tell_credits_low
from prefect_loova.jobs import MAX_WAIT
from prefect_loova.manifest import MAX_ROWS, read_manifest
from prefect_loova.manifests import Manifest
from prefect_loova.models import JobInDoubt, SavedVideo, Submission, VideoRequest
from prefect_loova.polling import Deadline
from prefect_loova.quota import LIMIT, is_shared, places, slot
from prefect_loova.saving import MAX_BYTES
from prefect_loova.states import PURCHASED, Decision
from prefect_loova.tasks import DEFAULT_PREFIX, open_jobs, save_video, submit_video, wait_for_video


def _run_name() -> str:
    request = flow_run.parameters.get("request")
    try:
        return VideoRequest.model_validate(request).name
    except ValueError:
        return "generate-video"


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
    """
    deadline = Deadline(max_wait)
    where: dict[str, Any] = {"credentials": credentials, "bucket": bucket}
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
        submission, **where, upload_options=upload_options, max_bytes=max_bytes, max_wait=deadline.left
    )
    return saved


async def _is_bought(request: VideoRequest, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> bool:
    """Whether there is nothing to submit: waiting for what runs already needs no slot."""
    async with open_jobs(credentials, bucket, prefix) as jobs:
        stored = await jobs.records.read(request.key)
    return stored is not None and stored.record.state in PURCHASED


@flow(name="generate-videos")
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
    )
    return await batch.make(requests)


@flow(name="generate-from-manifest")
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
    )
    if dry_run:
        return await batch.dry_run(requests)
    return await batch.make(requests, source.write_report)


@flow(name="collect-videos")
async def collect_videos(
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    key: str = "",
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    concurrency_limit: str = LIMIT,
) -> CollectedVideos:
    """Finish what other runs left: save the videos that are made, submit what is queued, report what is in doubt.

    Made for a schedule of every minute or so: it looks at each open job once, and ends. Several at once are harmless.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        key: Only this job, by its key, the beginning of its key, or its Loova task; nothing is submitted then.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        concurrency_limit: The Prefect global concurrency limit whose value says how many may run at Loova at once.

    Raises:
        InvalidRequestError: No open job has this key or task.
        StorageError: The index of open jobs may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    logger = get_run_logger()
    async with open_jobs(credentials, bucket, prefix) as jobs:
        found = await collect(
            jobs,
            places=await places(concurrency_limit),
            key=key,
            upload_options=upload_options,
            max_bytes=max_bytes,
        )
    logger.info(found.summary)
    for failed, reason in found.failed:
        logger.warning("job %s: %s", failed, reason)
    if found.in_doubt:
        await publish_jobs_in_doubt(found.in_doubt)
    return found


@flow(name="report-credits")
async def report_credits(
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    days: Annotated[int, Field(ge=1, le=366)] = 30,
    low_below: Annotated[float, Field(ge=0)] = 1000.0,
) -> CreditsReport:
    """Show the account's credits, and what was spent by day, model and deployment, from the job records.

    Sends the event `loova.credits.low` when the balance is below a threshold.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        days: How many days to look back, today included (UTC).
        low_below: The credits below which the balance is low.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        StorageError: The days may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    async with open_jobs(credentials, bucket, prefix) as jobs:
        report = await credits_report(jobs, days=days, low_below=low_below)
    if report.is_low:
        get_run_logger().warning("%s", report.summary)
        tell_credits_low(report)
    else:
        get_run_logger().info("%s", report.summary)
    await publish_credits(report)
    return report


@flow(name="resolve-job")
async def resolve_job(
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    key: str = "",
    decision: Literal["list", "adopt", "submit-again", "give-up"] = "list",
    task_id: str = "",
    attempt: int | None = None,
    who: str = "",
    why: str = "",
) -> list[JobInDoubt]:
    """List the jobs in doubt, after carrying out what a person decided about one of them.

    After a decision, ask for the same request again to go on with it.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        key: The job's key, or its beginning.
        decision: `list`: none. `adopt`: its task is in the Loova dashboard. `submit-again`: it is not, and a second
            payment is risked. `give-up`: no video is wanted any more.
        task_id: Only to adopt: the Loova task.
        attempt: The attempt decided about; the one in doubt, if not given.
        who: Who decides; the user of the process, if not given. It stays in the record.
        why: What the person saw. It stays in the record.

    Raises:
        InvalidRequestError: A key without a decision, a decision without a key, or as `doubt.decide` says.
        TaskNotFoundError: Loova does not know the task to adopt. The job is as it was.
        MoveRefusedError: The job, or this attempt of it, is not in doubt.
    """
    if bool(key) != (decision != "list"):
        raise InvalidRequestError("key, decision: give both to decide about a job, or none to list the jobs in doubt")
    async with open_jobs(credentials, bucket, prefix) as jobs:
        if decision != "list":
            made = Decision(what=decision, who=who or getpass.getuser(), when=datetime.now(UTC), why=why)
            record = await decide(jobs, key, made, task_id or None, attempt=attempt)
            get_run_logger().info("%s: %s by %s, now %s", jobs.name(record), decision, made.who, record.state)
        try:
            waiting = await jobs_in_doubt(jobs)
        except StorageError as error:
            if decision == "list":
                raise
            get_run_logger().warning("it is decided, but what is left cannot be listed: %s", error)
            return []
    await publish_jobs_in_doubt(waiting)
    return waiting
