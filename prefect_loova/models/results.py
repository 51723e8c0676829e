"""What the Prefect tasks return: frozen values that Prefect can store as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.errors import redact
from prefect_loova.models.transitions import JobState


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def name_of(request: Mapping[str, Any]) -> str:
    """What a request's fields ask for, short enough for the name of a run: `a-futuristic-city 16:9 5s`."""
    words = re.sub(r"[\W_]+", "-", str(request.get("prompt", "")).lower()).strip("-")
    slug = words if len(words) <= 40 else words[:40].rpartition("-")[0] or words[:40]
    take = f" take {request['take']}" if request.get("take") else ""
    return f"{slug or 'video'} {request.get('ratio', '')} {request.get('duration', '')}s{take}"


class Submission(Value):
    """A handle on one job: which request, which attempt to buy it, which Loova task, and where its record stands."""

    key: str = Field(description="The request's key.")
    attempt: int = Field(description="Which attempt to buy this video, counted from 1.")
    state: JobState = Field(description="The job's state when the submit ended.")
    task_id: str = Field(description="The Loova task.")
    api_origin: str = Field(description="The API that knows the task.")
    record: str = Field(description="The job record, as an s3:// URI.")
    prompt: str = Field(description="The request's prompt.")
    model: str = Field(description="The request's model.")
    credits_estimate: float = Field(description="The price by the table, in credits.")
    credits_cost: float | None = Field(description="The price that Loova named at the submit, in credits.")
    trace_id: str | None = Field(None, description="Loova's trace of the submit.")
    reused: bool = Field(description="Whether an earlier run had bought it already.")


class JobInDoubt(Value):
    """A submit whose answer is lost: what is known of it, for the person who decides."""

    key: str = Field(description="The request's key.")
    attempt: int = Field(description="Which attempt to buy this video, counted from 1.")
    record: str = Field(description="The job record, as an s3:// URI.")
    place: str = Field(description="The arguments by which a command names the account and the bucket.")
    prompt: str = Field(description="The request's prompt.")
    model: str = Field(description="The request's model.")
    submitted_at: datetime = Field(description="When the submit was sent.")
    reason: str | None = Field(None, description="What happened to its answer.")
    trace_id: str | None = Field(None, description="Loova's trace of the answer, if there was one.")
    credits_estimate: float = Field(description="The price by the table, in credits.")
    credits_before: float | None = Field(None, description="The account's credits just before the submit.")
    credits_after: float | None = Field(None, description="The account's credits when the answer was found lost.")
    credits_now: float | None = Field(None, description="The account's credits now.")

    @property
    def when(self) -> str:
        """When it was sent, for a person."""
        return f"{self.submitted_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    @property
    def evidence(self) -> str:
        """What the account's credits tell: never enough to decide by itself."""
        after = self.credits_now if self.credits_after is None else self.credits_after
        if self.credits_before is None or after is None:
            return "The account's credits before and after it are not both known."
        less = self.credits_before - after
        if less <= 0:
            verdict = "nothing was charged meanwhile"
        else:
            fits = "which fits" if math.isclose(less, self.credits_estimate) else "which does not fit"
            verdict = f"{less:,.10g} less, {fits} its price of {self.credits_estimate:,.10g}"
        told = f"The account had {self.credits_before:,.10g} credits before it and {after:,.10g} after it: {verdict}"
        now = "" if self.credits_now in (None, after) else f"; it has {self.credits_now:,.10g} now"
        return f"{told}{now} (evidence, no proof: other jobs spend too, and Loova may charge late)."

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What the person does next, a line each, commands included."""
        command, of = f"python -m prefect_loova.resolve {self.key}", f"--attempt {self.attempt} {self.place}"
        return (
            "Nothing is submitted again by itself. Look in the Loova dashboard for a task made at about "
            f"{self.when}, {self.model}, {redact(repr(self.prompt), 80)}; then decide:",
            f"  it is there:        {command} adopt TASK_ID {of}",
            f"  it is not there:    {command} submit-again {of}  # pays again, if it was billed after all",
            f"  no video is wanted: {command} give-up {of}",
        )


class VideoTask(Value):
    """A Loova task as one answer showed it.

    `state` is the rule's reading of the answer (`result` decides where it says something); `status` is Loova's own
    word, an open list. The video's URL is a secret: whoever holds it can download. It is never serialized or shown.
    """

    task_id: str = Field(description="The Loova task.")
    state: Literal["running", "succeeded", "failed"] = Field(description="What the answer means.")
    status: str | None = Field(None, description="Loova's own word for it, where it said one.")
    model: str | None = Field(None, description="The model that Loova named.")
    created_at: datetime | None = Field(None, description="When Loova took the task on.")
    updated_at: datetime | None = Field(None, description="When Loova last changed it.")
    finished_at: datetime | None = Field(None, description="When it ended.")
    credits_cost: float | None = Field(None, description="What Loova charged, in credits, where it said so.")
    error_message: str | None = Field(None, description="Why there is no video, in Loova's words.")
    trace_id: str | None = Field(None, description="Loova's trace of this answer; its support asks for it.")
    video_url: str | None = Field(
        None, exclude=True, repr=False, description="Where the video can be loaded: a secret, never serialized."
    )


class CreditBalance(Value):
    """The API credits of the account (check-api-credits)."""

    available: float = Field(description="Credits that can be spent.")
    total: float = Field(description="Credits bought so far.")


class SavedVideo(Value):
    """A whole video in the bucket."""

    state: Literal["saved"] = Field("saved", description="Always `saved`: it is there, whole and checked.")
    key: str = Field(description="The request's key.")
    attempt: int = Field(1, description="Which attempt to buy this video, counted from 1.")
    request: dict[str, Any] = Field({}, description="What was asked for; media without the queries of their URLs.")
    task_id: str = Field(description="The Loova task that made it.")
    video: str = Field(description="The video, as an s3:// URI.")
    record: str = Field(description="The job record, as an s3:// URI.")
    size_bytes: int = Field(description="The video's size, in bytes.")
    sha256: str = Field(description="Of the whole video, as hex digits.")
    duration_seconds: float | None = Field(None, description="How long it plays, in seconds, as the file says.")
    width: int | None = Field(None, description="Of its pictures, in pixels, as the file says.")
    height: int | None = Field(None, description="Of its pictures, in pixels, as the file says.")
    differs: str = Field("", description="How it differs from what was asked for, in length or ratio; empty if not.")
    credits_estimate: float | None = Field(None, description="The price by the table, in credits.")
    credits_cost: float | None = Field(description="What Loova charged, in credits, where it said so.")
    times: dict[str, datetime] = Field({}, description="When the job came to each of its states.")
    reused: bool = Field(description="Whether it was paid for by an earlier run.")

    @property
    def name(self) -> str:
        """What it is, short enough for the name of a run: `a-futuristic-city 16:9 5s`."""
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
        """Its last frame as a medium of another request's `image_urls`: a video that goes on from this one."""
        return f"{self.whole}#last-frame"
