"""The shots of a story that stay as they are: find their videos, and measure the seams before them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from pydantic import ValidationError

from prefect_loova._concurrency import map_bounded
from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.batches.pricing import plan_from_record
from prefect_loova.batches.storyboard import Shot
from prefect_loova.errors import InvalidRequestError, StorageError, first_lines, redact
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.keys import complete_key
from prefect_loova.models.reports import Seam
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.reader import S3File

_CONCURRENT_READS = 8

log = logging.getLogger(__name__)


async def find_kept_shots(jobs: VideoJobs, shots: Iterable[Shot]) -> dict[int, tuple[PlannedVideo, SavedVideo]]:
    """Return the saved video of each shot with `keep`, by the number of the shot.

    Raises:
        InvalidRequestError: A key names no saved video; the error lists all shots.
        StorageError: S3 does not respond. You can retry.
    """
    found, problems = dict[int, tuple[PlannedVideo, SavedVideo]](), dict[int, str]()

    async def find(shot: Shot) -> None:
        try:
            found[shot.number] = await _find_kept_shot(jobs, shot)
        except InvalidRequestError as error:
            problems[shot.number] = f"shot {shot.number}: {error.message}"

    await map_bounded(find, [shot for shot in shots if shot.keep], _CONCURRENT_READS)
    if problems:
        raise InvalidRequestError("\n".join(first_lines([problems[number] for number in sorted(problems)])))
    return found


async def _find_kept_shot(jobs: VideoJobs, shot: Shot) -> tuple[PlannedVideo, SavedVideo]:
    given = f"keep: {shot.keep!r} was given"
    try:
        stored = await jobs.records.read_or_list(
            await complete_key(jobs.records, shot.keep, field="keep", is_open=False)
        )
        if stored is None:
            raise InvalidRequestError(f"{given}: no job has this key, or its record may not be read")
        if stored.record.state != "saved":
            raise InvalidRequestError(f"{given}: its job is {stored.record.state}, and only a saved video can be kept")
        saved = await saving.find_saved(jobs, jobs.submission(stored.record, reused=True))
    except StorageError as error:
        if error.transient:
            raise
        raise InvalidRequestError(f"{given}: {error.message}") from None
    if saved is None:
        raise InvalidRequestError(f"{given}: its video is missing from the bucket")
    request = shot.request
    with suppress(ValidationError, InvalidRequestError):  # of a newer version, or of a model that has no price now
        fields = {name: value for name, value in stored.record.request.items() if name != "version"}
        recorded = VideoRequest.model_validate(fields, context=STORED)
        recorded.estimate_credits(jobs.loova.models)
        request = recorded
    planned = PlannedVideo(request, shot.rows, models=jobs.loova.models)
    return plan_from_record(jobs, planned, stored.record, max_paid_attempts=1), saved


async def measure_seams(jobs: VideoJobs, shots: Iterable[Shot], saved: Mapping[int, SavedVideo]) -> tuple[Seam, ...]:
    """Measure the seam before each kept shot that has `continue: true`. A frame that cannot be read is only logged.

    Args:
        jobs: The API and the bucket.
        shots: The shots of the story.
        saved: The videos that are there, by the number of the shot.
    """

    def measure(shot: Shot) -> float:
        from prefect_loova.video.frames import seam_distance  # noqa: PLC0415  (load decoders on first use)

        records = jobs.records
        before, after = (records.key_of(saved[number].video) for number in (shot.number - 1, shot.number))
        with S3File(records.s3, records.bucket, before) as one, S3File(records.s3, records.bucket, after) as other:
            return seam_distance(one, other)

    seams = []
    for shot in shots:
        if not (shot.keep and shot.continues and {shot.number - 1, shot.number} <= saved.keys()):
            continue
        try:
            seams.append(Seam(shot=shot.number, distance=round(await asyncio.to_thread(measure, shot), 4)))
        except Exception as error:
            log.warning("shot %d: the seam before it cannot be measured (%s)", shot.number, redact(error))
    return tuple(seams)
