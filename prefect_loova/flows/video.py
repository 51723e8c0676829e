"""The flow of one video. Those of many are in `batch_flows`, of stories in `story_flow`, each read when it is used."""

# No `from __future__ import annotations` here: Prefect hands a served flow to its process by value, and annotations
# that are strings lose the names that they stand for. And no `result_serializer`: with it Prefect keeps results,
# and the retry of a parent takes those of its subflows by the order of their calls, whatever was asked for.

from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.concurrency import LIMIT, is_shared, slot
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._prefect.lineage import tag_this_run, tagged
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.suspend import ask_for_decision
from prefect_loova._timing import Deadline
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InDoubtError, StorageError
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.jobs.former_keys import find_record
from prefect_loova.jobs.save import MAX_BYTES
from prefect_loova.models.job_record import PURCHASED
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.tasks import prepare_media, save_video, submit_video, wait_for_video


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
    with tagged([request.model]) as made:
        await tag_this_run(made)
        if not request.is_prepared:
            request = await prepare_media(request, credentials=credentials, bucket=bucket, prefix=prefix)
        async with AsyncExitStack() as held:
            if wait and is_shared(concurrency_limit) and not await _is_bought(request, credentials, bucket, prefix):
                await held.enter_async_context(slot(concurrency_limit, max_wait=max_wait))
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
                    break
                except InDoubtError as doubt:
                    if on_in_doubt == "raise":
                        raise
                    await ask_for_decision(doubt, credentials, bucket, prefix)
            if not wait:
                return submission
            if submission.state == "submitted":
                await wait_for_video(
                    submission,
                    credentials=credentials,
                    bucket=bucket,
                    max_wait=deadline.left,
                    poll_seconds=poll_seconds,
                )
        saved: SavedVideo = await save_video(
            submission,
            credentials=credentials,
            bucket=bucket,
            upload_options=upload_options,
            max_bytes=max_bytes,
            max_wait=deadline.left,
            preview=preview,
            player_link_seconds=player_link_seconds,
        )
        return saved


async def _is_bought(request: VideoRequest, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> bool:
    """Whether there is nothing to submit: waiting for what runs already needs no slot."""
    async with Location(credentials, bucket, prefix).open() as jobs:
        try:
            await jobs.records.check_conditional_writes()
            stored = await find_record(jobs.records, request)
        except StorageError as error:
            if error.transient:
                return False  # the submit is a task, which Prefect tries again
            raise
    return stored is not None and stored.record.state in PURCHASED
