"""Check reference media in S3 by their content."""

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
"""The folder below the prefix for uploaded media. Each object is named by its content."""

_BLOCK_BYTES = 1024**2


class InspectedObject(NamedTuple):
    """An object, as `inspect_object` read it.

    Attributes:
        head: Its first bytes.
        size: Its length in bytes.
        etag: The ETag of the inspected version, with its quotes.
        version: The id of that version, in a versioned bucket.
    """

    head: bytes
    size: int
    etag: str
    version: str | None


def inspect_object(records: JobRecords, medium: Medium, kind: Kind, rules: MediaRules) -> InspectedObject:
    """Read the first bytes of an object and check its type and size, and its ETag if it is pinned by one.

    Raises:
        MediaError: The object is missing, may not be read, has changed, or has the wrong type or size.
        StorageError: S3 does not respond. You can retry.
    """
    with open_object(records.s3, medium, block_bytes=HEAD_BYTES) as file:
        inspected = InspectedObject(file.read(HEAD_BYTES) or b"", file.size, file.etag, file.version)
    if problem := content_problem(inspected.head, inspected.size, kind, rules):
        raise MediaError(problem)
    return inspected


def check_digest(records: JobRecords, medium: Medium) -> None:
    """Check that an object has the content of its digest. `inspect_object` checks ETags.

    Objects below `_media/` are named by their content. Other objects are read completely.

    Raises:
        MediaError: The object has other content.
        StorageError: S3 does not respond. You can retry.
    """
    name, _, value = medium.digest.partition("=")
    own = records.uri(records.object_key(MEDIA, ""))
    if name == "etag" or (medium.location.startswith(own) and PurePosixPath(medium.location).stem == value):
        return
    if name == "frame":
        raise MediaError(f"only a frame that was taken here is pinned so: it must be in {own}")
    digest = hashlib.sha256()
    with open_object(records.s3, medium) as file:
        try:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        except StorageError as error:
            raise as_media_error(error) from None
    if digest.hexdigest() != value:
        raise MediaError("the object has changed: its content is not what its SHA-256 says")


def check_content(
    decoded: set[tuple[Kind, str | None]],
    medium: Medium,
    kind: Kind,
    media_type: str,
    source: Callable[[], BytesIO | RawIOBase],
) -> str:
    """Decode a medium with known content as far as `probe` does, unless its content is in `decoded` already.

    Return a warning about something that could not be checked, or an empty string.

    Raises:
        MediaError: The medium is certainly not of this kind, or has changed.
        StorageError: S3 does not respond. You can retry.
    """
    content = kind, medium.identity
    if content in decoded or medium.digest.startswith("frame="):  # this package made the frame
        return ""
    from prefect_loova.video.probe import probe  # noqa: PLC0415  (loads the decoders)

    try:
        with source() as file:
            doubt = probe(file, kind, media_type)
    except StorageError as error:
        raise as_media_error(error) from None
    decoded.add(content)
    return doubt


def open_object(
    s3: S3Client, medium: Medium, *, block_bytes: int = _BLOCK_BYTES, inspected: InspectedObject | None = None
) -> S3File:
    """Open an object for reading, with requests of `block_bytes`.

    Raises:
        MediaError: The object is missing, may not be read, or has not the ETag of its pin or of its inspection.
        StorageError: S3 does not respond. You can retry.
    """
    bucket, key = medium.bucket_and_key
    try:
        file = S3File(s3, bucket, key, block_bytes=block_bytes)
    except StorageError as error:
        raise as_media_error(error) from None
    problem = ""
    if medium.etag not in (None, file.etag):
        problem = "the object has changed since its ETag was read: make a new request"
    elif inspected is not None and inspected.etag != file.etag:
        problem = "the object changed while it was read"
    if problem:
        file.close()
        raise MediaError(problem)
    return file


def as_media_error(error: StorageError) -> Exception:
    """Return the error to raise if an object cannot be read: a MediaError, unless a retry may help."""
    if error.transient:
        return error
    if error.http_status in (403, 404):
        return MediaError("there is no such object, or it may not be read (s3:GetObject)")
    return MediaError(error.message)
