"""The flows that users import: compositions of the tasks."""

# No `from __future__ import annotations` here: Prefect hands a served flow to its process by value, and annotations
# that are strings lose the names that they stand for.

import getpass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova.artifacts import publish_jobs_in_doubt
from prefect_loova.asking import ask_what_to_do
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.doubt import decide, jobs_in_doubt
from prefect_loova.errors import InDoubtError, InvalidRequestError, StorageError
from prefect_loova.jobs import MAX_WAIT
from prefect_loova.models import JobInDoubt, SavedVideo, VideoRequest
from prefect_loova.polling import Deadline
from prefect_loova.saving import MAX_BYTES
from prefect_loova.states import Decision
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
        on_in_doubt: What to do when the answer to the submit is lost. `raise`: the run fails, and the error says what
            to do. `suspend`: the run is suspended, asks for the decision with a form in the Prefect UI, and goes on;
            where Prefect cannot suspend (subflows, tasks, runs without a deployment), it fails and the log says why.
    """
    deadline = Deadline(max_wait)
    while True:
        try:
            submission = await submit_video(
                request,
                credentials=credentials,
                bucket=bucket,
                prefix=prefix,
                max_wait=max_wait,
                max_paid_attempts=max_paid_attempts,
            )
            break
        except InDoubtError as doubt:
            if on_in_doubt == "raise":
                raise
            await ask_what_to_do(doubt, credentials, bucket, prefix)
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
