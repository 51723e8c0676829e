"""The names of published videos, from a template such as `{label}/{slug}-{ratio}.mp4`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC
from string import Formatter

from prefect_loova.errors import InvalidRequestError, counted, first_lines, redact
from prefect_loova.models.results import SavedVideo, slug_of
from prefect_loova.store.prefix import path_problem

NAME = "{label}/{slug}-{ratio}.mp4"
"""The default template."""

FIELDS = ("label", "slug", "ratio", "duration", "model", "take", "key", "day")
"""The fields of a template. `key` has the first 8 digits of the request's key, `day` is when the video was saved."""

_MAX_SEGMENT_BYTES = 255  # of a file name, as a published folder may be downloaded
_MAX_BYTES = 1024  # of an S3 key


def published_names(videos: Sequence[SavedVideo], template: str = NAME, prefix: str = "") -> list[str]:
    """Return a different name for each video.

    In a value, everything but letters, digits, `.` and `_` becomes `-`. Then, in each segment of the name, several `-`
    become one, and `-` and `.` at both ends are removed. An empty segment is left out.

    Args:
        videos: The videos.
        template: The template. It ends with `.mp4`.
        prefix: The S3 key prefix of the names, which counts for the length.

    Raises:
        InvalidRequestError: The template breaks a rule, a name is empty or too long, or several videos would get the
            same name. The error lists all of them.
    """
    parts = _parse(template)
    names = [_name(parts, video) for video in videos]
    problems = [*_bad_names(videos, names, prefix), *_collisions(videos, names)]
    if problems:
        count = counted(len(problems), "problem")
        head = f"name: {redact(repr(template), 200)} gives {count}; nothing was copied"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    return names


def check_template(template: str) -> None:
    """Raise if a template breaks a rule.

    Raises:
        InvalidRequestError: Names the rule.
    """
    _parse(template)


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template: a text, and the field after it."""
    problem, parts = "", list[tuple[str, str | None]]()
    try:
        for text, field, form, conversion in Formatter().parse(template):
            if field is not None and field not in FIELDS:
                problem = problem or f"{redact(repr(field), 80)} is no field"
            if form or conversion:
                problem = problem or f"{redact(repr(field), 80)} must stand alone in its braces"
            parts.append((text, field))
    except ValueError as error:
        problem = f"its braces do not match ({error})"
    if problem:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise InvalidRequestError(f"name: {redact(repr(template), 200)} was given: {problem}; fields are {known}")
    skeleton = "".join(f"{text}{field or ''}" for text, field in parts)
    rule = path_problem(skeleton, _MAX_BYTES)
    if rule is None and not (skeleton.endswith(".mp4") and template.endswith(".mp4")):
        rule = "must end with .mp4"
    if rule:
        raise InvalidRequestError(f"name: {redact(repr(template), 200)} was given: {rule}")
    return parts


def _name(parts: list[tuple[str, str | None]], video: SavedVideo) -> str:
    """Return the name of a video; only `.mp4` if all its fields are empty."""
    values = dict(_values(video))
    whole = "".join(text + (_cleaned(values[field]) if field else "") for text, field in parts)
    *folders, file = (re.sub("-{2,}", "-", segment) for segment in whole.removesuffix(".mp4").split("/"))
    return "/".join([*filter(None, (folder.strip("-.") for folder in folders)), f"{file.strip('-.')}.mp4"])


def _values(video: SavedVideo) -> Iterator[tuple[str, str]]:
    request = video.request
    yield "label", video.label
    yield "slug", slug_of(str(request.get("prompt", "")))
    yield "ratio", str(request.get("ratio", "")).replace(":", "x")
    yield "duration", str(request.get("duration", ""))
    yield "model", str(request.get("model", ""))
    yield "take", str(request.get("take", 0))
    yield "key", video.key[:8]
    saved = video.times.get("saved")
    yield "day", f"{saved.astimezone(UTC):%Y-%m-%d}" if saved else ""


def _cleaned(value: str) -> str:
    """Return a value for a name. Marks stay, because in some scripts they are a part of the letters."""
    text = unicodedata.normalize("NFC", value)
    return "".join(one if one in "._" or unicodedata.category(one)[0] in "LMN" else "-" for one in text)


def _bad_names(videos: Sequence[SavedVideo], names: Sequence[str], prefix: str) -> Iterator[str]:
    for video, name in zip(videos, names, strict=True):
        shown = f"{redact(name, 80)} (key {video.key[:8]}, {video.name})"
        if name.endswith("/.mp4") or name == ".mp4":
            yield f"{shown}: the file has no name, because its fields are empty"
        elif any(len(segment.encode()) > _MAX_SEGMENT_BYTES for segment in name.split("/")):
            yield f"{shown}: a segment has over {_MAX_SEGMENT_BYTES} bytes"
        elif rule := path_problem(f"{prefix}/{name}".lstrip("/"), _MAX_BYTES):
            yield f"{shown}: its key {rule}"


def _collisions(videos: Sequence[SavedVideo], names: Sequence[str]) -> Iterator[str]:
    """Yield the names of several videos. Upper and lower case count as the same, as on most desktops."""
    same = defaultdict[str, list[int]](list)
    for number, name in enumerate(names):
        same[name.casefold()].append(number)
    for numbers in same.values():
        if len(numbers) > 1:
            keys = ", ".join(
                f"{videos[number].key[:8]} (take {videos[number].request.get('take', 0)})" for number in numbers
            )
            yield f"{redact(names[numbers[0]], 200)} would be {len(numbers)} videos, {keys}: add {{take}} or {{key}}"
