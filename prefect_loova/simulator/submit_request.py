"""Reads the body of a submit and validates it by the rules of `rules`, not by the package's models.

Loova's pages leave some cases open. The simulator decides them as follows:

- It ignores unknown fields, as a service would.
- It never converts a JSON value: "5" and 5.0 are not integers, null is not a list.
- `first_last_frames` takes 1 or 2 images and nothing else.
- A mode that is given under both spellings must be the same.
- It refuses a file of 0 bytes.

The simulator checks reference media after it bills the task. It fetches each URL (at most 3 redirects, 10 s, 64 MiB).
The first bytes must be those of a jpeg, png, webp, gif, bmp or tiff image, of an mp4 or mov video, or of mp3 or wav
audio. The task runs until all media are fetched, whatever the clock says. It fails if a medium cannot be fetched or
read, and stays billed. The simulator sends no request to hosts reserved for examples (example.com, .net and .org, names
under .example, .test and .invalid): their media count as fetched, and the video does not show them.

The video begins with the first image. In `first_last_frames` it ends with the second. In `omni_reference` each image
gets a part of the video, and so does the first frame of each reference video.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from prefect_loova.simulator.media import MAX_BYTES
from prefect_loova.simulator.rules import (
    CHOICES,
    CREDITS_PER_SECOND,
    DEFAULTS,
    DURATIONS,
    FRAMES,
    MAX_MEDIA,
    ExtraModel,
)


class Refusal(Exception):
    """The simulator refuses a request. The HTTP status is also the code of the envelope.

    Loova documents only 401. The simulator chose the others: 400 for invalid input, 402 for too few credits, 404 for an
    unknown task, 415 for a body that is neither JSON nor a form, 429 for too many running tasks.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Upload:
    """A file in a multipart form."""

    name: str
    media_type: str
    size: int
    sha256: str
    content: bytes = field(default=b"", repr=False, compare=False)
    """The bytes of the file; empty if the file is larger than `MAX_BYTES`."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Return everything but the content."""
        return {"name": self.name, "media_type": self.media_type, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class SubmitRequest:
    """A valid request for a video."""

    prompt: str
    model: str
    function_mode: str
    ratio: str
    duration: int
    media: dict[str, list[str]]
    files: list[Upload] = field(default_factory=list)
    extra_model: ExtraModel | None = None

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON body of this request, with the metadata of its files, if any."""
        names = ("prompt", "model", "function_mode", "ratio", "duration")
        files = {"files": [upload.metadata for upload in self.files]} if self.files else {}
        return {name: getattr(self, name) for name in names} | self.media | files

    @property
    def credits_cost(self) -> float:
        """Return the price, in credits."""
        if self.extra_model:
            return float(self.duration * self.extra_model.credits_per_second)
        with_video = bool(self.media["video_urls"]) or any(file.media_type.startswith("video/") for file in self.files)
        return float(self.duration * CREDITS_PER_SECOND[self.model, with_video])


async def read_fields(request: Request) -> dict[str, Any]:
    """Return the fields of a JSON body or a form, not validated. `files` holds the files of a form as `Upload`s.

    Raises:
        Refusal: The body is not a JSON object, or neither JSON nor a form.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _form_fields(request)
    if media_type != "application/json":
        raise Refusal(415, f"Content-Type: {media_type} was given: must be application/json or multipart/form-data")
    try:
        fields = json.loads(await request.body())
    except ValueError as error:
        raise Refusal(400, f"body: must be JSON ({error})") from None
    if not isinstance(fields, dict):
        raise Refusal(400, f"body: {_quote(fields)} was given: must be a JSON object")
    return fields


async def _form_fields(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form() as form:
            for name, value in form.multi_items():
                part = value if isinstance(value, str) else await _read_upload(name, value)
                if name in MAX_MEDIA or name == "files":
                    fields.setdefault(name, []).append(part)
                else:
                    fields[name] = part
    except HTTPException as error:
        raise Refusal(400, f"body: must be a multipart form ({error.detail})") from None
    # All values of a form are strings.
    duration = fields.get("duration")
    if isinstance(duration, str) and re.fullmatch(r"-?[0-9]{1,9}", duration):
        fields["duration"] = int(duration)
    return fields


async def _read_upload(part: str, file: UploadFile) -> Upload:
    if part != "files":
        raise Refusal(400, f"{part}: the file {_quote(file.filename)} was given: files go into parts named files")
    digest, size, content = hashlib.sha256(), 0, bytearray()
    while chunk := await file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        if size <= MAX_BYTES:
            content += chunk
    if size > MAX_BYTES:
        content.clear()
    return Upload(file.filename or "", file.content_type or "", size, digest.hexdigest(), bytes(content))


def validate(fields: dict[str, Any], extra_models: Mapping[str, ExtraModel] = {}) -> SubmitRequest:
    """Validate the fields of a submit and fill in the documented defaults.

    Args:
        fields: The fields of the body.
        extra_models: Models beside Loova's, by name.

    Raises:
        Refusal: 400. The message names the field, the value and the rule of every violation.
    """
    problems: list[str] = []

    def refuse(name: str, value: object, rule: str) -> None:
        problems.append(f"{name}: {_quote(value)} was given: {rule}")

    given = dict(fields)
    if "functionMode" in given:
        mode = given.pop("functionMode")
        if given.setdefault("function_mode", mode) != mode:
            refuse("functionMode", mode, "must agree with function_mode")
    prompt = given.get("prompt")
    if "prompt" not in given:
        problems.append("prompt: is missing: must be a string that is not blank")
    elif not isinstance(prompt, str) or not prompt.strip():
        refuse("prompt", prompt, "must be a string that is not blank")
    for name, choices in (CHOICES | {"model": (*CHOICES["model"], *extra_models)}).items():
        if given.setdefault(name, DEFAULTS[name]) not in choices:
            refuse(name, given[name], f"must be one of {', '.join(choices)}")
    duration = given.setdefault("duration", DEFAULTS["duration"])
    extra_model = extra_models.get(str(given["model"]))
    durations = extra_model.durations if extra_model else DURATIONS
    if type(duration) is not int or duration not in durations:
        rule = f"must be an integer from {durations[0]} to {durations[-1]} (seconds)"
        refuse("duration", duration, rule)
    media = {name: _check_urls(name, given.get(name, []), refuse) for name in MAX_MEDIA}
    files = _check_files(given.get("files", []), refuse)
    _check_media(str(given["function_mode"]), media, files, refuse)
    if problems:
        raise Refusal(400, "; ".join(problems))
    return SubmitRequest(
        given["prompt"], given["model"], given["function_mode"], given["ratio"], duration, media, files, extra_model
    )


_Refuse = Callable[[str, object, str], None]


def _check_urls(name: str, value: object, refuse: _Refuse) -> list[str]:
    if not isinstance(value, list):
        refuse(name, value, "must be a list of URLs")
        return []
    for url in value:
        if not isinstance(url, str) or not _is_url(url):
            refuse(name, url, "must be an http:// or https:// URL")
    return value


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", text)


def _check_files(value: object, refuse: _Refuse) -> list[Upload]:
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if not isinstance(part, Upload):
            refuse("files", part, "must be a part of a multipart form, with a file name and a media type")
        elif part.media_type.partition("/")[0] not in ("image", "video", "audio"):
            refuse("files", f"{part.name} ({part.media_type})", "must be image/*, video/* or audio/*")
        elif not part.size:
            refuse("files", part.name, "must not be empty")
    return [part for part in parts if isinstance(part, Upload)]


def _check_media(mode: str, media: dict[str, list[str]], files: list[Upload], refuse: _Refuse) -> None:
    kinds = {name: name.removesuffix("_urls") for name in MAX_MEDIA}
    counts = {
        name: len(media[name]) + sum(file.media_type.startswith(f"{kind}/") for file in files)
        for name, kind in kinds.items()
    }
    for name, most in MAX_MEDIA.items():
        if counts[name] > most:
            refuse(name, f"{counts[name]} {kinds[name]}s", f"at most {most} are allowed")
    images, audios, videos = counts["image_urls"], counts["audio_urls"], counts["video_urls"]
    if mode == "first_last_frames":
        if images not in FRAMES:
            refuse("image_urls", f"{images} images", "first_last_frames takes 1 or 2 images")
        for name, count in (("audio_urls", audios), ("video_urls", videos)):
            if count:
                refuse(name, f"{count} {kinds[name]}s", "first_last_frames takes images only")
    elif audios and not images and not videos:
        refuse("audio_urls", f"{audios} audios alone", "omni_reference needs at least one image or video beside audio")


def _quote(value: object) -> str:
    # A lone surrogate (JSON "\ud800") cannot be encoded.
    text = json.dumps(value, ensure_ascii=False, default=repr).encode(errors="backslashreplace").decode()
    return text if len(text) <= 120 else text[:119] + "…"
