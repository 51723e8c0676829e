"""The table of Loova's models: the rules and prices of each (create-seedance-2-video-task, pricing-and-limits)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Model = Literal["seedance_2_0", "seedance_2_0_fast"]
"""The models that Loova documents."""

FunctionMode = Literal["omni_reference", "first_last_frames"]
"""How Loova uses the media of a request."""

Ratio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"]
"""The aspect ratios, width to height, that Loova documents."""

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
LONGEST = 3600
"""The longest duration of any model, in seconds."""

RATIO = r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}"


class VideoModel(BaseModel):
    """A model of Loova: where to submit it, what a request may ask of it, and its price.

    The defaults are the rules of `seedance_2_0`. There is no default price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{MODEL_NAME}$", description="The value of `model` in a request.")
    path: str = Field(
        "/v1/video/seedance-2",
        pattern=r"^/[A-Za-z0-9._~/-]+$",
        description="The path of the submit call, after the base URL.",
    )
    shortest: int = Field(4, ge=1, description="The shortest duration, in seconds.")
    longest: int = Field(15, ge=1, le=LONGEST, description="The longest duration, in seconds.")
    ratios: tuple[str, ...] = Field(get_args(Ratio), min_length=1, description="The ratios, such as 16:9.")
    modes: tuple[FunctionMode, ...] = Field(get_args(FunctionMode), min_length=1, description="The function modes.")
    most_images: int = Field(9, ge=0, description="The most images.")
    most_audios: int = Field(3, ge=0, description="The most audios.")
    most_videos: int = Field(3, ge=0, description="The most reference videos.")
    longest_prompt: int | None = Field(None, ge=1, description="The longest prompt, in characters. None: no limit.")
    credits_per_second: float | None = Field(
        None, gt=0, description="The price of a second of video, in credits. None: unknown."
    )
    credits_per_second_with_video: float | None = Field(
        None, gt=0, description="The price of a second if the request has a reference video. None: unknown."
    )
    max_credits: float | None = Field(
        None,
        gt=0,
        description="The most that one video may cost, in credits. It counts as the price where the price is unknown.",
    )

    @field_validator("ratios")
    @classmethod
    def _are_ratios(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for ratio in value:
            if not re.fullmatch(RATIO, ratio):
                raise ValueError(f"{ratio!r} was given: must be width:height, such as 16:9")
        return value

    @model_validator(mode="after")
    def _has_a_duration(self) -> VideoModel:
        if self.shortest > self.longest:
            raise ValueError(f"shortest: {self.shortest} was given: must be at most longest, {self.longest}")
        return self

    @property
    def most_media(self) -> dict[str, int]:
        """The most media in each field of a request."""
        return {"image_urls": self.most_images, "audio_urls": self.most_audios, "video_urls": self.most_videos}

    def price(self, seconds: int, *, with_video: bool) -> float | None:
        """Return the price of a video, in credits. If it is unknown, return `max_credits`, which may be None."""
        per_second = self.credits_per_second_with_video if with_video else self.credits_per_second
        return self.max_credits if per_second is None else seconds * per_second


Models = Mapping[str, VideoModel]
"""Models by name."""

_BUILT_IN = (
    VideoModel(name="seedance_2_0", credits_per_second=15, credits_per_second_with_video=30),
    VideoModel(name="seedance_2_0_fast", credits_per_second=10, credits_per_second_with_video=20),
)

MODELS: Models = MappingProxyType({model.name: model for model in _BUILT_IN})
"""The models that Loova documents, with its rules and prices at the time of this release."""


def models_with(own: Iterable[VideoModel]) -> Models:
    """Return the table with a user's own models. An own model replaces a built-in one of the same name."""
    return MappingProxyType({**MODELS, **{model.name: model for model in own}})


USD_PER_CREDIT = (0.032, 0.080)
"""The price of one credit in US dollars, in the largest and in the smallest pack (pricing-and-limits)."""


def format_credits(credits: float) -> str:
    """Return an amount of credits with its price range in US dollars (pricing-and-limits)."""
    low, high = (credits * rate for rate in USD_PER_CREDIT)
    return f"{credits:,.10g} credits (${low:,.2f} to ${high:,.2f})"


def cost_difference(estimate: float | None, cost: float | None) -> float:
    """Return by how many credits Loova's charge exceeds the price from the table; negative if it is less.

    It is 0 if one of the two is not known, or if `cost` cannot be a charge.
    """
    if estimate is None or cost is None or not math.isfinite(cost) or cost < 0 or math.isclose(cost, estimate):
        return 0.0
    return cost - estimate


def format_difference(difference: float) -> str:
    """Return a difference of `cost_difference` as text, or an empty string if there is none."""
    if not difference:
        return ""
    return f"Loova charged {abs(difference):,.10g} credits {'more' if difference > 0 else 'less'} than the estimate"
