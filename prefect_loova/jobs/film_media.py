"""Read the media of a film: its cards and its sound track. They are decoded here, and Loova gets none of them.

So the limits of `media_types` for Loova do not apply, and nothing is converted. The rule which local files may be read
is the same as for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from io import BytesIO, RawIOBase

from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_identity import read_local_file
from prefect_loova.jobs.media_objects import MEDIA, check_digest, open_object
from prefect_loova.models.film import FILM_MEDIA, FilmOptions
from prefect_loova.models.media import Kind, MediaError, Medium, redact_media
from prefect_loova.models.media_types import CONVERTIBLE, EXTENSIONS, HEAD_BYTES, media_type_of
from prefect_loova.store.reader import S3File

MAX_BYTES: dict[Kind, int] = {"image": 30_000_000, "audio": 200_000_000}
"""The largest card and the largest sound track, in bytes."""

_EXTENSIONS = EXTENSIONS | CONVERTIBLE
_MIN_SECONDS = 1.0  # it is repeated up to the end of the film


async def prepare_film(jobs: VideoJobs, local: LocalFiles, options: FilmOptions, *, upload: bool = True) -> FilmOptions:
    """Return the options of a film with the content of all their media known.

    Args:
        jobs: The API and the bucket.
        local: The local files that may be read.
        options: The options.
        upload: Whether to upload local files. A dry run does not.

    Raises:
        InvalidRequestError: Media cannot be used; the error lists all of them, by field.
        StorageError: The bucket cannot be read or written.
    """
    prepared, problems = dict[str, str](), []
    for field, kind in FILM_MEDIA.items():
        text = getattr(options, field)
        if text is None:
            continue
        medium = Medium.parse(text)
        try:
            is_local = medium.source == "disk"
            pin = _from_disk(jobs, local, kind, medium, upload) if is_local else _in_s3(jobs, kind, medium)
            prepared[field] = str(await pin)
        except MediaError as error:
            problems.append(f"{field}: {redact_media(text)!r} was given: {error}")
    if problems:
        raise InvalidRequestError("\n".join(problems))
    return options.model_copy(update=prepared)


def open_film_medium(jobs: VideoJobs, text: str) -> tuple[S3File, str]:
    """Open a pinned medium, and return it with its media type. This blocks.

    Raises:
        MediaError: The object is missing or has changed.
        StorageError: S3 does not respond. You can retry.
    """
    file = open_object(jobs.records.s3, Medium.parse(text))
    media_type = media_type_of(file.read(HEAD_BYTES) or b"") or ""
    file.seek(0)
    return file, media_type


async def _from_disk(jobs: VideoJobs, local: LocalFiles, kind: Kind, medium: Medium, upload: bool) -> Medium:
    content, sha256 = await asyncio.to_thread(read_local_file, local.find(medium.location), MAX_BYTES[kind])
    media_type = await asyncio.to_thread(_check, kind, content[:HEAD_BYTES], len(content), lambda: BytesIO(content))
    object_key = jobs.records.object_key(MEDIA, f"{sha256}{_EXTENSIONS[media_type]}")
    if upload and await jobs.records.object_size(object_key, denied_is_missing=True) != len(content):
        await jobs.records.put_bytes(object_key, content, media_type)
    return medium.pinned(f"sha256={sha256}", jobs.records.uri(object_key))


async def _in_s3(jobs: VideoJobs, kind: Kind, medium: Medium) -> Medium:
    def inspect() -> Medium:
        if medium.digest:
            check_digest(jobs.records, medium)
        with closing(open_object(jobs.records.s3, medium)) as file:
            head = file.read(HEAD_BYTES) or b""
            _check(kind, head, file.size, lambda: file)
            return medium if medium.digest else medium.pinned(f"etag={file.etag.strip(chr(34))}")

    return await asyncio.to_thread(inspect)


def _check(kind: Kind, head: bytes, size: int, source: Callable[[], BytesIO | RawIOBase]) -> str:
    """Return the media type of a file.

    Raises:
        MediaError: It is not of this kind, too large, or cannot be decoded.
    """
    from prefect_loova.video.probe import probe  # noqa: PLC0415  (loads the decoders)

    media_type = media_type_of(head)
    if media_type is None or not media_type.startswith(f"{kind}/") or media_type not in _EXTENSIONS:
        known = ", ".join(extension[1:] for name, extension in _EXTENSIONS.items() if name.startswith(f"{kind}/"))
        raise MediaError(f"its content is {media_type or 'of no known type'}: must be {known}")
    if size > MAX_BYTES[kind]:
        raise MediaError(f"it has more than {MAX_BYTES[kind]:,} bytes, the most for {kind} of a film")
    facts = probe(source(), kind, media_type)
    if facts.doubt:
        raise MediaError(facts.doubt)
    if kind == "audio" and facts.seconds is not None and facts.seconds < _MIN_SECONDS:
        raise MediaError(f"it lasts {facts.seconds:.2f} s: a sound track must last at least {_MIN_SECONDS:g} s")
    return media_type
