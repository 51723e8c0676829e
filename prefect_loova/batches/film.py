"""Join the shots of a story into one film in the bucket, once for each list of shots."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from prefect_loova.batches.storyboard import film_id
from prefect_loova.errors import PreviewError, StorageError, UnusableVideoError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.film_media import open_film_medium
from prefect_loova.models.film import FilmOptions
from prefect_loova.models.media import MediaError
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.errors import S3_ERRORS, storage_error
from prefect_loova.store.previews import preview_keys, save_previews
from prefect_loova.store.reader import S3File
from prefect_loova.store.records import JobRecords

if TYPE_CHECKING:
    from prefect_loova.video.film import FilmMedia
    from prefect_loova.video.thumbnails import Previews

FILMS = "_storyboards"
"""The folder of joined films, below the prefix."""

_JOIN_SECONDS, _JOIN_SECONDS_PER_SHOT = 600.0, 120.0  # two slow cores encode 15 s of 1080p in 40 s
_BLOCKS = 2  # all shots are open at the same time

log = logging.getLogger(__name__)


class JoinedFilm(BaseModel):
    """A film in the bucket. Its fields are those of a `StoryReport`, which explains them."""

    model_config = ConfigDict(frozen=True)

    duration_seconds: float
    is_copy: bool
    size_bytes: int
    sha256: str
    film: str
    contact_sheet: str | None = None


async def join_shots(
    jobs: VideoJobs,
    videos: list[SavedVideo],
    options: FilmOptions | None = None,
    *,
    upload_options: Mapping[str, Any] | None = None,
) -> JoinedFilm:
    """Join the shots into one film, or find the film that was joined before.

    Args:
        jobs: The API and the bucket.
        videos: The shots, in order.
        options: The options of the film, as `prepare_film` returns them.
        upload_options: boto3's `ExtraArgs` of an upload.

    Raises:
        UnusableVideoError: A shot or a medium of the film cannot be used.
        StorageError: The bucket cannot be read or written.
    """
    options = options or FilmOptions()
    records, folder = jobs.records, film_id(videos, options)
    film_key, facts_key = records.object_key(FILMS, folder, "video.mp4"), records.object_key(FILMS, folder, "film.json")
    stored = await records.get_json(facts_key)
    if stored is not None:
        film = JoinedFilm.model_validate(stored[0])
        if await records.object_size(film_key, denied_is_missing=True) == film.size_bytes:
            return film
    with tempfile.TemporaryFile() as file:
        facts = await asyncio.to_thread(_join, jobs, videos, options, file)
        previews = await asyncio.to_thread(_previews, file)
        await asyncio.to_thread(_upload, jobs, film_key, file, dict(upload_options or {}))  # closes the file
    sheet = await _contact_sheet(records, film_key, previews, upload_options)
    film = JoinedFilm(**facts, film=records.uri(film_key), contact_sheet=sheet)
    # Write this last: it marks the film as complete.
    shots: dict[str, Any] = {"shots": [video.video for video in videos]}
    made_with = {} if options.is_plain else {"options": options.model_dump(mode="json")}
    await records.put_json(facts_key, film.model_dump() | shots | made_with)
    return film


async def _contact_sheet(
    records: JobRecords, film_key: str, previews: Previews | None, upload_options: Mapping[str, Any] | None
) -> str | None:
    """Save the film's pictures beside it, and return the URI of its contact sheet. A failure does not fail the film."""
    if previews is None:
        return None
    try:
        await save_previews(records, film_key, previews, upload_options=upload_options)
    except StorageError as error:
        log.warning("the film has no pictures (%s)", redact(error))
        return None
    return records.uri(preview_keys(film_key, previews.moving_type).contact_sheet)


def _join(jobs: VideoJobs, videos: list[SavedVideo], options: FilmOptions, file: BinaryIO) -> dict[str, Any]:
    from prefect_loova.video.concat import join_videos  # noqa: PLC0415  (load decoders on first use)
    from prefect_loova.video.film import make_film  # noqa: PLC0415

    records = jobs.records
    with ExitStack() as stack:
        shots = [
            stack.enter_context(S3File(records.s3, records.bucket, records.key_of(video.video), blocks=_BLOCKS))
            for video in videos
        ]
        most = _JOIN_SECONDS + _JOIN_SECONDS_PER_SHOT * len(shots)
        if options.is_plain:
            joined = join_videos(shots, file, max_seconds=most)
        else:
            joined = make_film(shots, file, options, _media(jobs, options, stack), max_seconds=most)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1024**2):
        digest.update(chunk)
    return {
        "duration_seconds": joined.duration_seconds,
        "is_copy": joined.is_copy,
        "size_bytes": file.tell(),
        "sha256": digest.hexdigest(),
    }


def _media(jobs: VideoJobs, options: FilmOptions, stack: ExitStack) -> FilmMedia:
    """Open the media of a film. The cards are read now, the sound track later."""
    from prefect_loova.video.film import FilmMedia  # noqa: PLC0415  (load decoders on first use)

    def opened(field: str) -> tuple[S3File, str] | None:
        text = getattr(options, field)
        if text is None:
            return None
        try:
            file, media_type = open_film_medium(jobs, text)
        except MediaError as error:
            raise UnusableVideoError(f"the film cannot be made: {field}: {error}") from None
        return stack.enter_context(file), media_type

    def card(field: str) -> tuple[bytes, str] | None:
        found = opened(field)
        return (found[0].read() or b"", found[1]) if found else None

    return FilmMedia(card("title_card"), card("end_card"), opened("sound_track"))


def _upload(jobs: VideoJobs, key: str, file: BinaryIO, options: dict[str, Any]) -> None:
    file.seek(0)
    extra = options | {"ContentType": "video/mp4"}
    try:
        jobs.records.s3.upload_fileobj(file, jobs.records.bucket, key, ExtraArgs=extra)
    except S3_ERRORS as error:
        raise storage_error(error, jobs.records.uri(key), jobs.records.s3, "PutObject") from None


def _previews(file: BinaryIO) -> Previews | None:
    from prefect_loova.video.thumbnails import make_previews  # noqa: PLC0415  (load decoders on first use)

    try:
        return make_previews(file)
    except PreviewError as error:
        log.warning("the film has no preview (%s)", redact(error))
        return None
