"""The block of everything that a flow needs to make videos: the account, the bucket and the defaults."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, NoReturn

from prefect.blocks.abstract import JobBlock, JobRun
from prefect_aws.s3 import S3Bucket
from pydantic import Field, ValidationError

from prefect_loova._block import LoovaBlock
from prefect_loova._prefect import previews
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.previews import Preview
from prefect_loova._prefect.run import local_files
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import MAX_WAIT, JobTimes
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.job_states import JobState
from prefect_loova.models.media_types import MediaRules
from prefect_loova.models.model_rules import ModelName
from prefect_loova.models.prices import Ratio
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.settings import LoovaSettings


class LoovaVideoRun(JobRun[SavedVideo]):
    """One bought video: a run of `LoovaVideos.trigger`. The job record in the bucket remembers it.

    Attributes:
        submission: The purchase.
    """

    def __init__(self, videos: LoovaVideos, submission: Submission) -> None:
        self.videos = videos
        self.submission = submission

    async def await_for_completion(self, max_wait: float = MAX_WAIT, poll_seconds: float | None = None) -> None:
        """Wait until Loova has made the video.

        Args:
            max_wait: Seconds to wait in total.
            poll_seconds: The longest first pause between polls, in seconds. By default the setting `poll_seconds`.

        Raises:
            TaskFailedError: Loova ended the task without a video.
            WaitTimeoutError: The task is still running. Call this again to continue to wait.
        """
        if self.submission.state != "submitted":
            return
        pause = poll_seconds or LoovaSettings.load().poll_seconds
        async with self.videos.location.open() as jobs:
            await wait_for_video(jobs, self.submission, max_wait=max_wait, poll_seconds=pause)

    async def afetch_result(self) -> SavedVideo:
        """Save the video in the bucket, or find it there. In a flow run, show it as an artifact.

        Raises:
            WaitTimeoutError: The task is still running.
            TaskFailedError: Loova ended the task without a video.
            TransferError: The video could not be saved. Call this again.
        """
        async with self.videos.location.open() as jobs:
            saved, is_new = await save_video(jobs, self.submission)
            shown = previews.chosen_preview(None, self.videos, "moving")
            is_made = is_new or self.submission.state != "saved"  # a second call shows the video as the first one did
            await previews.show_video(jobs, saved, made=is_made, is_new=is_new, preview=shown)
        return saved

    async def astatus(self) -> JobState:
        """Return the state in the job record: `submitted`, `succeeded`, `saved`, `failed`, and so on."""
        async with self.videos.location.open() as jobs:
            return (await jobs.records.expect(self.submission.key)).record.state

    def cancel(self) -> NoReturn:
        """Refuse to cancel, because Loova cannot cancel a task.

        Raises:
            InvalidRequestError: Always. The credits stay spent, and the video can still be saved.
        """
        raise InvalidRequestError(
            f"cancel: Loova cannot cancel the task {self.submission.task_id}, and its credits stay spent. "
            "Stop waiting if you do not need the video; collect_videos saves it"
        )

    @sync_or_async
    async def wait_for_completion(self, max_wait: float = MAX_WAIT, poll_seconds: float | None = None) -> None:
        """Wait until Loova has made the video: `await_for_completion` for sync and async code."""
        await self.await_for_completion(max_wait, poll_seconds)

    @sync_or_async
    async def fetch_result(self) -> SavedVideo:
        """Save the video, or find it: `afetch_result` for sync and async code."""
        return await self.afetch_result()

    @sync_or_async
    async def status(self) -> JobState:
        """Return the state in the job record: `astatus` for sync and async code."""
        return await self.astatus()


class LoovaVideos(LoovaBlock, JobBlock[SavedVideo]):
    """The account, the bucket and the defaults for making videos. A flow then names one block.

    If you change the model or the ratio of a saved block, requests that name none become other requests, which you pay
    for.

    Attributes:
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        model: The model of requests that name none.
        ratio: The ratio of requests that name none.
        preview: What the page of a video shows, if the call does not say it.
        max_credits_per_day: The credits that all runs with one bucket and prefix together may spend per day.
        job_times: When a worker may take over a job of another worker.
        media: Which reference media are allowed, and how they reach Loova.

    Example:
        Load a saved block and make a video:
        ```python
        from prefect import flow
        from prefect_loova import LoovaVideos, generate_video

        @flow
        def main() -> str:
            videos = LoovaVideos.load("BLOCK_NAME")
            saved = generate_video({"prompt": "a boat at sunset", "duration": 4}, videos=videos)
            return saved.video
        ```
    """

    _block_type_name: ClassVar[str] = "Loova Videos"
    _block_type_slug: ClassVar[str] = "loova-videos"

    credentials: LoovaCredentials = Field(title="Loova Credentials", description="The block with the Loova API key.")
    bucket: S3Bucket = Field(title="S3 Bucket", description="The bucket for job records and videos.")
    prefix: str = Field(DEFAULT_PREFIX, title="Prefix", description="The prefix in the bucket, below its own folder.")
    model: ModelName | None = Field(None, title="Model", description="The model of requests that name none.")
    ratio: Ratio | None = Field(None, title="Ratio", description="The ratio of requests that name none.")
    preview: Preview | None = Field(
        None, title="Preview", description="What the page of a video shows, if the call does not say it."
    )
    max_credits_per_day: float | None = Field(
        None,
        ge=0,
        title="Credits per day",
        description="The credits that all runs with one bucket and prefix together may spend per day (UTC). If it is "
        "empty, the value of the credentials block counts.",
    )
    job_times: JobTimes | None = Field(
        None,
        title="Job times",
        description="When a worker may take over a job of another worker. If it is empty, the value of the credentials "
        "block counts.",
    )
    media: MediaRules | None = Field(
        None,
        title="Media",
        description="Which reference media are allowed, and how they reach Loova. If it is empty, the value of the "
        "credentials block counts.",
    )

    @property
    def location(self) -> Location:
        """The account, the bucket and the prefix."""
        names = ("max_credits_per_day", "job_times", "media")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Location(self.credentials.model_copy(update=own), self.bucket, self.prefix)

    @property
    def request_defaults(self) -> dict[str, str]:
        """The fields of a request that this block has a value for: model and ratio."""
        given = {"model": self.model, "ratio": self.ratio}
        return {name: value for name, value in given.items() if value is not None}

    def complete(self, request: VideoRequest) -> VideoRequest:
        """Return the request with this block's model and ratio, if the request names none."""
        missing = {k: v for k, v in self.request_defaults.items() if k not in request.model_fields_set}
        if not missing:
            return request
        try:
            return VideoRequest.model_validate(request.model_dump(exclude_unset=True) | missing)
        except ValidationError as error:
            raise InvalidRequestError.from_validation(error) from None

    async def atrigger(
        self, request: VideoRequest | str, *, max_wait: float = MAX_WAIT, max_paid_attempts: int = 1, **fields: Any
    ) -> LoovaVideoRun:
        """Buy one video, or find the earlier purchase of the same request. You do not pay twice.

        Args:
            request: The video to make, or its prompt.
            max_wait: Seconds to wait while Loova's limit of running tasks is reached.
            max_paid_attempts: How many times this request may be bought in total, if Loova fails to make the video.
            fields: Fields of the request beside the prompt, for example `duration=4`.

        Returns:
            The run. Call `wait_for_completion` and `fetch_result`.

        Raises:
            InvalidRequestError: The request is invalid; nothing was sent.
            RejectedError: Loova rejected the request; nothing was bought.
            InDoubtError: The video may have been bought; a person has to decide.

        Example:
            ```python
            from prefect_loova import LoovaVideos

            async def main() -> str:
                videos = await LoovaVideos.aload("loova")
                run = await videos.atrigger("a boat at sunset", duration=4)
                await run.await_for_completion()
                return (await run.afetch_result()).video
            ```
        """
        if isinstance(request, str):
            try:
                request = VideoRequest(prompt=request, **fields)
            except ValidationError as error:
                raise InvalidRequestError.from_validation(error) from None
        elif fields:
            raise InvalidRequestError(f"{', '.join(fields)}: give them in the request, or give its prompt as text")
        async with self.location.open() as jobs:
            await jobs.records.check_bucket()
            prepared = await MediaPreparer(jobs, local_files()).prepare(self.complete(request))
            bought = await submit_video(jobs, prepared, max_wait=max_wait, max_paid_attempts=max_paid_attempts)
        self.logger.log(logging.INFO, "Loova task %s: %s", bought.task_id, bought.record)
        return LoovaVideoRun(self, bought)

    @sync_or_async  # type: ignore[arg-type]  # because of **fields
    async def trigger(  # type: ignore[override]
        self, request: VideoRequest | str, *, max_wait: float = MAX_WAIT, max_paid_attempts: int = 1, **fields: Any
    ) -> LoovaVideoRun:
        """Buy one video, or find the earlier purchase: `atrigger` for sync and async code."""
        return await self.atrigger(request, max_wait=max_wait, max_paid_attempts=max_paid_attempts, **fields)
