"""A request for one video: its fields, rules, key and price.

The rules are from Loova's pages create-seedance-2-video-task and pricing-and-limits.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefect_loova.errors import InvalidRequestError, counted, redact
from prefect_loova.models.media import KINDS, Kind, MediaError, Medium, check_medium, redact_media, unknown_references
from prefect_loova.models.model_rules import (
    MAX_TAKES,
    RULES_OF_DOCUMENTED_MODELS,
    Label,
    ModelName,
    RatioName,
    allowed_duration,
    known_model,
    model_problems,
    whole_number,
)
from prefect_loova.models.prices import MODELS, FunctionMode, Models
from prefect_loova.models.results import SavedVideo, Value, name_of


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
        try:
            if not isinstance(value, str):
                raise MediaError("must be a string")
            check_medium(value, kind)
        except MediaError as error:
            raise PydanticCustomError("medium", "{problem}", {"problem": str(error)}) from None
        return value

    return BeforeValidator(checked, json_schema_input_type=str)


_Several = BeforeValidator(_tuple_of_media, json_schema_input_type=list[str])
_Images = Annotated[tuple[Annotated[str, _medium("image")], ...], _Several]
_Audios = Annotated[tuple[Annotated[str, _medium("audio")], ...], _Several]
_Videos = Annotated[tuple[Annotated[str, _medium("video")], ...], _Several]


_NOT_SENT = {"take", "takes", "label", "fallback_prompt"}
"""The fields that Loova does not get. Of these, only `take` is part of the key."""

STORED: Mapping[str, bool] = MappingProxyType({"was_stored": True})
"""The validation context for stored requests. An earlier version may have stored them, so newer rules are skipped."""


class VideoRequest(Value):
    """A request for one video: the parameters of Loova's submit call, and a take number.

    Two requests with the same `key` are the same video, which is bought only once.

    The rules of Loova's documented models apply here. The rules of your own models (`LoovaCredentials.models`) apply
    when the request meets the block: before anything is spent.

    Raises:
        pydantic.ValidationError: Lists all violations, each with field, value and rule.
    """

    model_config = ConfigDict(json_schema_extra=RULES_OF_DOCUMENTED_MODELS)

    prompt: str = Field(
        title="Prompt",
        description="What the video shows. It may refer to the media as @image1, @video1, @audio1.",
        json_schema_extra={"format": "textarea"},
    )
    fallback_prompt: str = Field(
        "",
        title="Fallback prompt",
        description="Another prompt, if Loova refuses the content of the first one. It makes a request of its own.",
        json_schema_extra={"format": "textarea"},
    )
    model: ModelName = Field("seedance_2_0", title="Model", description="The Seedance model; the fast one costs less.")
    function_mode: FunctionMode = Field(
        "omni_reference",
        title="Function mode",
        description="omni_reference: media are references. first_last_frames: 1 or 2 images, the first and last frame.",
    )
    ratio: RatioName = Field("16:9", title="Aspect ratio", description="Width to height.")
    duration: Annotated[int, whole_number, allowed_duration] = Field(
        5,
        strict=True,
        json_schema_extra={"minimum": 1},
        title="Duration",
        description="Seconds of video, 4 to 15.",
    )
    image_urls: _Images = Field(
        (),
        title="Images",
        description="At most 9 images: URLs, s3:// URIs, local files, or a video's frame (s3://b/v.mp4#last-frame).",
    )
    audio_urls: _Audios = Field(
        (),
        title="Audios",
        description="At most 3 audios, like the images; they need an image or a video beside them.",
    )
    video_urls: _Videos = Field(
        (),
        title="Videos",
        description="At most 3 reference videos, like the images; they raise the price.",
    )
    take: Annotated[int, whole_number] = Field(
        0,
        ge=0,
        strict=True,
        json_schema_extra={"minimum": 0},
        title="Take",
        description="Each number is another video of the same request, bought separately.",
    )
    takes: Annotated[int, whole_number] = Field(
        1,
        ge=1,
        le=MAX_TAKES,
        strict=True,
        json_schema_extra={"minimum": 1, "maximum": MAX_TAKES},
        title="Takes",
        description="In a list: how many videos of this request to make, from `take` on. Each is bought separately.",
    )
    label: Label = Field(
        "",
        title="Label",
        description="Free text for tags, events, assets and the report of the credits, such as a campaign.",
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
            problems = [violation(one["loc"], one["msg"], one["input"]) for one in error.errors()]
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
        """The identity of this video: a SHA-256 of the canonical request, as 64 hex digits.

        Raises:
            InvalidRequestError: The content of a medium is not known yet. `MediaPreparer` reads it.
        """
        return _sha256(self.canonical())

    @property
    def former_key(self) -> str | None:
        """The key of this request in earlier versions, which knew fewer URL signatures, or None if it is the same.

        A record under it may have the purchase (docs/decisions/0015).

        Raises:
            InvalidRequestError: As `key`.
        """
        former = _sha256(self.canonical(lambda medium: medium.former_identity))
        return None if former == self.key else former

    def canonical(self, identity: Callable[[Medium], str | None] = lambda medium: medium.identity) -> dict[str, Any]:
        """Return the canonical request: media by their content, or by their URL without its signature."""
        body = self.body()
        # Leave a new field out at its default: else earlier requests get other keys, and are bought again.
        for field, texts in self.media().items():
            body[field] = [_identity(f"{field}.{number}", text, identity) for number, text in enumerate(texts)]
        return {"version": 1, "take": self.take} | body

    def as_stored(self) -> dict[str, Any]:
        """Return the request for a record. Media URLs have no query, because a query may be a signature."""
        media = {field: [*map(redact_media, texts)] for field, texts in self.media().items()}
        return {"version": 1, "take": self.take} | self.body() | media

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the submit call (create-seedance-2-video-task)."""
        return self.model_dump(mode="json", exclude=_NOT_SENT)

    @property
    def fallback(self) -> VideoRequest | None:
        """The request with the `fallback_prompt` in place of the prompt. Its key, and so its price, is its own."""
        if not self.fallback_prompt:
            return None
        return self.model_copy(update={"prompt": self.fallback_prompt, "fallback_prompt": ""})

    @property
    def all_takes(self) -> tuple[VideoRequest, ...]:
        """One request for each of the `takes`, with the numbers from `take` on."""
        if self.takes == 1:
            return (self,)
        return tuple(
            self.model_copy(update={"take": number, "takes": 1}) for number in range(self.take, self.take + self.takes)
        )

    @property
    def group(self) -> str:
        """The identity that all takes of this request share: the key of take 0.

        Raises:
            InvalidRequestError: As `key`.
        """
        return self.model_copy(update={"take": 0}).key

    def media(self) -> dict[str, tuple[str, ...]]:
        """Return the media by field."""
        return {field: getattr(self, field) for field in KINDS}

    @property
    def is_prepared(self) -> bool:
        """Whether the content of all media is known, which `key` needs."""
        return all(Medium.parse(text).identity for texts in self.media().values() for text in texts)

    def unknown_references(self) -> list[str]:
        """Return the prompt's `@` references to missing media, for a warning: their syntax is not documented."""
        return unknown_references(self.prompt, {KINDS[field]: len(texts) for field, texts in self.media().items()})

    def estimate_credits(self, models: Models = MODELS) -> float:
        """Return the price from the table of pricing-and-limits, in credits. Loova may charge another amount.

        Args:
            models: The table; by default Loova's documented models. With a client, `client.models`.

        Raises:
            InvalidRequestError: The table has no such model, or no price for it.
        """
        model = known_model(self.model, models)
        price = model.price(self.duration, with_video=bool(self.video_urls))
        if price is None:
            condition = "with a reference video" if self.video_urls else "without a reference video"
            raise InvalidRequestError(
                f"model: {self.model!r} was given: its price {condition} is unknown, so it needs a bound; give this "
                "model max_credits, or its price, in `models` of the Loova Credentials block"
            )
        return price

    def check_model(self, models: Models) -> None:
        """Raise if the request breaks the rules of its model, or if its price is unknown and has no bound.

        Raises:
            InvalidRequestError: Names the field, the value and the rule of each violation.
        """
        problems = [*model_problems(self.model_dump(), known_model(self.model, models))]
        if problems:
            raise InvalidRequestError("\n".join(problems))
        self.estimate_credits(models)

    @property
    def name(self) -> str:
        """A short name for run names: `a-futuristic-city 16:9 5s`."""
        return name_of(self.body() | {"take": self.take})

    def __repr_args__(self) -> Any:
        """Omit the queries of media URLs, which may be signatures."""
        fields = self.model_dump(mode="json")
        return [(name, [*map(redact_media, fields[name])] if name in KINDS else fields[name]) for name in fields]


def _sha256(canonical: dict[str, Any]) -> str:
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(field: str, text: str, identity_of: Callable[[Medium], str | None]) -> str:
    identity = identity_of(Medium.parse(text))
    if identity is None:
        raise InvalidRequestError(
            f"{field}: {redact(repr(redact_media(text)), 120)} was given: its content is not known yet, and the "
            "request's key depends on it; the flows and submit_video read it (prefect_loova.jobs.media_identity)"
        )
    return identity


_PROMPTS = ("prompt", "fallback_prompt")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def violation(loc: tuple[int | str, ...], rule: str, value: Any) -> InitErrorDetails:
    """Return a violation for pydantic, with the redacted value and the rule."""
    if rule == "Field required":
        return InitErrorDetails(type=PydanticCustomError("video_request", "is missing"), loc=loc, input=None)
    if loc and loc[0] in KINDS and isinstance(value, str):
        value = redact_media(value)
    seen = redact(repr(value), 120)
    rule = redact(rule, 300)
    return InitErrorDetails(
        type=PydanticCustomError("video_request", "{value} was given: {rule}", {"value": seen, "rule": rule}),
        loc=loc,
        input=seen,
    )


def control_problem(text: str) -> str | None:
    """Return the problem with a text that contains control characters, or None.

    Unicode's control characters (category Cc) are refused, except tab, line feed and carriage return. Other characters
    may belong to a language: joiners, direction marks, and the separators U+2028 and U+2029.
    """
    match = _CONTROL.search(text)
    if match is None:
        return None
    return (
        f"must be text without control characters, but for tabs and new lines: U+{ord(match[0]):04X} is at character "
        f"{match.start() + 1:,}"
    )


def cross_field_problems(data: dict[str, Any], *, was_stored: bool = False) -> list[InitErrorDetails]:
    """Return the violations of rules that need several fields. They apply to raw input, beside the other violations.

    If an earlier version accepted and stored the request (`was_stored`), newer rules are skipped.
    """

    def count(field: str) -> int:
        value = data.get(field, ())
        return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else 0

    mode = data.get("function_mode", "omni_reference")
    images, audios, videos = count("image_urls"), count("audio_urls"), count("video_urls")
    problems = [*_prompt_problems(data)]
    for loc, text in [] if was_stored else _texts(data):
        if problem := control_problem(text):
            problems.append(violation(loc, problem, text))
    model = MODELS.get(str(data.get("model", "seedance_2_0")))
    for field in KINDS:
        given, most = count(field), model.most_media[field] if model else math.inf
        if given > most:
            problems.append(violation((field,), f"at most {most} are allowed", counted(given, KINDS[field])))
    if mode == "first_last_frames":
        if not 1 <= images <= 2 and images <= 9:
            rule = "first_last_frames takes 1 image (the first frame) or 2 (the first and the last)"
            problems.append(violation(("image_urls",), rule, counted(images, "image")))
        for field, given in (("audio_urls", audios), ("video_urls", videos)):
            if given:
                problems.append(
                    violation((field,), "first_last_frames takes images only", counted(given, KINDS[field]))
                )
    elif audios and not images and not videos:
        rule = "audio alone is refused: omni_reference needs at least one image or video beside it"
        problems.append(violation(("audio_urls",), rule, f"{counted(audios, 'audio')}, 0 images, 0 videos"))
    return problems


def _prompt_problems(data: dict[str, Any]) -> Iterator[InitErrorDetails]:
    for field in _PROMPTS:
        prompt = data.get(field)
        if isinstance(prompt, str) and not prompt.strip() and (prompt or field == "prompt"):
            yield violation((field,), "must not be blank", prompt)
        if isinstance(prompt, str) and any("\ud800" <= character <= "\udfff" for character in prompt):
            yield violation((field,), "must be text without lone surrogates", prompt)
    if isinstance(prompt, str) and prompt and prompt == data.get("prompt"):
        yield violation(("fallback_prompt",), "must differ from the prompt", prompt)


def _texts(data: dict[str, Any]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    for field in (*_PROMPTS, *KINDS):
        value = data.get(field)
        if isinstance(value, str):
            yield (field,), value
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            yield from (((field, number), text) for number, text in enumerate(value) if isinstance(text, str))
