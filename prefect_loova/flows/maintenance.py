"""The flows that look after jobs: finish what other runs left, report the credits, resolve what is in doubt."""

# No `from __future__ import annotations` here, as in flows.py.

import getpass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.artifacts import publish_credits, publish_jobs_in_doubt
from prefect_loova._prefect.concurrency import LIMIT, slot_count
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._prefect.events import emit_credits_low
from prefect_loova._prefect.previews import Preview
from prefect_loova.batches.credits import credits_report
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.decide import decide
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.job_record import Decision
from prefect_loova.models.reports import CollectedVideos, CreditsReport
from prefect_loova.models.results import JobInDoubt
from prefect_loova.tasks import show_video


@flow(name="collect-videos")
async def collect_videos(
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    key: str = "",
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    concurrency_limit: str = LIMIT,
    preview: Preview = "still",
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
        preview: What the page of each saved video shows: `moving`, `still`, or `none`.

    Raises:
        InvalidRequestError: No open job has this key or task.
        StorageError: The index of open jobs may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    logger = get_run_logger()
    async with Location(credentials, bucket, prefix).open() as jobs:
        found = await collect(
            jobs,
            slots=await slot_count(concurrency_limit),
            key=key,
            upload_options=upload_options,
            max_bytes=max_bytes,
        )
    logger.info(found.summary)
    for failed, reason in found.failed:
        logger.warning("job %s: %s", failed, reason)
    if found.in_doubt or found.problems:
        await publish_jobs_in_doubt(found.in_doubt, found.problems)
    for saved in found.saved:
        try:
            await show_video(
                saved,
                credentials=credentials,
                bucket=bucket,
                prefix=prefix,
                preview=preview,
                upload_options=upload_options,
            )
        except Exception as error:  # it is saved: no reason to fail, nor to leave the others without their pages
            logger.warning("Loova task %s: the video is saved, but is not shown (%s)", saved.task_id, redact(error))
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
    async with Location(credentials, bucket, prefix).open() as jobs:
        report = await credits_report(jobs, days=days, low_below=low_below)
    if report.is_low:
        get_run_logger().warning("%s", report.summary)
        emit_credits_low(report)
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
    decision: Literal["list", "adopt", "submit-again", "give-up", "take-back"] = "list",
    task_id: str = "",
    attempt: int | None = None,
    who: str = "",
    why: str = "",
    force: bool = False,
) -> list[JobInDoubt]:
    """List the jobs in doubt, after carrying out what a person decided about one of them.

    After a decision, ask for the same request again to go on with it.

    Args:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: Where in the bucket, below the block's own folder.
        key: The job's key, or its beginning.
        decision: `list`: none. `adopt`: its task is in the Loova dashboard. `submit-again`: it is not, and a second
            payment is risked. `give-up`: no video is wanted any more. `take-back`: the task that was adopted is not
            this job's; the job is in doubt again.
        task_id: Only to adopt: the Loova task.
        attempt: The attempt decided about; the one in doubt (or with an adopted task), if not given.
        who: Who decides; the user of the process, if not given. It stays in the record.
        why: What the person saw. It stays in the record.
        force: Only to adopt: take the task although what Loova says of it contradicts what was sent. `why` must say
            the reason.

    Raises:
        InvalidRequestError: A key without a decision, a decision without a key, or as `doubt.decide` says.
        TaskNotFoundError: Loova does not know the task to adopt. The job is as it was.
        InvalidTransitionError: The job, or this attempt of it, is not in doubt.
    """
    if bool(key) != (decision != "list"):
        raise InvalidRequestError("key, decision: give both to decide about a job, or none to list the jobs in doubt")
    async with Location(credentials, bucket, prefix).open() as jobs:
        if decision != "list":
            made = Decision(what=decision, who=who or getpass.getuser(), when=datetime.now(UTC), why=why)
            record = await decide(jobs, key, made, task_id or None, attempt=attempt, force=force)
            get_run_logger().info("%s: %s by %s, now %s", jobs.name(record), decision, made.who, record.state)
        try:
            waiting = await find_doubts(jobs)
        except StorageError as error:
            if decision == "list":
                raise
            get_run_logger().warning("it is decided, but what is left cannot be listed: %s", error)
            return []
    await publish_jobs_in_doubt(waiting.in_doubt, waiting.problems)
    return waiting.in_doubt
