"""The media of a request, as text: a URL, an object in S3, a local file, or a frame of a video in S3 or in a file.

```
https://cdn.example.com/cat.png        a URL, which Loova downloads
s3://my-bucket/cat.png                 an object in S3
cat.png                                a local file
s3://my-bucket/walk.mp4#last-frame     the last (or #first-frame) of a video's frames, as an image
s3://my-bucket/cat.png#etag=9b2c...    an object with known content: it is *pinned*
```

A request's key depends on the content of its media, not on their location. S3 objects and local files are therefore
pinned before the key is computed: by the SHA-256 of their bytes, or by URI and ETag. `jobs.media_identity` does this.
docs/decisions/0009-media.md has the reasons.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from prefect_loova._url_signatures import without_former_signature, without_signature
from prefect_loova._urls import url_problem, without_secrets
from prefect_loova.errors import redact

Frame = Literal["first", "last"]
"""A frame of a video."""

Kind = Literal["image", "video", "audio"]
"""The kind of a medium."""

KINDS: dict[str, Kind] = {"image_urls": "image", "audio_urls": "audio", "video_urls": "video"}
"""The request's fields with media, and the kind of each."""

_MARK = re.compile(r"#(first|last)-frame$")
_PIN = re.compile(r"#(sha256=[0-9a-f]{64}|frame=[0-9a-f]{64}|etag=[\w.+/=-]{1,200})$")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # at least two letters, because `C:\cat.png` is a path
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_URL_WITHOUT_SCHEME = re.compile(r"//|[\w-]+(\.[\w-]+)+(:\d+)?/[^?]*\?.*=|[^/]*:[^/]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_REFERENCE = re.compile(r"(?<![\w@.])@(image|video|audio)\s?(\d{1,4})(?!\w)", re.IGNORECASE)


class MediaError(ValueError):
    """A medium that a request cannot use. The message is the reason, without the field and the medium."""


@dataclass(frozen=True)
class Medium:
    """One medium of a request, parsed from its text.

    Attributes:
        source: Where the medium is: on the `web`, in `s3`, or on `disk`.
        location: The URL, the s3:// URI or the path, without digest and frame.
        digest: The known identity of the content: `sha256=...`, `etag=...` or `frame=...`; empty if it is not known.
        frame: The frame to take, if the location is a video and the medium is an image.
    """

    source: Literal["web", "s3", "disk"]
    location: str
    digest: str = ""
    frame: Frame | None = None

    @classmethod
    def parse(cls, text: str) -> Medium:
        """Parse a medium.

        Raises:
            MediaError: The text breaks a rule.
        """
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() in ("http", "https"):
            if problem := url_problem(text):
                raise MediaError(problem)
            if _MARK.search(text):
                raise MediaError("must be an s3:// URI or a local file, where a frame of it is meant")
            return cls("web", text)
        if _CONTROL.search(text):
            raise MediaError("must be text without control characters")
        if scheme and scheme[1].lower() != "s3":
            raise MediaError("must be an https:// or http:// URL, an s3:// URI, or a local file")
        if not text.strip():
            raise MediaError("must be an https:// or http:// URL, an s3:// URI, or a local file, and not blank")
        if not scheme and _URL_WITHOUT_SCHEME.match(text):
            raise MediaError("must begin with https:// or http://, where a URL is meant")
        location, mark = _split_suffix(text, _MARK)
        frame = cast("Frame", mark) if mark else None
        if not scheme:
            return cls("disk", location, frame=frame)
        location, digest = _split_suffix(location, _PIN)
        bucket, _, key = location[5:].partition("/")
        if not (location.startswith("s3://") and _BUCKET.fullmatch(bucket) and key):
            raise MediaError("must be s3://BUCKET/KEY")
        return cls("s3", location, digest, frame)

    @property
    def identity(self) -> str | None:
        """The part of the request's key, or None if the content is not known yet."""
        if self.source == "web":
            return without_signature(self.location)
        if self.frame or not self.digest:
            return None
        return self._content

    @property
    def former_identity(self) -> str | None:
        """The identity in the first version of keys. It contains signatures that `identity` removes."""
        return without_former_signature(self.location) if self.source == "web" else self.identity

    @property
    def frame_id(self) -> str:
        """The identity of the frame of a pinned video, as 64 hex digits."""
        return hashlib.sha256(f"{self.frame} frame of {self._content}".encode()).hexdigest()

    @property
    def copy_id(self) -> str:
        """The identity of the converted copy of a pinned medium, as 64 hex digits."""
        return hashlib.sha256(f"copy of {self._content}".encode()).hexdigest()

    @property
    def bucket_and_key(self) -> tuple[str, str]:
        """The bucket and the key of an S3 object."""
        bucket, _, key = self.location.removeprefix("s3://").partition("/")
        return bucket, key

    @property
    def etag(self) -> str | None:
        """The ETag that the object must have, with its quotes, if the medium is pinned by an ETag."""
        return f'"{self.digest.removeprefix("etag=")}"' if self.digest.startswith("etag=") else None

    def pinned(self, digest: str, location: str | None = None) -> Medium:
        """Return the medium with its content known, at a new location if one is given."""
        return replace(self, source="s3", digest=digest, location=location or self.location)

    def __str__(self) -> str:
        """Return the text that `parse` reads as this medium."""
        digest, mark = self.digest and f"#{self.digest}", self.frame and f"#{self.frame}-frame"
        return f"{self.location}{digest}{mark or ''}"

    @property
    def _content(self) -> str:
        name, _, value = self.digest.partition("=")
        return f"{self.location}#etag={value}" if name == "etag" else f"{name}:{value}"


def _split_suffix(text: str, suffix: re.Pattern[str]) -> tuple[str, str]:
    match = suffix.search(text)
    return (text[: match.start()], match[1]) if match else (text, "")


def check_medium(text: str, kind: Kind) -> None:
    """Raise if a text is not a medium of this kind.

    Raises:
        MediaError: The text breaks a rule.
    """
    if Medium.parse(text).frame and kind != "image":
        raise MediaError(f"a frame is an image, not {'an' if kind == 'audio' else 'a'} {kind}")


def redact_media(text: str) -> str:
    """Return a medium for messages: a URL without its query and signature, any other text unchanged."""
    try:
        medium = Medium.parse(text)
    except MediaError:
        return without_secrets(text)
    return without_secrets(without_signature(text)) if medium.source == "web" else text


def medium_error(field: str, number: int, text: str, why: object) -> str:
    """Return a line about one medium for an InvalidRequestError."""
    return f"{field}.{number}: {redact(repr(redact_media(text)), 200)} was given: {why}"


def unknown_references(prompt: str, counts: dict[Kind, int]) -> list[str]:
    """Return the `@` references of a prompt to media that the request does not have, such as `@image3` of two images.

    Media are counted from 1 for each kind, in the order of the request. create-seedance-2-video-task says that prompts
    may refer to media with `@` but does not document the whole syntax, so the result is only good for a warning.
    """
    references = ((match[0], cast("Kind", match[1].lower()), int(match[2])) for match in _REFERENCE.finditer(prompt))
    return list(dict.fromkeys(text for text, kind, number in references if not 1 <= number <= counts.get(kind, 0)))
