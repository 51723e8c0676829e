"""The flow of one video."""

# No `from __future__ import annotations`: Prefect pickles a served flow by value, and string annotations then lose the
# names that they refer to. No `result_serializer`: with it Prefect persists results, and when a parent flow is retried,
# it replays those of its subflows in the order of the calls, whatever their parameters are.

from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from prefect import flow, tags
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.concurrency import is_shared, slot
from prefect_loova._prefect.context import DEFAULT_PREFIX, location_of
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.lineage import label_tags, tagged
from prefect_loova._prefect.previews import Preview, chosen_preview
from prefect_loova._prefect.suspend import ask_for_decision
from prefect_loova._prefect.suspended_runs import check_can_suspend, suspend_until_made
from prefect_loova._timing import Deadline
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import ContentRefusedError, InDoubtError, StorageError
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.former_keys import find_record
from prefect_loova.jobs.handover import Handover, handed_over
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.attempts import PURCHASED
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.settings import LoovaSettings
from prefect_loova.tasks import prepare_media, save_video, submit_video, wait_for_video
from prefect_loova.videos import LoovaVideos


def _run_name() -> str:
    request = flow_run.parameters.get("request")
    try:
        return VideoRequest.model_validate(request).name
    except ValueError:
        return "generate-video"


@sync_or_async
@flow(name="generate-video", flow_run_name=_run_name)
async def generate_video(
    request: VideoRequest,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES,
    on_in_doubt: Literal["raise", "suspend"] = "raise",
    concurrency_limit: str | None = None,
    wait: bool | Literal["suspend"] = True,
    preview: Preview | None = None,
    player_link_seconds: Annotated[int, Field(ge=0, le=604_800)] = 0,
    videos: LoovaVideos | None = None,
) -> SavedVideo | Submission:
    """Make one video on Loova, pay for it once, and save it to the bucket.

    If you run the same request again, you do not pay again: the run finds the video, or continues where the earlier
    run ended.

    Args:
        request: The video to make.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        max_wait: Seconds to wait in total.
        poll_seconds: The longest first pause between polls, in seconds. By default the setting `poll_seconds`: 20.
        max_paid_attempts: How many times this request may be bought in total, if Loova fails to make the video.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"StorageClass": "STANDARD_IA"}`.
        max_bytes: The largest video to accept, in bytes.
        on_in_doubt: What to do if the answer to the submit is lost. `raise`: the run fails, and the error says how to
            decide. `suspend`: the run is suspended until a person decides in a form in the Prefect UI, then continues.
            Prefect cannot suspend subflows, tasks and runs without a deployment; they fail, and the log says why.
        concurrency_limit: The Prefect global concurrency limit that spaces out the submits of all runs. It is created
            with 6 if it does not exist. It is not used if the name is empty, or without a Prefect server. By default
            the setting `concurrency_limit`: `loova`.
        wait: Whether to wait for the video and save it. If not, the run ends after the submit and returns its
            `Submission`, and the scheduled flow `collect_videos` saves the video. `suspend`: no worker waits. The run
            is suspended after the submit, and `collect_videos` saves the video and resumes the run. Only the run of a
            deployment can do this.
        preview: What the video's page in the Prefect UI shows. `moving`: an animated picture of at most 256 KiB.
            `still`: a small picture. `none`: no picture. By default what `videos` or the setting says, else `moving`.
        player_link_seconds: How long the page's link to play the video is valid, in seconds. Everybody who sees the
            page can use it. 0 for no link.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`. Its model and ratio apply if the
            request names none.

    Returns:
        The saved video, or the submission if `wait` is false.

    Raises:
        InvalidRequestError: A parameter is invalid; nothing was sent.
        RejectedError: Loova rejected the request; nothing was bought.
        InDoubtError: The video may have been bought; a person has to decide.
        ContentRefusedError: Loova refused the content, and that of the `fallback_prompt` if the request has one.
        TaskFailedError: Loova could not make the video.
        WaitTimeoutError: The video is not made yet. Run the same request again to continue.
        TransferError: The video could not be saved. Run the same request again.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, generate_video

        async def main() -> str:
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            request = VideoRequest(prompt="a boat at sunset", duration=4)
            saved = await generate_video(request, credentials, bucket)
            return saved.video
        ```
    """
    location = location_of(videos, credentials, bucket, prefix)
    credentials, bucket, prefix = location.credentials, location.bucket, location.prefix
    defaults = LoovaSettings.load()
    limit = defaults.concurrency_limit if concurrency_limit is None else concurrency_limit
    shown = chosen_preview(preview, videos, "moving")
    request = videos.complete(request) if videos else request
    deadline = Deadline(max_wait)
    if wait == "suspend":
        check_can_suspend()
    with handed_over() as handover, tags(*label_tags(request.label)):
        async with tagged([request]), location.open() as jobs:  # the tasks share its API client
            if not request.is_prepared:
                request = await prepare_media(request, credentials=credentials, bucket=bucket, prefix=prefix)
            async with AsyncExitStack() as stack:
                if wait is True and is_shared(limit) and not await _is_bought(jobs, request, handover):
                    await stack.enter_async_context(slot(limit, max_wait=max_wait))
                while True:
                    try:
                        submission: Submission = await submit_video(
                            request,
                            credentials=credentials,
                            bucket=bucket,
                            prefix=prefix,
                            max_wait=deadline.left,
                            max_paid_attempts=max_paid_attempts,
                        )
                    except InDoubtError as doubt:
                        if on_in_doubt == "raise":
                            raise
                        await ask_for_decision(doubt, credentials, bucket, prefix)
                        continue
                    if not wait:
                        return submission
                    if submission.state != "submitted":
                        break
                    if wait == "suspend":
                        await suspend_until_made(submission, deadline.left)
                    try:
                        await wait_for_video(
                            submission,
                            credentials=credentials,
                            bucket=bucket,
                            max_wait=deadline.left,
                            poll_seconds=poll_seconds or defaults.poll_seconds,
                        )
                        break
                    except ContentRefusedError:
                        if request.fallback is None:
                            raise
                        request = request.fallback
            saved: SavedVideo = await save_video(
                submission,
                credentials=credentials,
                bucket=bucket,
                upload_options=upload_options,
                max_bytes=max_bytes,
                max_wait=deadline.left,
                preview=shown,
                player_link_seconds=player_link_seconds,
            )
            return saved


async def _is_bought(jobs: VideoJobs, request: VideoRequest, handover: Handover) -> bool:
    """Return whether the video is bought. To wait for a task that already runs, no slot is needed."""
    jobs.records.start_bucket_check()  # the submit waits for it; the run gets its slot first
    try:
        stored = await find_record(jobs.records, request)
    except StorageError as error:
        if error.transient:
            return False  # Prefect retries the submit
        raise
    handover.stored, handover.is_new = stored, stored is None
    return stored is not None and stored.record.state in PURCHASED
