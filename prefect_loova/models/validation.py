"""The rules of a request that look at several fields, and how a violation is worded: field, value and rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from prefect_loova.errors import redact
from prefect_loova.models.media import KINDS, shown_media

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def violation(loc: tuple[int | str, ...], rule: str, value: Any) -> InitErrorDetails:
    """What is wrong with one field, for pydantic: the value that was given, made fit to be shown, and the rule."""
    if rule == "Field required":
        return InitErrorDetails(type=PydanticCustomError("video_request", "is missing"), loc=loc, input=None)
    if loc and loc[0] in KINDS and isinstance(value, str):
        value = shown_media(value)
    seen = redact(repr(value), 120)
    rule = redact(rule, 300)
    return InitErrorDetails(
        type=PydanticCustomError("video_request", "{value} was given: {rule}", {"value": seen, "rule": rule}),
        loc=loc,
        input=seen,
    )


def control_problem(text: str) -> str | None:
    """What is wrong with the characters of a text that is paid for, or None.

    Unicode's control characters (category Cc) are refused, but for tab, line feed and carriage return. All else is text
    of some language: joiners, marks of direction, and the separators U+2028 and U+2029 too.
    """
    found = _CONTROL.search(text)
    if found is None:
        return None
    return (
        f"must be text without control characters, but for tabs and new lines: U+{ord(found[0]):04X} is at character "
        f"{found.start() + 1:,}"
    )


def cross_field_problems(data: dict[str, Any], *, was_stored: bool = False) -> list[InitErrorDetails]:
    """The rules that look at several fields, applied to raw input, so that they join the other violations.

    Args:
        data: The fields as they were given.
        was_stored: Whether an earlier version took this request already: rules that came later are not asked then.
    """

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
    for loc, text in [] if was_stored else _texts(data):
        if problem := control_problem(text):
            problems.append(violation(loc, problem, text))
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


def _texts(data: dict[str, Any]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    for field in ("prompt", *KINDS):
        value = data.get(field)
        if isinstance(value, str):
            yield (field,), value
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            yield from (((field, number), text) for number, text in enumerate(value) if isinstance(text, str))
