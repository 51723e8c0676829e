"""What a quality gate gets and what it answers: frozen values that Prefect can send as JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from prefect_loova.models.results import SavedVideo, Value


def _as_bytes(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        return base64.b64decode(given, validate=True)
    except binascii.Error:
        raise ValueError("must be base64") from None


# Prefect validates a flow's parameters as Python values, and pydantic decodes base64 only in JSON.
Jpeg = Annotated[
    bytes,
    BeforeValidator(_as_bytes),
    PlainSerializer(lambda content: base64.b64encode(content).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""A JPEG. In JSON it is base64."""


class VideoFacts(Value):
    """What was measured of a saved video. `video.quality` says how."""

    duration_seconds: float = Field(description="How long its pictures are shown, in seconds.")
    width: int = Field(description="The width in a player, in pixels: upright, with square pixels.")
    height: int = Field(description="The height in a player, in pixels.")
    fps: float = Field(description="Frames a second, on average; 0 if the file does not say.")
    has_sound: bool = Field(description="Whether it has an audio track.")
    black_seconds: float = Field(description="How long it is black, in seconds, all together.")
    frozen_seconds: float = Field(description="The longest time in which its picture does not change, in seconds.")
    silent_seconds: float = Field(
        description="How long it is silent, in seconds, all together; the whole duration without an audio track."
    )
    loudness: float | None = Field(
        None, description="The integrated loudness in LUFS (EBU R 128); None without sound, or if it is too quiet."
    )


class GateInput(Value):
    """What a quality gate gets to judge a video."""

    saved: SavedVideo = Field(description="The video in the bucket.")
    facts: VideoFacts = Field(description="What was measured of it.")
    posters: tuple[Jpeg, ...] = Field(
        description="The first, the middle and the last frame, as JPEGs of at most 512 pixels and 24 KiB each."
    )

    @property
    def request(self) -> dict[str, Any]:
        """The request, as it is stored: media URLs have no query."""
        return self.saved.request


class Verdict(Value):
    """What a quality gate answers. A gate makes it by `accept`, `reject` or `retake`."""

    what: Literal["accept", "reject", "retake"] = Field(description="The answer.")
    reason: str = Field("", description="Why, for a person. `reject` and `retake` need it.")
    gate: str = Field("", description="The name of the gate. The package sets it.")

    @model_validator(mode="after")
    def _check_reason(self) -> Self:
        if self.what != "accept" and not self.reason.strip():
            raise ValueError(f"reason: it is empty; what: {self.what!r} needs one")
        return self

    @classmethod
    def accept(cls) -> Self:
        """Keep the video."""
        return cls(what="accept")

    @classmethod
    def reject(cls, reason: str) -> Self:
        """Do not use the video, and do not make another one. It stays in the bucket."""
        return cls(what="reject", reason=reason)

    @classmethod
    def retake(cls, reason: str) -> Self:
        """Do not use the video, and ask for another take."""
        return cls(what="retake", reason=reason)


QualityGate = Callable[[GateInput], Verdict | Awaitable[Verdict]]
"""A function, sync or async, that judges a video. The verdict and messages contain its name."""
