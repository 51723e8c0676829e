"""Join the shots of a story into one film in the bucket, once for each list of shots."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

from prefect_loova.batches.storyboard import film_id
from prefect_loova.errors import PreviewError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.errors import S3_ERRORS, storage_error
from prefect_loova.store.previews import preview_keys, save_previews
from prefect_loova.store.reader import S3File
from prefect_loova.store.records import JobRecords

if TYPE_CHECKING:
    from prefect_loova.video.thumbnails import Previews

FILMS = "_storyboards"
"""Where joined films stand, below the prefix."""

_JOIN_SECONDS, _JOIN_SECONDS_A_SHOT = 600.0, 120.0  # 15 s of 1080p are encoded in 40 s on two slow cores
_BLOCKS = 2  # all shots are open at once

log = logging.getLogger(__name__)


async def join_shots(
    jobs: VideoJobs, videos: list[SavedVideo], *, upload_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The film of these shots: joined now, or found where it was joined before.

    Args:
        jobs: The API and the bucket.
        videos: The shots, in order.
        upload_options: boto3's `ExtraArgs` of an upload.

    Returns:
        What a `StoryReport` says of it.

    Raises:
        UnusableVideoError: A shot is no video that can be joined.
        StorageError: The bucket cannot be read or written.
    """
    records, folder = jobs.records, film_id(videos)
    film, facts = records.object_key(FILMS, folder, "video.mp4"), records.object_key(FILMS, folder, "film.json")
    known = await records.get_json(facts)
    if known is not None and await records.object_size(film, denied_is_missing=True) == known[0]["size_bytes"]:
        return dict(known[0])
    with tempfile.TemporaryFile() as file:
        made = await asyncio.to_thread(_join, jobs, videos, file)
        previews = await asyncio.to_thread(_previews, file)
        await asyncio.to_thread(_upload, jobs, film, file, dict(upload_options or {}))  # which closes the file
    sheet = await _contact_sheet(records, film, previews, upload_options)
    made |= {"film": records.uri(film), "contact_sheet": sheet}
    # Last: where this is, the film is whole.
    await records.put_json(facts, made | {"shots": [video.video for video in videos]})
    return made


async def _contact_sheet(
    records: JobRecords, film: str, previews: Previews | None, upload_options: Mapping[str, Any] | None
) -> str | None:
    """Put the film's pictures beside it; that this fails is no reason to have no film."""
    if previews is None:
        return None
    try:
        await save_previews(records, film, previews, upload_options=upload_options)
    except StorageError as error:
        log.warning("the film has no pictures (%s)", redact(error))
        return None
    return records.uri(preview_keys(film, previews.moving_type).contact_sheet)


def _join(jobs: VideoJobs, videos: list[SavedVideo], file: BinaryIO) -> dict[str, Any]:
    from prefect_loova.video.concat import join_videos  # noqa: PLC0415  (decoders load when they are used)

    records = jobs.records
    with ExitStack() as opened:
        shots = [
            opened.enter_context(
                S3File(records.s3, records.bucket, video.video.removeprefix(records.uri("")), blocks=_BLOCKS)
            )
            for video in videos
        ]
        joined = join_videos(shots, file, max_seconds=_JOIN_SECONDS + _JOIN_SECONDS_A_SHOT * len(shots))
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


def _upload(jobs: VideoJobs, key: str, file: BinaryIO, options: dict[str, Any]) -> None:
    file.seek(0)
    try:
        jobs.records.s3.upload_fileobj(
            file,
            jobs.records.bucket,
            key,
            ExtraArgs=options | {"ContentType": "video/mp4"},
        )
    except S3_ERRORS as error:
        raise storage_error(error, jobs.records.uri(key), jobs.records.s3, "PutObject") from None


def _previews(file: BinaryIO) -> Previews | None:
    from prefect_loova.video.thumbnails import make_previews  # noqa: PLC0415  (decoders load when they are used)

    try:
        return make_previews(file)
    except PreviewError as error:
        log.warning("the film has no preview (%s)", redact(error))
        return None
