"""The Prefect tasks: submit, wait, save, and look at the credits. A thin edge over the core."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.tasks import Task, exponential_backoff
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect import previews as showing
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.progress import VideoProgress
from prefect_loova._prefect.run import local_files
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import TaskFailedError, may_retry, redact
from prefect_loova.jobs import save as saving
from prefect_loova.jobs import submit as submitting
from prefect_loova.jobs import wait as waiting
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import CreditBalance, SavedVideo, Submission, VideoTask


def retry_what_may_be_retried(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect may run a task again: never after an answer that a person has to read, or that is final."""
    return may_retry(state.data)


class _ToTheRun(logging.Handler):
    """Tells what the core logs in the run that it works for, where people look for it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_run_logger().log(record.levelno, record.getMessage())
        except MissingContextError:
            logging.getLogger().handle(record)


_core_log = logging.getLogger("prefect_loova")
_core_log.addHandler(_ToTheRun())
_core_log.propagate = False
if _core_log.level == logging.NOTSET:
    _core_log.setLevel(logging.INFO)


def _within_this_run(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """A cache key of everything that decides a result of `wait_for_video` and `save_video`, within one flow run."""
    submission, bucket = parameters["submission"], parameters["bucket"]
    run = context.task_run.flow_run_id or context.task_run.id
    parts = [
        str(run),
        submission.key,
        str(submission.attempt),
        submission.task_id,
        submission.api_origin,
        submission.record,
        bucket.credentials.get_s3_client().meta.endpoint_url,
    ]
    digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
    return f"{context.task.task_key}-{digest}"  # it names the file of the result


def _run_name() -> str:
    parameters = task_run.parameters
    verb = task_run.task_name.partition("-")[0]
    request, submission = parameters.get("request"), parameters.get("submission")
    what = getattr(request or parameters.get("saved"), "name", None) or getattr(submission, "task_id", "")
    return f"{verb} {redact(what, 80)}".strip()


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": retry_what_may_be_retried,
}
"""How each task is tried again."""

_REPLAYED: dict[str, Any] = {"cache_key_fn": _within_this_run, "persist_result": True, "result_serializer": "json"}


@task(
    name="prepare-media",
    description="Find out what the reference media are, and put local files into the bucket.",
    tags={"loova"},
    task_run_name=_run_name,
    **RETRIES,
    cache_policy=NO_CACHE,
)
async def prepare_media(
    request: VideoRequest, *, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str = DEFAULT_PREFIX
) -> VideoRequest:
    """Find out what a request's media are, so that it has a key; local files and frames of videos go into the bucket.

    `submit_video` does it too, where it was not done. A request whose media are URLs is returned as it is.

    Args:
        request: The video to be made.
        credentials: The block with the API key.
        bucket: The block of the bucket that holds the job records and the videos.
        prefix: Where in the bucket, below the block's own folder.

    Raises:
        InvalidRequestError: All that is wrong with the media, by field.
        StorageError: The bucket cannot be read or written.
    """
    async with Location(credentials, bucket, prefix).open() as jobs:
        if not request.is_prepared:
            await jobs.records.check_conditional_writes()
        return await MediaPreparer(jobs, local_files()).prepare(request)


@task(
    name="submit-video",
    description="Buy one video on Loova, or find that it is bought already.",
    tags={"loova"},
    task_run_name=_run_name,
    **RETRIES,
    cache_policy=NO_CACHE,
)
async def submit_video(
    request: VideoRequest,
    *,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    max_wait: float = MAX_WAIT,
    max_paid_attempts: int = 1,
) -> Submission:
    """Buy one video on Loova, or find that it is bought already.

    The job record in the bucket is the memory, across runs and machines: asking again never pays again.

    Args:
        request: The video to be made.
        credentials: The block with the API key.
        bucket: The block of the bucket that holds the job records and the videos.
        prefix: Where in the bucket, below the block's own folder.
        max_wait: Seconds to wait for a free place at Loova, or for another worker with the same request.
        max_paid_attempts: How often this request may be bought in all, when Loova fails to make it.

    Returns:
        The handle that `wait_for_video` and `save_video` take.

    Raises:
        InvalidRequestError: Refused before anything was sent.
        StorageError: The bucket cannot carry a job record.
        RejectedError: Loova said no; nothing was bought.
        InDoubtError: It may have been bought; a person decides.
        TaskFailedError: It was bought before, and Loova could not make it.
    """
    logger = get_run_logger()
    async with Location(credentials, bucket, prefix).open() as jobs:
        await jobs.records.check_conditional_writes()
        request = await MediaPreparer(jobs, local_files()).prepare(request)
        submission = await submitting.submit_video(
            jobs, request, max_wait=max_wait, max_paid_attempts=max_paid_attempts
        )
    if submission.reused:
        logger.info("Loova task %s: bought by an earlier run, now %s", submission.task_id, submission.state)
    else:
        cost = submission.credits_cost if submission.credits_cost is not None else submission.credits_estimate
        logger.info(
            "Loova task %s: submitted for %g credits, recorded in %s", submission.task_id, cost, submission.record
        )
    return submission


@task(
    name="wait-for-video",
    description="Poll Loova, ever less often, until the video is made.",
    tags={"loova"},
    task_run_name=_run_name,
    **RETRIES,
    **_REPLAYED,
)
async def wait_for_video(
    submission: Submission,
    *,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    max_wait: float = MAX_WAIT,
    poll_seconds: float = 20.0,
    show_progress: bool = True,
) -> VideoTask:
    """Poll Loova, ever less often, until the video is made.

    Args:
        submission: What `submit_video` returned.
        credentials: The block with the API key.
        bucket: The block of the bucket with the job record.
        max_wait: Seconds to wait in all.
        poll_seconds: The longest first pause between polls, in seconds.
        show_progress: Whether to show a bar in the Prefect UI meanwhile.

    Returns:
        The task as Loova shows it at its end. Its video URL is left out of results; `save_video` asks for it itself.

    Raises:
        TaskFailedError: Loova ended the task without a video.
        WaitTimeoutError: It still runs; running again goes on waiting.
    """
    async with Location.of(submission, credentials, bucket).open() as jobs:
        progress = VideoProgress(submission)
        try:
            ended = await waiting.wait_for_video(
                jobs,
                submission,
                max_wait=max_wait,
                poll_seconds=poll_seconds,
                on_poll=progress.on_poll if show_progress else waiting.ignore_poll,
            )
        except TaskFailedError:
            await progress.ended("failed")
            raise
        await progress.ended("made")
    if submission.state == "submitted":
        get_run_logger().info("Loova task %s: the video is made", submission.task_id)
    return ended


@task(
    name="save-video",
    description="Stream the video of a finished Loova task into the bucket, checked on the way.",
    tags={"loova"},
    task_run_name=_run_name,
    **RETRIES,
    **_REPLAYED,
)
async def save_video(
    submission: Submission,
    *,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    upload_options: dict[str, Any] | None = None,
    max_bytes: int = saving.MAX_BYTES,
    max_wait: float = 3600.0,
    preview: Preview = "moving",
    player_link_seconds: int = 0,
) -> SavedVideo:
    """Stream the video of a finished Loova task into the bucket, checked on the way.

    The object appears whole or not at all. A video that is saved already is found, not loaded again.

    Args:
        submission: What `submit_video` returned.
        credentials: The block with the API key.
        bucket: The block of the bucket with the job record.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        max_wait: Seconds to wait for another worker that saves the same video.
        preview: What the video's page in the Prefect UI shows: an animated picture (`moving`, at most 256 KiB, held by
            Prefect's database), a small one (`still`), or `none`, which makes no pictures.
        player_link_seconds: For how long the page has a link that plays the video, in seconds; 0 for no such link.

    Raises:
        TransferError: The video could not be saved. The task id is kept, and saving may be tried again.
        WaitTimeoutError: The task still runs.
        TaskFailedError: Loova ended the task without a video.
    """
    logger = get_run_logger()
    async with Location.of(submission, credentials, bucket).open() as jobs:
        saved, is_new = await saving.save_video(
            jobs, submission, upload_options=upload_options, max_bytes=max_bytes, max_wait=max_wait
        )
        found = "was there already" if submission.state == "saved" else "is saved"
        logger.info("Loova task %s: %s %s, %d bytes", saved.task_id, saved.video, found, saved.size_bytes)
        if saved.differs:
            logger.warning("Loova task %s: the video differs from what was asked for: %s", saved.task_id, saved.differs)
        await showing.show_video(
            jobs,
            saved,
            made=submission.state != "saved",
            is_new=is_new,
            preview=preview,
            player_seconds=player_link_seconds,
            upload_options=upload_options,
        )
    return saved


@task(
    name="show-video",
    description="Show a video that a collector saved, and let it be an asset.",
    tags={"loova"},
    task_run_name=_run_name,
    cache_policy=NO_CACHE,
)
async def show_video(
    saved: SavedVideo,
    *,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str = DEFAULT_PREFIX,
    preview: Preview = "still",
    upload_options: dict[str, Any] | None = None,
) -> None:
    """Show a saved video in the Prefect UI, and let this task have materialized it as an asset.

    Args:
        saved: The video.
        credentials: The block with the API key.
        bucket: The block of the bucket that holds it.
        prefix: Where in the bucket, below the block's own folder.
        preview: What its page shows: `moving`, `still`, or `none`.
        upload_options: boto3's `ExtraArgs` of an upload, for the pictures beside the video.
    """
    async with Location(credentials, bucket, prefix).open() as jobs:
        await showing.show_video(jobs, saved, made=True, preview=preview, upload_options=upload_options)


@task(
    name="get-credits",
    description="Ask Loova for the API credits of the account.",
    tags={"loova"},
    **RETRIES,
    cache_policy=NO_CACHE,
)
async def get_credits(credentials: LoovaCredentials) -> CreditBalance:
    """Ask Loova for the API credits of the account.

    Args:
        credentials: The block with the API key.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: No usable answer.
    """
    async with credentials.get_client() as loova:
        return await loova.get_credits()
