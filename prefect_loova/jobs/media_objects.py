"""Reference media that are objects in S3, judged by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO, RawIOBase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from prefect_loova.errors import StorageError
from prefect_loova.models.media import Kind, MediaError, Medium
from prefect_loova.models.media_types import HEAD_BYTES, MediaRules, content_problem
from prefect_loova.store.reader import S3File
from prefect_loova.store.records import JobRecords

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MEDIA = "_media"
"""Where media that are made reachable stand, below the prefix, each named by its content."""

_PIECE = 1024**2


class InspectedObject(NamedTuple):
    """What an object is.

    Attributes:
        head: Its first bytes.
        size: Its length in bytes.
        etag: Of the version that was looked at, with its quotes.
        version: The id of that version, where the bucket keeps versions.
    """

    head: bytes
    size: int
    etag: str
    version: str | None


def inspect(records: JobRecords, medium: Medium, holds: Kind, rules: MediaRules) -> InspectedObject:
    """Look at an object by its first bytes.

    Args:
        records: The bucket.
        medium: The object; where it is pinned by its ETag, that has to be the same.
        holds: What it has to be.
        rules: The limits for media.

    Raises:
        MediaError: It is not there, may not be read, has changed, or is something else.
        StorageError: S3 does not answer; trying again may help.
    """
    with open_object(records.s3, medium, block_bytes=HEAD_BYTES) as file:
        look = InspectedObject(file.read(HEAD_BYTES) or b"", file.size, file.etag, file.version)
    if problem := content_problem(look.head, look.size, holds, rules):
        raise MediaError(problem)
    return look


def check_pin(records: JobRecords, medium: Medium) -> None:
    """Make sure that an object is what its pin says, where the pin is no ETag: `inspect` compares those.

    What this package put below `_media/` is named by its content. Any other object is read whole.

    Raises:
        MediaError: It is something else.
        StorageError: S3 does not answer; trying again may help.
    """
    name, _, value = medium.digest.partition("=")
    own = records.uri(records.object_key(MEDIA, ""))
    if name == "etag" or (medium.location.startswith(own) and PurePosixPath(medium.location).stem == value):
        return
    if name == "frame":
        raise MediaError(f"only a frame that was taken here is pinned so: it must be in {own}")
    digest = hashlib.sha256()
    with open_object(records.s3, medium, block_bytes=_PIECE) as file:
        try:
            while piece := file.read(_PIECE):
                digest.update(piece)
        except StorageError as error:
            raise as_media_error(error) from None
    if digest.hexdigest() != value:
        raise MediaError("the object has changed: its content is not what its SHA-256 says")


def check_content(
    decoded: set[tuple[Kind, str | None]],
    medium: Medium,
    holds: Kind,
    media_type: str,
    source: Callable[[], BytesIO | RawIOBase],
) -> str:
    """Decode as much of a medium as `probe` does; once in this process for each content.

    Args:
        decoded: The contents that were decoded before; this one is added.
        medium: The medium; its content is known.
        holds: What it has to be.
        media_type: What its first bytes say.
        source: Opens it.

    Returns:
        What could not be known, for a warning; empty where nothing is in doubt.

    Raises:
        MediaError: It is surely no such medium, or has changed meanwhile.
        StorageError: S3 does not answer; trying again may help.
    """
    content = holds, medium.identity
    if content in decoded or medium.digest.startswith("frame="):  # frames are made here
        return ""
    from prefect_loova.video.probe import probe  # noqa: PLC0415  (decoders load when they are used)

    try:
        with source() as file:
            doubt = probe(file, holds, media_type)
    except StorageError as error:
        raise as_media_error(error) from None
    decoded.add(content)
    return doubt


def open_object(
    s3: S3Client, medium: Medium, *, block_bytes: int = _PIECE, look: InspectedObject | None = None
) -> S3File:
    """An object for reading.

    Args:
        s3: The client that reads it.
        medium: The object.
        block_bytes: What one request asks for.
        look: The look that was had at it: it has to be the same object still.

    Raises:
        MediaError: It is not there, may not be read, is not the one that its ETag says, or has changed since the look.
        StorageError: S3 does not answer; trying again may help.
    """
    bucket, key = medium.bucket_and_key
    try:
        file = S3File(s3, bucket, key, block_bytes=block_bytes)
    except StorageError as error:
        raise as_media_error(error) from None
    if medium.etag not in (None, file.etag):
        file.close()
        raise MediaError("the object has changed since it was looked at: ask again, for another request")
    if look is not None and look.etag != file.etag:
        file.close()
        raise MediaError("the object changed while it was read")
    return file


def as_media_error(error: StorageError) -> Exception:
    """What an object that cannot be read means for a request: bad input, unless trying again may help."""
    if error.transient:
        return error
    if error.http_status in (403, 404):
        return MediaError("there is no such object, or it may not be read (s3:GetObject)")
    return MediaError(error.message)
