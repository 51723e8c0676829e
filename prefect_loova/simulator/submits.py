"""Reads what a client posts and validates it like the reference, on its own: it does not use the package's models.

Where the reference is silent the simulator chooses, and says so here: unknown fields are ignored, as a service would;
a JSON value is never converted ("5" is no integer, 5.0 neither, null is no list); `first_last_frames` takes 1 or 2
images and nothing else; a mode given under both spellings must agree; a file of 0 bytes is refused.

Media are looked at once the task is billed. Their URLs are fetched (at most 3 redirects, 10 s and 64 MiB each); the
first bytes must be those of a jpeg, png, webp, gif, bmp or tiff, of an mp4 or mov, of an mp3 or wav. The task runs
until they are there, whatever the clock says; what cannot be fetched or read ends it as failed, and it stays billed.
Hosts that are reserved for examples (example.com, .net and .org, names under .example, .test and .invalid) are not
asked: their media count as fetched, and show nothing. The video begins with the first image and, in
`first_last_frames`, ends with the second; in `omni_reference` every image, then the first frame of every video, has
a part of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from prefect_loova.models.prices import CREDITS_PER_SECOND
from prefect_loova.simulator.media import MAX_BYTES

LISTS = {"image_urls": 9, "audio_urls": 3, "video_urls": 3}
CHOICES = {
    "model": ("seedance_2_0", "seedance_2_0_fast"),
    "function_mode": ("first_last_frames", "omni_reference"),
    "ratio": ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16"),
}
DEFAULTS = {"model": "seedance_2_0", "function_mode": "omni_reference", "ratio": "16:9", "duration": 5}


class Refusal(Exception):
    """The simulator says no: an HTTP status, which is also the envelope's code, and a message.

    The codes are the simulator's own choice, as Loova documents none but 401: 400 for invalid input, 402 for too few
    credits, 404 for an unknown task, 415 for a body that is neither JSON nor a form, 429 for too many running tasks.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Upload:
    """A file that came with a form."""

    name: str
    media_type: str
    size: int
    sha256: str
    content: bytes = field(default=b"", repr=False, compare=False)
    """Its bytes, unless they are more than any medium may have."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it was, without its bytes."""
        return {"name": self.name, "media_type": self.media_type, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Submit:
    """A valid request for a video."""

    prompt: str
    model: str
    function_mode: str
    ratio: str
    duration: int
    media: dict[str, list[str]]
    files: list[Upload] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        """The request as the JSON body that says the same, with its files, if any."""
        names = ("prompt", "model", "function_mode", "ratio", "duration")
        files = {"files": [upload.facts for upload in self.files]} if self.files else {}
        return {name: getattr(self, name) for name in names} | self.media | files

    @property
    def credits_cost(self) -> float:
        """The price by the table, in credits."""
        with_video = bool(self.media["video_urls"]) or any(file.media_type.startswith("video/") for file in self.files)
        return float(self.duration * CREDITS_PER_SECOND[self.model, with_video])  # type: ignore[index]


async def read_fields(request: Request) -> dict[str, Any]:
    """The fields of a JSON body or of a form, as they came; a form's files are `Upload`s under `files`.

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
        raise Refusal(400, f"body: {_seen(fields)} was given: must be a JSON object")
    return fields


async def _form_fields(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        async with request.form() as form:
            for name, value in form.multi_items():
                part = value if isinstance(value, str) else await _upload(name, value)
                if name in LISTS or name == "files":
                    fields.setdefault(name, []).append(part)
                else:
                    fields[name] = part
    except HTTPException as error:
        raise Refusal(400, f"body: must be a multipart form ({error.detail})") from None
    # A form has only strings.
    duration = fields.get("duration")
    if isinstance(duration, str) and re.fullmatch(r"-?[0-9]{1,9}", duration):
        fields["duration"] = int(duration)
    return fields


async def _upload(part: str, file: UploadFile) -> Upload:
    if part != "files":
        raise Refusal(400, f"{part}: the file {_seen(file.filename)} was given: files go into parts named files")
    digest, size, content = hashlib.sha256(), 0, bytearray()
    while chunk := await file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        if size <= MAX_BYTES:
            content += chunk
    kept = bytes(content) if size <= MAX_BYTES else b""
    return Upload(file.filename or "", file.content_type or "", size, digest.hexdigest(), kept)


def validated(fields: dict[str, Any]) -> Submit:
    """The order that these fields make, with the documented defaults.

    Raises:
        Refusal: 400, with all that is wrong: field, value and rule of each.
    """
    problems: list[str] = []

    def refuse(name: str, value: object, rule: str) -> None:
        problems.append(f"{name}: {_seen(value)} was given: {rule}")

    given = dict(fields)
    if "functionMode" in given:
        spelled = given.pop("functionMode")
        if given.setdefault("function_mode", spelled) != spelled:
            refuse("functionMode", spelled, "must agree with function_mode")
    prompt = given.get("prompt")
    if "prompt" not in given:
        problems.append("prompt: is missing: must be a string that is not blank")
    elif not isinstance(prompt, str) or not prompt.strip():
        refuse("prompt", prompt, "must be a string that is not blank")
    for name, choices in CHOICES.items():
        if given.setdefault(name, DEFAULTS[name]) not in choices:
            refuse(name, given[name], f"must be one of {', '.join(choices)}")
    duration = given.setdefault("duration", DEFAULTS["duration"])
    if type(duration) is not int or not 4 <= duration <= 15:
        refuse("duration", duration, "must be an integer from 4 to 15 (seconds)")
    media = {name: _urls(name, given.get(name, []), refuse) for name in LISTS}
    files = _files(given.get("files", []), refuse)
    _check_media(str(given["function_mode"]), media, files, refuse)
    if problems:
        raise Refusal(400, "; ".join(problems))
    return Submit(given["prompt"], given["model"], given["function_mode"], given["ratio"], duration, media, files)


_Refuse = Callable[[str, object, str], None]


def _urls(name: str, value: object, refuse: _Refuse) -> list[str]:
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


def _files(value: object, refuse: _Refuse) -> list[Upload]:
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
    kinds = {name: name.removesuffix("_urls") for name in LISTS}
    counts = {
        name: len(media[name]) + sum(file.media_type.startswith(f"{kinds[name]}/") for file in files) for name in LISTS
    }
    for name, most in LISTS.items():
        if counts[name] > most:
            refuse(name, f"{counts[name]} {kinds[name]}s", f"at most {most} are allowed")
    images, audios, videos = counts["image_urls"], counts["audio_urls"], counts["video_urls"]
    if mode == "first_last_frames":
        if not 1 <= images <= 2:
            refuse("image_urls", f"{images} images", "first_last_frames takes 1 or 2 images")
        for name, count in (("audio_urls", audios), ("video_urls", videos)):
            if count:
                refuse(name, f"{count} {kinds[name]}s", "first_last_frames takes images only")
    elif audios and not images and not videos:
        refuse("audio_urls", f"{audios} audios alone", "omni_reference needs at least one image or video beside audio")


def _seen(value: object) -> str:
    # What came as \ud800 is no character: nothing could encode it.
    text = json.dumps(value, ensure_ascii=False, default=repr).encode(errors="backslashreplace").decode()
    return text if len(text) <= 120 else text[:119] + "…"
