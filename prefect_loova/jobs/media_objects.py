"""Check reference media by their content, and make copies of them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from io import BytesIO, RawIOBase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from prefect_loova.errors import StorageError
from prefect_loova.models.media import Kind, MediaError, Medium
from prefect_loova.models.media_facts import MediaFacts, limit_problems, refuse
from prefect_loova.models.media_types import EXTENSIONS, HEAD_BYTES, MediaRules, content_problem, copy_type_of
from prefect_loova.store.reader import S3File
from prefect_loova.store.records import JobRecords

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MEDIA = "_media"
"""The folder below the prefix for uploaded media. Each object is named by its content."""

Source = Callable[[], BytesIO | RawIOBase]
"""Opens a medium for reading."""

_BLOCK_BYTES = 1024**2

log = logging.getLogger(__name__)


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


def measure(
    measured: dict[tuple[Kind, str | None], MediaFacts],
    rules: MediaRules,
    medium: Medium,
    kind: Kind,
    media_type: str,
    source: Source,
) -> MediaFacts:
    """Decode a medium with known content as far as `probe` does, unless its content is in `measured` already.

    Log a warning about what could not be checked, what not every host of Seedance 2.0 takes, and broken limits.

    Raises:
        MediaError: The medium is certainly not of this kind, or has changed. Or it breaks a limit, and the rules say
            that this is refused.
        StorageError: S3 does not respond. You can retry.
    """
    content = kind, medium.identity
    known = measured.get(content)
    facts = known or _probe(kind, media_type, source)
    measured[content] = facts
    broken = limit_problems(facts, kind, rules)
    refuse(broken, rules)
    if known is None:
        problems = [*([facts.doubt] if facts.doubt else []), *([] if rules.convert else facts.traits), *broken]
        for problem in problems:
            log.warning("%s: %s; continuing", medium.location, problem)
        if rules.convert and facts.traits:
            log.warning("%s: %s; Loova gets a converted copy", medium.location, "; ".join(facts.traits))
    return facts


async def copy_of(
    records: JobRecords, rules: MediaRules, original: Medium, kind: Kind, media_type: str, source: Source
) -> Medium:
    """Return a copy of a medium that every host of Seedance 2.0 takes, after making it if there is none.

    The copy is below `_media/`, and is named by the content of its original. The request keeps the original, so its key
    does not depend on copies.

    Raises:
        MediaError: It cannot be converted.
        StorageError: The bucket cannot be read or written. You can retry.
    """
    copy_type = copy_type_of(media_type)
    object_key = records.object_key(MEDIA, f"{original.copy_id}{EXTENSIONS[copy_type]}")
    if not await records.object_size(object_key, denied_is_missing=True):

        def make() -> bytes:
            from prefect_loova.video.convert import convert  # noqa: PLC0415  (loads the decoders)

            with source() as file:
                return convert(file, kind, media_type, copy_type, max_bytes=rules.max_bytes(kind))

        try:
            content = await asyncio.to_thread(make)
        except StorageError as error:
            raise as_media_error(error) from None
        await records.put_bytes(object_key, content, copy_type)
    return Medium("s3", records.uri(object_key))


def _probe(kind: Kind, media_type: str, source: Source) -> MediaFacts:
    from prefect_loova.video.probe import probe  # noqa: PLC0415  (loads the decoders)

    try:
        with source() as file:
            return probe(file, kind, media_type)
    except StorageError as error:
        raise as_media_error(error) from None


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
