"""What is asked of Loova, and what comes back: frozen values, and the prices.

The rules are those of Loova's pages create-seedance-2-video-task, get-task-status, check-api-credits and
pricing-and-limits.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.models.media import KINDS, Kind, Medium, media_problem, shown_media, unknown_references
from prefect_loova.models.validation import cross_field_problems, violation

Model = Literal["seedance_2_0", "seedance_2_0_fast"]
"""The models that Loova takes."""

FunctionMode = Literal["omni_reference", "first_last_frames"]
"""How a request's media are used."""

Ratio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"]
"""Width to height."""

CREDITS_PER_SECOND: dict[tuple[Model, bool], float] = {
    ("seedance_2_0", True): 30,
    ("seedance_2_0", False): 15,
    ("seedance_2_0_fast", True): 20,
    ("seedance_2_0_fast", False): 10,
}
"""Credits for a second of output, by model and whether a reference video is given (pricing-and-limits)."""

USD_PER_CREDIT = (0.032, 0.080)
"""What one credit costs in US dollars: in the largest and in the smallest pack (pricing-and-limits)."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tuple_of_media(value: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise PydanticCustomError("media", "must be a list of URLs, s3:// URIs or local files")
    return tuple(value)


def _medium(kind: Kind) -> BeforeValidator:
    def checked(value: Any) -> Any:
        if isinstance(value, SavedVideo):
            if kind != "video":
                problem = "a saved video is a video; its first_frame and last_frame are images"
                raise PydanticCustomError("medium", "{problem}", {"problem": problem})
            value = value.whole
        if isinstance(value, PurePath):
            value = str(value)
        wrong = media_problem(value, kind) if isinstance(value, str) else "must be a string"
        if wrong:
            raise PydanticCustomError("medium", "{problem}", {"problem": wrong})
        return value

    return BeforeValidator(checked, json_schema_input_type=str)


_Several = BeforeValidator(_tuple_of_media, json_schema_input_type=list[str])
_Images = Annotated[tuple[Annotated[str, _medium("image")], ...], _Several]
_Audios = Annotated[tuple[Annotated[str, _medium("audio")], ...], _Several]
_Videos = Annotated[tuple[Annotated[str, _medium("video")], ...], _Several]


STORED: Mapping[str, bool] = MappingProxyType({"was_stored": True})
"""The validation context of a request that an earlier version may have stored: rules that came later are not asked."""


class VideoRequest(_Value):
    """One video to be made: what Loova's submit call takes, and which take of it.

    Two requests with the same `key` are the same video: the second one is never paid.

    Raises:
        pydantic.ValidationError: All violations together, each with field, value and rule.
    """

    prompt: str = Field(
        title="Prompt",
        description="What the video shows; may refer to the media as @image1, @video1, @audio1.",
        json_schema_extra={"format": "textarea"},
    )
    model: Model = Field("seedance_2_0", title="Model", description="The Seedance model; the fast one costs less.")
    function_mode: FunctionMode = Field(
        "omni_reference",
        title="Function mode",
        description="omni_reference: media are references. first_last_frames: 1 or 2 images, the first and last frame.",
    )
    ratio: Ratio = Field("16:9", title="Aspect ratio", description="Width to height.")
    duration: Annotated[int, BeforeValidator(_whole_number, json_schema_input_type=int)] = Field(
        5,
        ge=4,
        le=15,
        strict=True,
        json_schema_extra={"minimum": 4, "maximum": 15},
        title="Duration",
        description="Seconds of video, 4 to 15.",
    )
    image_urls: _Images = Field(
        (),
        json_schema_extra={"maxItems": 9},
        title="Images",
        description="At most 9 images: URLs, s3:// URIs, local files, or a video's frame (s3://b/v.mp4#last-frame).",
    )
    audio_urls: _Audios = Field(
        (),
        json_schema_extra={"maxItems": 3},
        title="Audios",
        description="At most 3 audios, like the images; they need an image or a video beside them.",
    )
    video_urls: _Videos = Field(
        (),
        json_schema_extra={"maxItems": 3},
        title="Videos",
        description="At most 3 reference videos, like the images; they raise the price.",
    )
    take: Annotated[int, BeforeValidator(_whole_number, json_schema_input_type=int)] = Field(
        0,
        ge=0,
        strict=True,
        json_schema_extra={"minimum": 0},
        title="Take",
        description="Another number is another video of the same request, paid anew.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_together(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        data = dict(data)
        problems: list[InitErrorDetails] = []
        try:
            request = handler(data)
        except ValidationError as error:
            problems = [violation(found["loc"], found["msg"], found["input"]) for found in error.errors()]
        known = {problem.get("loc") for problem in problems}
        problems += [
            problem
            for problem in cross_field_problems(data, was_stored=info.context is STORED)
            if problem.get("loc") not in known
        ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems, hide_input=True)
        return request

    @property
    def key(self) -> str:
        """The identity of this video: a versioned SHA-256 over what decides it, as 64 hex digits.

        Raises:
            InvalidRequestError: A medium's content is not known yet; `preparing` finds it out.
        """
        return _hashed(self.canonical())

    @property
    def key_before(self) -> str | None:
        """The key that this request had while fewer signatures were known, or None where it is the same.

        A record under it may hold the purchase (docs/decisions/0015).

        Raises:
            InvalidRequestError: As `key`.
        """
        before = _hashed(self.canonical(lambda medium: medium.identity_before))
        return None if before == self.key else before

    def canonical(self, identity: Callable[[Medium], str | None] = lambda medium: medium.identity) -> dict[str, Any]:
        """What decides the video, in one form: media by their content, or by their URL without its signature."""
        body = self.body()
        for field, texts in self.media().items():
            body[field] = [_identity(f"{field}.{number}", text, identity) for number, text in enumerate(texts)]
        return {"version": 1, "take": self.take} | body

    def as_stored(self) -> dict[str, Any]:
        """What a record may keep: all of it, but without any query of a media URL, which may be a signature."""
        media = {field: [*map(shown_media, texts)] for field, texts in self.media().items()}
        return {"version": 1, "take": self.take} | self.body() | media

    def body(self) -> dict[str, Any]:
        """The JSON body of the submit call (create-seedance-2-video-task)."""
        return self.model_dump(mode="json", exclude={"take"})

    def media(self) -> dict[str, tuple[str, ...]]:
        """The media by field."""
        return {field: getattr(self, field) for field in KINDS}

    @property
    def is_prepared(self) -> bool:
        """Whether the content of all media is known, so that there is a key."""
        return all(Medium.read(text).identity for texts in self.media().values() for text in texts)

    def unknown_references(self) -> list[str]:
        """The `@` references of the prompt that name none of the media. For a warning: the syntax is not documented."""
        return unknown_references(self.prompt, {KINDS[field]: len(texts) for field, texts in self.media().items()})

    def estimate_credits(self) -> float:
        """The price by the table of pricing-and-limits, in credits. What Loova charges is the truth."""
        return self.duration * CREDITS_PER_SECOND[self.model, bool(self.video_urls)]

    @property
    def name(self) -> str:
        """What is made, short enough for the name of a run: `a-futuristic-city 16:9 5s`."""
        return name_of(self.body() | {"take": self.take})

    def __repr_args__(self) -> Any:
        """Leave the queries of media URLs out: they may be signatures."""
        fields = self.model_dump(mode="json")
        return [(name, [*map(shown_media, fields[name])] if name in KINDS else fields[name]) for name in fields]


def name_of(request: Mapping[str, Any]) -> str:
    """What a request's fields ask for, short enough for the name of a run: `a-futuristic-city 16:9 5s`."""
    words = re.sub(r"[\W_]+", "-", str(request.get("prompt", "")).lower()).strip("-")
    slug = words if len(words) <= 40 else words[:40].rpartition("-")[0] or words[:40]
    take = f" take {request['take']}" if request.get("take") else ""
    return f"{slug or 'video'} {request.get('ratio', '')} {request.get('duration', '')}s{take}"


def _hashed(canonical: dict[str, Any]) -> str:
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(where: str, text: str, identity_of: Callable[[Medium], str | None]) -> str:
    identity = identity_of(Medium.read(text))
    if identity is None:
        raise InvalidRequestError(
            f"{where}: {redact(repr(shown_media(text)), 120)} was given: its content is not known yet, and decides the "
            "request's key; the flows and submit_video find it out (prefect_loova.jobs.media_identity)"
        )
    return identity


JobState = Literal[
    "claimed", "submitting", "submitted", "succeeded", "saved", "failed", "rejected", "in_doubt", "abandoned"
]
"""The states of a job record; `prefect_loova.models.job_record` has the table of moves."""


class Submission(_Value):
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


class JobInDoubt(_Value):
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


class VideoTask(_Value):
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


class CreditBalance(_Value):
    """The API credits of the account (check-api-credits)."""

    available: float = Field(description="Credits that can be spent.")
    total: float = Field(description="Credits bought so far.")


class SavedVideo(_Value):
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
