"""The media type of a file, by its first bytes and not by its name, and the limits for media of Seedance 2.0.

Loova documents no types and no sizes. These are the limits that other hosts of Seedance 2.0 document: JPEG, PNG, WebP,
GIF, BMP and TIFF below 30 MB, MP4 and MOV below 50 MB, MP3 and WAV up to 15 MB; videos and audios from 1.8 s each to
15.1 s in all, images from 300 pixels a side with an aspect of 0.4 to 2.5, and 12 references in all.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.models.media import Kind
from prefect_loova.models.media_brands import brand_of, type_by_brand

HEAD_BYTES = 4096
"""How many of a file's first bytes identify its type."""

EXTENSIONS: dict[str, str] = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
}
"""The accepted media types and their file extensions."""

CONVERTIBLE: dict[str, str] = {
    "image/heic": ".heic",
    "image/heif": ".heif",
    "image/avif": ".avif",
    "audio/mp4": ".m4a",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "audio/aac": ".aac",
}
"""The media types of which `MediaRules.convert` makes a copy of an accepted type, and their file extensions."""

_LOSSLESS = frozenset({"image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"})

_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"ID3": "audio/mpeg",
    b"OggS": "audio/ogg",
    b"fLaC": "audio/flac",
    b"\x00\x00\x00\x0cjP  ": "image/jp2",
    b"\x00\x00\x00\x0cJXL ": "image/jxl",
    b"\xff\x0a": "image/jxl",
    b"8BPS": "image/vnd.adobe.photoshop",
    b"FLV\x01": "video/x-flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "video/x-ms-asf",
    b"\x00\x00\x01\xba": "video/mpeg",
    b"#!AMR": "audio/amr",
    b"caff": "audio/x-caf",
    b"%PDF": "application/pdf",
    b"PK\x03\x04": "application/zip",
}
_RIFF = {
    b"WEBP": "image/webp",
    b"WAVE": "audio/wav",
    b"AVI ": "video/x-msvideo",
    b"AIFF": "audio/aiff",
    b"AIFC": "audio/aiff",
}
_CODECS = {b"OpusHead": "Opus", b"alac": "ALAC"}
_CONVERT_HINT = "; media.convert of the credentials block sends a copy of local files and S3 objects"
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def field_title(name: str, _: object) -> str:
    """Return the label of a field in the forms of the Prefect UI: `Image bytes`."""
    return name.replace("_", " ").capitalize()


class MediaRules(BaseModel):
    """The limits for media, and how Loova gets them. Loova documents no sizes; other hosts of Seedance do."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Media", field_title_generator=field_title)

    image_bytes: int = Field(30_000_000, gt=0, description="The largest image, in bytes.")
    video_bytes: int = Field(50_000_000, gt=0, description="The largest video, in bytes.")
    audio_bytes: int = Field(15_000_000, gt=0, description="The largest audio, in bytes.")
    check_urls: bool = Field(
        True, title="Check URLs", description="Download the first bytes of media URLs before a video is bought."
    )
    send: Literal["auto", "links", "files"] = Field(
        "auto",
        description="How Loova gets local files and S3 objects. links: by presigned URLs. files: in the form of the "
        "submit. auto: by links, unless the S3 endpoint has a private address and Loova does not.",
    )
    link_seconds: int = Field(
        86_400,
        gt=0,
        le=604_800,
        description="Seconds for which a presigned URL is valid, or twice the wait if that is longer.",
    )

    limits: Literal["warn", "refuse"] = Field(
        "warn",
        description="What happens if media break one of the limits below, which other hosts of Seedance 2.0 have. "
        "warn: log a warning and go on. refuse: do not buy the video.",
    )
    min_seconds: float = Field(1.8, ge=0, description="The shortest video or audio, in seconds.")
    max_total_seconds: float = Field(
        15.1, gt=0, description="The most seconds of all videos of a request together, and of all its audios together."
    )
    min_image_side: int = Field(300, ge=1, description="The shortest side of an image, in pixels.")
    min_image_aspect: float = Field(0.4, gt=0, description="The smallest aspect of an image: width divided by height.")
    max_image_aspect: float = Field(2.5, gt=0, description="The largest aspect of an image: width divided by height.")
    max_references: int = Field(12, ge=1, description="The most images, videos and audios of a request together.")
    convert: bool = Field(
        False,
        description="Send Loova a copy of a local file or an S3 object that not every host of Seedance 2.0 takes, such "
        "as HEIC. The copy is a PNG, JPEG, MP4 (H.264, AAC) or MP3, below _media/ in the bucket.",
    )

    def max_bytes(self, kind: Kind) -> int:
        """Return the largest size of one kind of medium, in bytes."""
        return {"image": self.image_bytes, "video": self.video_bytes, "audio": self.audio_bytes}[kind]


def media_type_of(head: bytes) -> str | None:
    """Return the media type of a file by its first bytes (`HEAD_BYTES` are enough), or None if it is unknown."""
    for start, media_type in _STARTS.items():
        if head.startswith(start):
            return media_type
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM"):
        return _RIFF.get(head[8:12])
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/x-matroska" if b"matroska" in head[:64] else "video/webm"
    if head[4:8] == b"ftyp":
        return type_by_brand(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free") and len(head) >= 16:
        return "video/quicktime"  # QuickTime files older than `ftyp`
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if len(head) >= 4 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return "audio/aac"
        # MPEG audio: a valid version, layer III, a valid bit rate and a valid sampling rate.
        if head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08 and head[2] >> 4 != 0xF and head[2] & 0x0C != 0x0C:
            return "audio/mpeg"
    return None


def media_type_to_send(head: bytes, kind: Kind) -> str:
    """Return the media type to send with a medium that `content_problem` accepts. An unknown brand of video is mp4."""
    return media_type_of(head) or ("video/mp4" if kind == "video" else "application/octet-stream")


def copy_type_of(media_type: str) -> str:
    """Return the media type of the copy that `MediaRules.convert` makes of a medium."""
    if media_type in _LOSSLESS:
        return "image/png"
    return {"image": "image/jpeg", "video": "video/mp4", "audio": "audio/mpeg"}[media_type.partition("/")[0]]


def content_problem(head: bytes, size: int, kind: Kind, rules: MediaRules) -> str | None:
    """Return why a file cannot be this kind of medium, by its first bytes and its length in bytes, or None."""
    if not size:
        return "it is empty"
    most, media_type = rules.max_bytes(kind), media_type_of(head)
    article = "a" if kind == "video" else "an"
    if media_type is None and not (kind == "video" and brand_of(head)):
        return f"its content is {_describe(head)}, not {article} {kind}"
    if media_type is None:  # decoding decides; see `unknown_brand`
        media_type = media_type_to_send(head, kind)
    taken = [name.partition("/")[2] for name in EXTENSIONS if name.startswith(f"{kind}/")]
    if media_type.startswith(f"{kind}/") and media_type not in EXTENSIONS:
        if media_type not in CONVERTIBLE or not rules.convert:
            hint = _CONVERT_HINT if media_type in CONVERTIBLE else ""
            what = f"{media_type}{_codec_in(head)}"
            return f"its content is {what}, which Seedance 2.0 does not take: it takes {', '.join(taken)}{hint}"
    elif not media_type.startswith(f"{kind}/"):
        hint = " (#first-frame or #last-frame after it means a frame of it)" if _has_frames(media_type, kind) else ""
        return f"its content is {media_type}, not {article} {kind}{hint}"
    if size > most:
        return f"it has {size:,} bytes, and {most:,} are the most for {article} {kind}"
    return None


def unknown_brand(head: bytes, kind: Kind) -> str:
    """Return a warning if the brand of a video is unknown, or an empty string. It needs only the first bytes."""
    if kind != "video" or not brand_of(head) or media_type_of(head):
        return ""
    return f"its brand {brand_of(head)!r} is not known here: it may be no video"


def _codec_in(head: bytes) -> str:
    return next((f" ({name})" for mark, name in _CODECS.items() if mark in head), "")


def _has_frames(media_type: str, kind: Kind) -> bool:
    return kind == "image" and media_type in ("video/mp4", "video/quicktime")


def _describe(head: bytes) -> str:
    if brand := brand_of(head):
        return f"of the brand {brand!r}, which is not known here"
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith((b"<?xml", b"<svg")):
        return "XML"
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # otherwise only the last character is cut off
            return "of no known type"
    return "text" if b"\0" not in head else "of no known type"
