"""The flows that maintain jobs: finish the jobs of other runs, report the credits, and resolve jobs in doubt."""

# No `from __future__ import annotations`: see `flows/video.py`.

import getpass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow, tags
from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.artifacts import publish_credits, publish_jobs_in_doubt
from prefect_loova._prefect.concurrency import slot_count
from prefect_loova._prefect.context import DEFAULT_PREFIX, location_of
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.events import emit_credits_low
from prefect_loova._prefect.lineage import label_tags
from prefect_loova._prefect.previews import Preview, chosen_preview
from prefect_loova._prefect.run_logs import RESULT
from prefect_loova._prefect.suspended_runs import resume_suspended_runs
from prefect_loova.batches.credits import credits_report
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.attempts import Decision
from prefect_loova.models.reports import CollectedVideos, CreditsReport
from prefect_loova.models.results import JobInDoubt, SavedVideo
from prefect_loova.settings import LoovaSettings
from prefect_loova.tasks import show_video
from prefect_loova.videos import LoovaVideos


@sync_or_async
@flow(name="collect-videos")
async def collect_videos(
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    key: str = "",
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    concurrency_limit: str | None = None,
    preview: Preview | None = None,
    videos: LoovaVideos | None = None,
    keep_for: Annotated[float, Field(ge=0, le=24 * 3600)] = 0.0,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None,
) -> CollectedVideos:
    """Finish the jobs of other runs: save videos that are made, submit queued requests, and report jobs in doubt.

    Schedule it every minute or so. It checks each open job, goes on for `keep_for` seconds while there is work, resumes
    the runs that `wait="suspend"` suspended and whose jobs have ended, and ends. Several runs at once are safe.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        key: Collect only this job: its key, the beginning of its key, or its Loova task. Then nothing is submitted.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        concurrency_limit: The Prefect global concurrency limit. Its value is how many tasks may run at Loova.
        preview: What the page of each saved video shows: `moving`, `still`, or `none`.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.
        keep_for: Seconds to go on while tasks run or requests are queued, so that no slot stays free until the next
            run. 0: check each open job once.
        poll_seconds: The longest first pause between polls while the run goes on, in seconds. By default the setting.

    Returns:
        The videos and jobs that this run found.

    Raises:
        InvalidRequestError: No open job has this key or task.
        StorageError: The credentials may not list the bucket (`s3:ListBucket`), or S3 cannot be reached.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, collect_videos

        async def main() -> str:
            collected = await collect_videos(await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova"))
            return collected.summary
        ```
    """
    logger = get_run_logger()
    location = location_of(videos, credentials, bucket, prefix)
    settings = LoovaSettings.load()
    limit = settings.concurrency_limit if concurrency_limit is None else concurrency_limit
    shown = chosen_preview(preview, videos, "still")

    async def show(saved: SavedVideo) -> None:
        try:
            with tags(*label_tags(saved.label)):
                await show_video(
                    saved,
                    credentials=location.credentials,
                    bucket=location.bucket,
                    prefix=location.prefix,
                    preview=shown,
                    upload_options=upload_options,
                )
        except Exception as error:  # the video is saved, and the others need their pages
            logger.warning("Loova task %s: the video is saved, but is not shown (%s)", saved.task_id, redact(error))

    async with location.open() as jobs:
        collected = await collect(
            jobs,
            slots=await slot_count(limit),
            key=key,
            upload_options=upload_options,
            max_bytes=max_bytes,
            keep_for=keep_for,
            poll_seconds=settings.poll_seconds if poll_seconds is None else poll_seconds,
            on_saved=show,
        )
        resumed = 0 if key else await resume_suspended_runs(jobs)
    logger.info(collected.summary, extra=RESULT)
    if resumed:
        logger.info("%d suspended flow runs are resumed", resumed)
    for failed, reason in (*collected.failed, *collected.content_refused):
        logger.warning("job %s: %s", failed, reason)
    if collected.in_doubt or collected.problems:
        await publish_jobs_in_doubt(collected.in_doubt, collected.problems)
    return collected


@sync_or_async
@flow(name="report-credits")
async def report_credits(
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    days: Annotated[int, Field(ge=1, le=366)] = 30,
    low_below: Annotated[float, Field(ge=0)] = 1000.0,
    price_per_credit: Annotated[float, Field(gt=0)] | None = None,
    videos: LoovaVideos | None = None,
) -> CreditsReport:
    """Show the account's credits, and the spending by day, model, deployment and label, from the job records.

    The flow sends the event `loova.credits.low` if the balance is below a threshold.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        days: How many days to include, up to today (UTC).
        low_below: The credits below which the balance is low.
        price_per_credit: What you pay for a credit, in your currency. The report then has the amounts too.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.

    Returns:
        The balance, and the spending.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        StorageError: The credentials may not list the bucket (`s3:ListBucket`), or S3 cannot be reached.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, report_credits

        async def main() -> float:
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            report = await report_credits(credentials, bucket, days=7, low_below=500)
            return report.available
        ```
    """
    async with location_of(videos, credentials, bucket, prefix).open() as jobs:
        report = await credits_report(jobs, days=days, low_below=low_below, price_per_credit=price_per_credit)
    if report.is_low:
        get_run_logger().warning("%s", report.summary, extra=RESULT)
        emit_credits_low(report)
    else:
        get_run_logger().info("%s", report.summary, extra=RESULT)
    await publish_credits(report)
    return report


@sync_or_async
@flow(name="resolve-job")
async def resolve_job(
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    key: str = "",
    decision: Literal["list", "adopt", "submit-again", "give-up", "take-back"] = "list",
    task_id: str = "",
    attempt: int | None = None,
    who: str = "",
    why: str = "",
    force: bool = False,
    videos: LoovaVideos | None = None,
) -> list[JobInDoubt]:
    """List the jobs in doubt, or record a person's decision about one of them.

    After a decision, run the same request again to continue with it.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        key: The job's key, or its beginning.
        decision: `list`: decide nothing. `adopt`: you know the id of the Loova task. `submit-again`: you found no sign
            that the submit was billed, and accept the risk of a second payment. `give-up`: you do not want the video
            any more. `take-back`: the adopted task belongs to another job, so the job is in doubt again.
        task_id: The Loova task to adopt.
        attempt: The attempt to decide about. By default the one in doubt, or the one with an adopted task.
        who: Who decides. By default the user of the process. The record stores it.
        why: What the person saw. The record stores it.
        force: Adopt the task although it contradicts the request. `why` must give the reason.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.

    Returns:
        The jobs in doubt.

    Raises:
        InvalidRequestError: Only one of `key` and `decision` is given, or the decision cannot be applied.
        TaskNotFoundError: Loova does not know the task to adopt. The job is unchanged.
        InvalidTransitionError: The job, or this attempt of it, is not in doubt.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, resolve_job

        async def main() -> int:
            jobs = await resolve_job(await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova"))
            for job in jobs:
                print(job.evidence, *job.next_steps, sep="\\n")
            return len(jobs)
        ```
    """
    if bool(key) != (decision != "list"):
        raise InvalidRequestError("key, decision: give both to decide about a job, or neither to list jobs in doubt")
    async with location_of(videos, credentials, bucket, prefix).open() as jobs:
        if decision != "list":
            made = Decision(what=decision, who=who or getpass.getuser(), when=datetime.now(UTC), why=why)
            record = await decide(jobs, key, made, task_id or None, attempt=attempt, force=force)
            get_run_logger().info("%s: %s by %s, now %s", jobs.name(record), decision, made.who, record.state)
        try:
            waiting = await find_doubts(jobs)
        except StorageError as error:
            if decision == "list":
                raise
            get_run_logger().warning(
                "the decision is recorded, but the other jobs in doubt cannot be listed: %s", error
            )
            return []
    await publish_jobs_in_doubt(waiting.in_doubt, waiting.problems)
    return waiting.in_doubt
