"""The results of the Prefect tasks: frozen values that Prefect can store as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.errors import redact
from prefect_loova.models.job_states import JobState


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def slug_of(prompt: str) -> str:
    """Return the first words of a prompt for names, at most 40 characters: `a-futuristic-city`."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    slug = words if len(words) <= 40 else words[:40].rpartition("-")[0] or words[:40]
    return slug or "video"


def name_of(request: Mapping[str, Any]) -> str:
    """Return a short name of a request for run names: `a-futuristic-city 16:9 5s`."""
    take = f" take {request['take']}" if request.get("take") else ""
    return f"{slug_of(str(request.get('prompt', '')))} {request.get('ratio', '')} {request.get('duration', '')}s{take}"


class Submission(Value):
    """A handle on one job: the request, the attempt, the Loova task, and the job record."""

    key: str = Field(description="The request's key.")
    attempt: int = Field(description="The attempt to buy this video, counted from 1.")
    state: JobState = Field(description="The state of the job after the submit.")
    task_id: str = Field(description="The Loova task.")
    api_origin: str = Field(description="The origin of the API that has the task.")
    record: str = Field(description="The job record, as an s3:// URI.")
    prompt: str = Field(description="The request's prompt.")
    model: str = Field(description="The request's model.")
    label: str = Field("", description="The label of the request that bought it.")
    credits_estimate: float = Field(description="The price from the table, in credits.")
    credits_cost: float | None = Field(description="The cost in Loova's submit answer, in credits.")
    trace_id: str | None = Field(None, description="Loova's trace of the submit.")
    reused: bool = Field(description="Whether an earlier run bought the video.")


class JobInDoubt(Value):
    """A submit whose answer is lost: the facts for the person who decides."""

    key: str = Field(description="The request's key.")
    attempt: int = Field(description="The attempt to buy this video, counted from 1.")
    record: str = Field(description="The job record, as an s3:// URI.")
    place: str = Field(description="The command-line arguments that select the account and the bucket.")
    prompt: str = Field(description="The request's prompt.")
    model: str = Field(description="The request's model.")
    submitted_at: datetime = Field(description="When the submit was sent.")
    reason: str | None = Field(None, description="Why the answer is lost.")
    trace_id: str | None = Field(None, description="Loova's trace of the answer, if it had one.")
    credits_estimate: float = Field(description="The price from the table, in credits.")
    credits_before: float | None = Field(None, description="The account's credits right before the submit.")
    credits_after: float | None = Field(None, description="The account's credits when the answer was found lost.")
    credits_now: float | None = Field(None, description="The account's credits now.")
    balance_at: datetime | None = Field(None, description="When the balance after the submit was read.")
    other_jobs: int | None = Field(
        None, description="How many other tasks below this prefix were submitted between both balances, if searched."
    )
    other_credits: float = Field(0.0, description="The credits that those tasks cost, by their records.")

    @property
    def when(self) -> str:
        """The time of the submit, for a person."""
        return f"{self.submitted_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    @property
    def evidence(self) -> str:
        """What the account's credits suggest. It is never proof."""
        after = self.credits_now if self.credits_after is None else self.credits_after
        if self.credits_before is None or after is None:
            return "The account's credits before and after the submit are not both known."
        before = f"The account had {self.credits_before:,.10g} credits before the submit"
        now = "" if self.credits_now in (None, after) else f" (it has {self.credits_now:,.10g} now)"
        others = ""
        if self.other_jobs:
            tasks = "1 other task" if self.other_jobs == 1 else f"{self.other_jobs} other tasks"
            others = f" {tasks} of these job records cost {self.other_credits:,.10g} of it."
        elif self.other_jobs == 0:
            others = " These job records have no other task of that time."
        return f"{before} and {after:,.10g} after it{now}.{others} {self._conclusion(self.credits_before - after)}"

    def _conclusion(self, less: float) -> str:
        """Return one sentence about what the difference of the balances suggests."""
        price, own = self.credits_estimate, less - self.other_credits
        unsure = "other clients of the account spend too, and Loova may charge late"
        if math.isclose(own, price, abs_tol=1e-6):
            return f"The difference of {own:,.10g} is the price of this video, so it was probably billed; {unsure}."
        if math.isclose(own, 0, abs_tol=1e-6):
            return f"Nothing was charged for this video by then, so it was probably not billed; {unsure}."
        if own < 0:
            return f"The account has {-own:,.10g} more than these tasks leave, so the balance shows nothing; {unsure}."
        differs = f"The difference of {own:,.10g} is not the price of this video ({price:,.10g})"
        return f"{differs}, so it shows nothing; {unsure}."

    @property
    def next_steps(self) -> tuple[str, ...]:
        """The next steps for the person, one line each, with commands."""
        command, of = f"prefect-loova resolve {self.key}", f"--attempt {self.attempt} {self.place}"
        trace = f", the trace_id {redact(self.trace_id, 80)}" if self.trace_id else ""
        return (
            "Nothing is submitted again automatically. Compare the usage of API credits in the Loova dashboard at "
            f"{self.when} with the price, and ask Loova's support with that time{trace} and the prompt "
            f"{redact(repr(self.prompt), 80)}. Loova does not document that its dashboard lists tasks. Then decide:",
            f"  you have its task id: {command} adopt TASK_ID {of}",
            f"  it was not billed:    {command} submit-again {of}  # pays again, if it was billed after all",
            f"  no video is wanted:   {command} give-up {of}",
        )


class VideoTask(Value):
    """A Loova task, as Loova last reported it.

    `state` is derived from the response, first of all from its `result`. `status` is Loova's own word, from an open
    list. The video's URL is a secret, because anybody can download from it. It is never serialized or shown.
    """

    task_id: str = Field(description="The Loova task.")
    state: Literal["running", "succeeded", "failed"] = Field(description="The state of the task.")
    status: str | None = Field(None, description="Loova's own word for the state, if it reported one.")
    model: str | None = Field(None, description="The model that Loova reported.")
    created_at: datetime | None = Field(None, description="When Loova created the task.")
    updated_at: datetime | None = Field(None, description="When Loova last changed the task.")
    finished_at: datetime | None = Field(None, description="When the task ended.")
    credits_cost: float | None = Field(None, description="The credits that Loova charged, if it reported them.")
    error_message: str | None = Field(None, description="Why the task failed, in Loova's words.")
    content_refused: bool = Field(False, description="Whether it failed because Loova refused the video's content.")
    trace_id: str | None = Field(None, description="Loova's trace of this response. Loova's support asks for it.")
    video_url: str | None = Field(
        None, exclude=True, repr=False, description="The URL of the video: a secret, never serialized."
    )


class CreditBalance(Value):
    """The API credits of the account (check-api-credits)."""

    available: float = Field(description="Credits that you can spend.")
    total: float = Field(description="Credits bought so far.")


class SavedVideo(Value):
    """A complete, checked video in the bucket."""

    state: Literal["saved"] = Field("saved", description="Always `saved`: the video is complete and checked.")
    key: str = Field(description="The request's key.")
    attempt: int = Field(1, description="The attempt to buy this video, counted from 1.")
    request: dict[str, Any] = Field({}, description="The request. Media URLs have no query.")
    label: str = Field("", description="The label of the request that bought it.")
    task_id: str = Field(description="The Loova task that made the video.")
    video: str = Field(description="The video, as an s3:// URI.")
    record: str = Field(description="The job record, as an s3:// URI.")
    size_bytes: int = Field(description="The video's size, in bytes.")
    sha256: str = Field(description="The SHA-256 of the video, as hex digits.")
    duration_seconds: float | None = Field(None, description="The duration in the file, in seconds.")
    width: int | None = Field(None, description="The width of the frames in the file, in pixels.")
    height: int | None = Field(None, description="The height of the frames in the file, in pixels.")
    differs: str = Field("", description="How duration or ratio differ from the request; empty if they do not.")
    credits_estimate: float | None = Field(None, description="The price from the table, in credits.")
    credits_cost: float | None = Field(description="The credits that Loova charged, if it reported them.")
    times: dict[str, datetime] = Field({}, description="When the job reached each state.")
    reused: bool = Field(description="Whether an earlier run bought the video.")

    @property
    def name(self) -> str:
        """A short name for run names: `a-futuristic-city 16:9 5s`."""
        return name_of(self.request)

    @property
    def whole(self) -> str:
        """This video as a medium of another request's `video_urls`."""
        return f"{self.video}#sha256={self.sha256}"

    @property
    def first_frame(self) -> str:
        """Its first frame as a medium of another request's `image_urls`."""
        return f"{self.whole}#first-frame"

    @property
    def last_frame(self) -> str:
        """Its last frame as a medium of another request's `image_urls`, for a video that continues this one."""
        return f"{self.whole}#last-frame"
