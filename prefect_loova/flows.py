"""The flows that users import: compositions of the tasks."""

# No `from __future__ import annotations` here: Prefect hands a served flow to its process by value, and annotations
# that are strings lose the names that they stand for.

from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova.credentials import LoovaCredentials
from prefect_loova.jobs import MAX_WAIT
from prefect_loova.models import SavedVideo, VideoRequest
from prefect_loova.polling import Deadline
from prefect_loova.saving import MAX_BYTES
from prefect_loova.tasks import DEFAULT_PREFIX, save_video, submit_video, wait_for_video


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
) -> SavedVideo:
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
    """
    deadline = Deadline(max_wait)
    submission = await submit_video(
        request,
        credentials=credentials,
        bucket=bucket,
        prefix=prefix,
        max_wait=max_wait,
        max_paid_attempts=max_paid_attempts,
    )
    if submission.state == "submitted":
        await wait_for_video(
            submission,
            credentials=credentials,
            bucket=bucket,
            max_wait=deadline.left,
            poll_seconds=poll_seconds,
        )
    return await save_video(
        submission,
        credentials=credentials,
        bucket=bucket,
        upload_options=upload_options,
        max_bytes=max_bytes,
        max_wait=deadline.left,
    )
