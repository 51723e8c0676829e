"""The rules of a request that look at several fields, and how a violation is worded: field, value and rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from prefect_loova.errors import shown
from prefect_loova.media import KINDS, shown_media


def violation(loc: tuple[int | str, ...], rule: str, value: Any) -> InitErrorDetails:
    """What is wrong with one field, for pydantic: the value that was given, made fit to be shown, and the rule."""
    if rule == "Field required":
        return InitErrorDetails(type=PydanticCustomError("video_request", "is missing"), loc=loc, input=None)
    if loc and loc[0] in KINDS and isinstance(value, str):
        value = shown_media(value)
    seen = shown(repr(value), 120)
    rule = shown(rule, 300)
    return InitErrorDetails(
        type=PydanticCustomError("video_request", "{value} was given: {rule}", {"value": seen, "rule": rule}),
        loc=loc,
        input=seen,
    )


def cross_field_problems(data: dict[str, Any]) -> list[InitErrorDetails]:
    """The rules that look at several fields, applied to raw input, so that they join the other violations."""

    def given(field: str) -> int:
        value = data.get(field, ())
        return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else 0

    prompt, mode = data.get("prompt"), data.get("function_mode", "omni_reference")
    images, audios, videos = given("image_urls"), given("audio_urls"), given("video_urls")
    problems = []
    if isinstance(prompt, str) and not prompt.strip():
        problems.append(violation(("prompt",), "must not be blank", prompt))
    if isinstance(prompt, str) and any("\ud800" <= character <= "\udfff" for character in prompt):
        problems.append(violation(("prompt",), "must be text without lone surrogates", prompt))
    for field, count, most in (("image_urls", images, 9), ("audio_urls", audios, 3), ("video_urls", videos, 3)):
        if count > most:
            problems.append(violation((field,), f"at most {most} are allowed", f"{count} {KINDS[field]}s"))
    if mode == "first_last_frames":
        if not 1 <= images <= 2 and images <= 9:
            rule = "first_last_frames takes 1 image (the first frame) or 2 (the first and the last)"
            problems.append(violation(("image_urls",), rule, f"{images} images"))
        for field, count in (("audio_urls", audios), ("video_urls", videos)):
            if count:
                problems.append(violation((field,), "first_last_frames takes images only", f"{count} {KINDS[field]}s"))
    elif audios and not images and not videos:
        rule = "audio alone is refused: omni_reference needs at least one image or video beside it"
        problems.append(violation(("audio_urls",), rule, f"{audios} audios, 0 images, 0 videos"))
    return problems
