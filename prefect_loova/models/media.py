"""What a request's media may be, as text: a URL, an object in S3, a local file, or a frame of a video in one of these.

```
https://cdn.example.com/cat.png        a URL, which Loova loads itself
s3://my-bucket/cat.png                 an object in S3
cat.png                                a local file
s3://my-bucket/walk.mp4#last-frame     the last (or #first-frame) of a video's frames, as an image
s3://my-bucket/cat.png#etag=9b2c...    an object whose content is known: it is *pinned*
```

The content decides a request's key, not the place. So S3 objects and local files are pinned before there is a key: by
the SHA-256 of their bytes, or, for objects of others, by place and ETag. See `preparing` for how, and
docs/decisions/0009-media.md for why.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from prefect_loova._url_signatures import without_signature, without_signature_before
from prefect_loova._urls import url_problem, without_secrets
from prefect_loova.errors import redact

Frame = Literal["first", "last"]
"""Which frame of a video."""

Kind = Literal["image", "video", "audio"]
"""What a medium is."""

KINDS: dict[str, Kind] = {"image_urls": "image", "audio_urls": "audio", "video_urls": "video"}
"""The request's fields that hold media, and what they hold."""

_MARK = re.compile(r"#(first|last)-frame$")
_PIN = re.compile(r"#(sha256=[0-9a-f]{64}|frame=[0-9a-f]{64}|etag=[\w.+/=-]{1,200})$")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: `C:\cat.png` is a path
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_URL_WITHOUT_SCHEME = re.compile(r"//|[\w-]+(\.[\w-]+)+(:\d+)?/[^?]*\?.*=|[^/]*:[^/]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_REFERENCE = re.compile(r"(?<![\w@.])@(image|video|audio)\s?(\d{1,4})(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Medium:
    """One medium of a request, read from its text.

    Attributes:
        source: Where it is: on the `web`, in `s3`, or on `disk`.
        location: The URL, the s3:// URI or the path, without what follows.
        digest: What is known of the content: `sha256=...`, `etag=...`, or `frame=...`; empty where nothing is.
        frame: The frame that is meant, where the place holds a video and not the image itself.
    """

    source: Literal["web", "s3", "disk"]
    location: str
    digest: str = ""
    frame: Frame | None = None

    @classmethod
    def read(cls, text: str) -> Medium:
        """The medium that a text names.

        Raises:
            ValueError: Says the rule that it breaks.
        """
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() in ("http", "https"):
            if problem := url_problem(text):
                raise ValueError(problem)
            if _MARK.search(text):
                raise ValueError("must be an s3:// URI or a local file, where a frame of it is meant")
            return cls("web", text)
        if _CONTROL.search(text):
            raise ValueError("must be text without control characters")
        if scheme and scheme[1].lower() != "s3":
            raise ValueError("must be an https:// or http:// URL, an s3:// URI, or a local file")
        if not text.strip():
            raise ValueError("must be an https:// or http:// URL, an s3:// URI, or a local file, and not blank")
        if not scheme and _URL_WITHOUT_SCHEME.match(text):
            raise ValueError("must begin with https:// or http://, where a URL is meant")
        location, mark = _cut(text, _MARK)
        frame = cast("Frame", mark) if mark else None
        if not scheme:
            return cls("disk", location, frame=frame)
        location, digest = _cut(location, _PIN)
        bucket, _, key = location[5:].partition("/")
        if not (location.startswith("s3://") and _BUCKET.fullmatch(bucket) and key):
            raise ValueError("must be s3://BUCKET/KEY")
        return cls("s3", location, digest, frame)

    @property
    def identity(self) -> str | None:
        """What decides the video: the content, as far as it is known; None where it has to be looked at first."""
        if self.source == "web":
            return without_signature(self.location)
        if self.frame or not self.digest:
            return None
        return self._content

    @property
    def identity_before(self) -> str | None:
        """The identity that decided the first keys: it holds signatures that `identity` leaves out."""
        return without_signature_before(self.location) if self.source == "web" else self.identity

    @property
    def frame_id(self) -> str:
        """The identity of the frame of a pinned video, as 64 hex digits."""
        return hashlib.sha256(f"{self.frame} frame of {self._content}".encode()).hexdigest()

    @property
    def bucket_and_key(self) -> tuple[str, str]:
        """Where an S3 object is."""
        bucket, _, key = self.location.removeprefix("s3://").partition("/")
        return bucket, key

    @property
    def etag(self) -> str | None:
        """The ETag that the object must have, with its quotes, where it is pinned by one."""
        return f'"{self.digest.removeprefix("etag=")}"' if self.digest.startswith("etag=") else None

    def pinned(self, digest: str, location: str | None = None) -> Medium:
        """The same medium with its content known, perhaps at another place."""
        return replace(self, source="s3", digest=digest, location=location or self.location)

    def __str__(self) -> str:
        """The text that it is read from."""
        digest, mark = self.digest and f"#{self.digest}", self.frame and f"#{self.frame}-frame"
        return f"{self.location}{digest}{mark or ''}"

    @property
    def _content(self) -> str:
        name, _, value = self.digest.partition("=")
        return f"{self.location}#etag={value}" if name == "etag" else f"{name}:{value}"


def _cut(text: str, end: re.Pattern[str]) -> tuple[str, str]:
    found = end.search(text)
    return (text[: found.start()], found[1]) if found else (text, "")


def media_problem(text: str, kind: Kind) -> str | None:
    """What is wrong with the text of a medium, or None."""
    try:
        medium = Medium.read(text)
    except ValueError as error:
        return str(error)
    if medium.frame and kind != "image":
        return f"a frame is an image, not {'an' if kind == 'audio' else 'a'} {kind}"
    return None


def shown_media(text: str) -> str:
    """What may be shown of a medium: a URL without its query (its signature leaves no trace), others as they are."""
    try:
        medium = Medium.read(text)
    except ValueError:
        return without_secrets(text)
    return without_secrets(without_signature(text)) if medium.source == "web" else text


def refused(field: str, number: int, text: str, why: object) -> str:
    """A line of an error about a medium, by its field."""
    return f"{field}.{number}: {redact(repr(shown_media(text)), 200)} was given: {why}"


def unknown_references(prompt: str, counts: dict[Kind, int]) -> list[str]:
    """The `@` references of a prompt that name no medium of the request, such as `@image3` where there are two.

    Media are counted from 1, each kind by itself, in the order given (create-seedance-2-video-task says that prompts
    may refer to media with `@`; the syntax is not documented in full, so this is for a warning, never a refusal).
    """
    found = ((match[0], cast("Kind", match[1].lower()), int(match[2])) for match in _REFERENCE.finditer(prompt))
    return list(dict.fromkeys(text for text, kind, number in found if not 1 <= number <= counts.get(kind, 0)))
