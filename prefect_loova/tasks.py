"""The Prefect tasks: prepare, submit, wait, save, show, and read the credits. They only wrap the code in `jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect import previews
from prefect_loova._prefect.context import DEFAULT_PREFIX, location_of, location_of_submission
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.progress import VideoProgress
from prefect_loova._prefect.run import job_fields, local_files
from prefect_loova._prefect.run_logs import forward_logs
from prefect_loova._prefect.task_options import CACHED, NAMED, NOT_CACHED, RETRIES
from prefect_loova._prefect.telemetry import step_of_job
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import TaskFailedError
from prefect_loova.jobs import save as saving
from prefect_loova.jobs import submit as submitting
from prefect_loova.jobs import wait as waiting
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import CreditBalance, SavedVideo, Submission, VideoTask
from prefect_loova.settings import LoovaSettings

if TYPE_CHECKING:
    from prefect_loova.videos import LoovaVideos


@sync_or_async
@task(
    name="prepare-media",
    description="Identify the reference media, and upload local files to the bucket.",
    **NOT_CACHED,
)
async def prepare_media(
    request: VideoRequest,
    *,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    videos: LoovaVideos | None = None,
) -> VideoRequest:
    """Identify the reference media of a request, and upload local files and frames of videos to the bucket.

    The request has a key only after this. `submit_video` does it too, if you did not. A request whose media are all
    URLs is returned unchanged.

    Args:
        request: The video to make.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        videos: The block to use in place of these three. Its model and ratio apply if the request names none.

    Returns:
        The request with prepared media.

    Raises:
        InvalidRequestError: The media have problems; the error lists all of them, by field.
        StorageError: The bucket cannot be read or written.

    Example:
        Read the key of a request with a local picture before you pay:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, prepare_media

        async def main() -> str:
            request = VideoRequest(prompt="@image1 begins to walk", image_urls=["cat.png"], duration=4)
            request = await prepare_media(
                request, credentials=await LoovaCredentials.aload("loova"), bucket=await S3Bucket.aload("loova")
            )
            return request.key
        ```
    """
    location = location_of(videos, credentials, bucket, prefix)
    request = videos.complete(request) if videos else request
    async with location.open() as jobs:
        if not request.is_prepared:
            await jobs.records.check_bucket()
        return await MediaPreparer(jobs, local_files()).prepare(request)


@sync_or_async
@task(
    name="submit-video",
    description="Buy one video on Loova, or find the earlier purchase.",
    **NOT_CACHED,
)
async def submit_video(
    request: VideoRequest,
    *,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    videos: LoovaVideos | None = None,
    max_wait: float = MAX_WAIT,
    max_paid_attempts: int = 1,
) -> Submission:
    """Buy one video on Loova, or find the earlier purchase.

    The job record in the bucket remembers each purchase, across runs and machines. If you submit the same request
    again, you do not pay again.

    Args:
        request: The video to make.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        videos: The block to use in place of these three. Its model and ratio apply if the request names none.
        max_wait: Seconds to wait while Loova's limit of running tasks is reached, or while another worker submits it.
        max_paid_attempts: How many times this request may be bought in total, if Loova fails to make the video.

    Returns:
        The purchase. Pass it to `wait_for_video` and `save_video`.

    Raises:
        InvalidRequestError: The request is invalid; nothing was sent.
        StorageError: The bucket cannot hold a job record.
        RejectedError: Loova rejected the request; nothing was bought.
        InDoubtError: The video may have been bought; a person has to decide.
        TaskFailedError: An earlier purchase of it failed at Loova.

    Example:
        ```python
        from prefect import flow
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, submit_video

        @flow
        async def main() -> str:
            submission = await submit_video(
                VideoRequest(prompt="a boat at sunset", duration=4),
                credentials=await LoovaCredentials.aload("loova"),
                bucket=await S3Bucket.aload("loova"),
            )
            return submission.task_id
        ```
    """
    logger = get_run_logger()
    location = location_of(videos, credentials, bucket, prefix)
    request = videos.complete(request) if videos else request
    async with location.open() as jobs:
        await jobs.records.check_bucket()
        request = await MediaPreparer(jobs, local_files()).prepare(request)
        with step_of_job("submit", request.key) as current:
            submission = await submitting.submit_video(
                jobs, request, max_wait=max_wait, max_paid_attempts=max_paid_attempts
            )
            current.set_attribute("loova.task_id", submission.task_id)
    fields = job_fields(submission.key, submission.task_id)
    if submission.reused:
        logger.info(
            "Loova task %s: bought by an earlier run, now %s", submission.task_id, submission.state, extra=fields
        )
    else:
        cost = submission.credits_cost if submission.credits_cost is not None else submission.credits_estimate
        message = "Loova task %s: submitted for %g credits, recorded in %s"
        logger.info(message, submission.task_id, cost, submission.record, extra=fields)
    return submission


@sync_or_async
@task(
    name="wait-for-video",
    description="Poll Loova until the video is made, at growing intervals.",
    **CACHED,
)
async def wait_for_video(
    submission: Submission,
    *,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    videos: LoovaVideos | None = None,
    max_wait: float = MAX_WAIT,
    poll_seconds: float | None = None,
    show_progress: bool = True,
) -> VideoTask:
    """Poll Loova until the video is made, at growing intervals.

    Args:
        submission: The result of `submit_video`.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket with the job record.
        videos: The block to use in place of `credentials` and `bucket`.
        max_wait: Seconds to wait in total.
        poll_seconds: The longest first pause between polls, in seconds. By default the setting `poll_seconds`: 20.
        show_progress: Whether to show a progress bar in the Prefect UI.

    Returns:
        The finished Loova task. Results do not contain its video URL, which is a secret; `save_video` requests it.

    Raises:
        TaskFailedError: Loova ended the task without a video.
        WaitTimeoutError: The task is still running. Run it again to continue to wait.

    Example:
        ```python
        from prefect import flow
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, submit_video, wait_for_video

        @flow
        async def main() -> str:
            location = {
                "credentials": await LoovaCredentials.aload("loova"),
                "bucket": await S3Bucket.aload("loova"),
            }
            submission = await submit_video(VideoRequest(prompt="a boat at sunset", duration=4), **location)
            task = await wait_for_video(submission, **location, max_wait=3600)
            return task.state
        ```
    """
    async with location_of_submission(submission, videos, credentials, bucket).open() as jobs:
        progress = VideoProgress(submission)
        try:
            with step_of_job("wait", submission.key, submission.task_id):
                ended = await waiting.wait_for_video(
                    jobs,
                    submission,
                    max_wait=max_wait,
                    poll_seconds=LoovaSettings.load().poll_seconds if poll_seconds is None else poll_seconds,
                    on_poll=progress.on_poll if show_progress else waiting.ignore_poll,
                )
        except TaskFailedError:
            await progress.end("failed")
            raise
        await progress.end("made")
    if submission.state == "submitted":
        fields = job_fields(submission.key, submission.task_id)
        get_run_logger().info("Loova task %s: the video is made", submission.task_id, extra=fields)
    return ended


@sync_or_async
@task(
    name="save-video",
    description="Stream the video of a finished Loova task into the bucket, and check it.",
    **CACHED,
)
async def save_video(
    submission: Submission,
    *,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    videos: LoovaVideos | None = None,
    upload_options: dict[str, Any] | None = None,
    max_bytes: int = saving.MAX_BYTES,
    max_wait: float = 3600.0,
    preview: Preview | None = None,
    player_link_seconds: int = 0,
) -> SavedVideo:
    """Stream the video of a finished Loova task into the bucket, and check it.

    The object appears only when it is complete. A video that is already saved is not downloaded again.

    Args:
        submission: The result of `submit_video`.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket with the job record.
        videos: The block to use in place of `credentials` and `bucket`.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        max_wait: Seconds to wait while another worker saves the same video.
        preview: What the video's page shows: an animated picture (`moving`, at most 256 KiB, in Prefect's database), a
            small one (`still`), or `none`. By default what `videos` or the setting says, else `moving`.
        player_link_seconds: How long the page's link to play the video is valid, in seconds; 0 for no link.

    Returns:
        The saved video: its URI, checksum and cost.

    Raises:
        TransferError: The video could not be saved. Its task id is recorded, and you can save it again.
        WaitTimeoutError: The task is still running.
        TaskFailedError: Loova ended the task without a video.

    Example:
        ```python
        from prefect import flow
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, save_video, submit_video, wait_for_video

        @flow
        async def main() -> str:
            location = {
                "credentials": await LoovaCredentials.aload("loova"),
                "bucket": await S3Bucket.aload("loova"),
            }
            submission = await submit_video(VideoRequest(prompt="a boat at sunset", duration=4), **location)
            await wait_for_video(submission, **location)
            saved = await save_video(submission, **location, upload_options={"StorageClass": "STANDARD"})
            return saved.video
        ```
    """
    logger = get_run_logger()
    async with location_of_submission(submission, videos, credentials, bucket).open() as jobs:
        with step_of_job("save", submission.key, submission.task_id) as current:
            saved, is_new = await saving.save_video(
                jobs, submission, upload_options=upload_options, max_bytes=max_bytes, max_wait=max_wait
            )
            current.set_attribute("loova.video.size", saved.size_bytes)
        # A retry of this task finds the video that its first try saved: it is this task's video all the same.
        is_made = is_new or submission.state != "saved"
        status = "is saved" if is_made else "was already saved"
        fields = job_fields(saved.key, saved.task_id)
        message = "Loova task %s: %s %s, %d bytes"
        logger.info(
            message, saved.task_id, saved.video, status, saved.size_bytes, extra=fields | {"saved": saved.task_id}
        )
        if saved.differs:
            message = "Loova task %s: the video differs from the request: %s"
            logger.warning(message, saved.task_id, saved.differs, extra=fields)
        await previews.show_video(
            jobs,
            saved,
            made=is_made,
            is_new=is_new,
            preview=previews.chosen_preview(preview, videos, "moving"),
            player_seconds=player_link_seconds,
            upload_options=upload_options,
        )
    return saved


@sync_or_async
@task(
    name="show-video",
    description="Show a video that the collector saved, as an artifact and an asset.",
    **NAMED,
    cache_policy=NO_CACHE,
)
async def show_video(
    saved: SavedVideo,
    *,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    videos: LoovaVideos | None = None,
    preview: Preview | None = None,
    upload_options: dict[str, Any] | None = None,
) -> None:
    """Show a saved video in the Prefect UI, and record it as an asset that this task materialized.

    Args:
        saved: The video.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket with the video.
        prefix: The prefix in the bucket, below the block's own folder.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.
        preview: `moving`, `still`, or `none`. By default what `videos` or the setting says, else `still`.
        upload_options: boto3's `ExtraArgs` of an upload, for the pictures beside the video.
    """
    shown = previews.chosen_preview(preview, videos, "still")
    async with location_of(videos, credentials, bucket, prefix).open() as jobs:
        await previews.show_video(jobs, saved, made=True, preview=shown, upload_options=upload_options)


@sync_or_async
@task(
    name="get-credits",
    description="Read the API credits of the Loova account.",
    tags={"loova"},
    **RETRIES,
    cache_policy=NO_CACHE,
)
async def get_credits(credentials: LoovaCredentials) -> CreditBalance:
    """Read the API credits of the Loova account.

    Args:
        credentials: The block with the Loova API key.

    Returns:
        The available and the total credits.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: Loova returned no usable response.

    Example:
        ```python
        from prefect import flow
        from prefect_loova import LoovaCredentials, get_credits

        @flow
        async def main() -> float:
            balance = await get_credits(await LoovaCredentials.aload("loova"))
            return balance.available
        ```
    """
    with forward_logs():
        async with credentials.get_client() as loova:
            return await loova.get_credits()
