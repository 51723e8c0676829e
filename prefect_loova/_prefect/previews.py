"""Make the pictures of a saved video and show it in the Prefect UI. A failure never fails a paid job."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from prefect_loova._concurrency import map_bounded
from prefect_loova._prefect.artifacts import publish_video
from prefect_loova._prefect.gallery import MOST_POSTERS
from prefect_loova._prefect.lineage import record_asset
from prefect_loova._prefect.links import links_to
from prefect_loova._prefect.pages import Picture
from prefect_loova.errors import redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.results import SavedVideo
from prefect_loova.settings import LoovaSettings
from prefect_loova.store.previews import load_moving, load_thumbnail, save_previews
from prefect_loova.store.reader import S3File

if TYPE_CHECKING:
    from prefect_loova.video.thumbnails import Previews
    from prefect_loova.videos import LoovaVideos

Preview = Literal["moving", "still", "none"]
"""What the page of a video shows.

`moving`: an animated picture of at most 256 KiB, stored in Prefect's database. `still`: a small picture of at most
16 KiB. `none`: no picture. The first two also save the pictures beside the video in the bucket.
"""

_CONCURRENT_LOADS = 8
_MAX_SECONDS = 180.0  # in case S3 does not respond; decoding has its own limit
# One video takes a core and up to 100 MiB, and PyAV works without the GIL: as many at a time as there are cores, but no
# more than a batch saves at once. Outside of the thread pool of S3 requests.
_DECODERS = ThreadPoolExecutor(min(3, os.cpu_count() or 1), thread_name_prefix="loova-preview")

log = logging.getLogger(__name__)


def chosen_preview(given: Preview | None, videos: LoovaVideos | None, otherwise: Preview) -> Preview:
    """Return what a page shows: what the call says, else the block, else the setting, else `otherwise`."""
    return given or (videos.preview if videos else None) or LoovaSettings.load().preview or otherwise


async def show_video(
    jobs: VideoJobs,
    saved: SavedVideo,
    *,
    made: bool,
    is_new: bool = False,
    preview: Preview = "moving",
    player_seconds: int = 0,
    upload_options: Mapping[str, Any] | None = None,
) -> None:
    """Show a saved video in the current run, and record it as an asset of the current task.

    Args:
        jobs: The API and the bucket.
        saved: The video.
        made: Whether the current task saved it to the bucket.
        is_new: Whether it was saved just now, so it has no pictures yet.
        preview: What its page shows.
        player_seconds: How long the page's link to play the video is valid, in seconds; 0 for no link.
        upload_options: boto3's `ExtraArgs`, for the pictures.
    """
    object_key = jobs.records.key_of(saved.video)
    picture = None
    if preview != "none":
        picture = await _picture(jobs, saved, preview, upload_options, is_new=is_new)
    try:
        links = links_to(jobs.records.s3, jobs.records.bucket, object_key, player_seconds=player_seconds)
        await publish_video(saved, picture, links)
        record_asset(saved, made=made)
    except Exception as error:  # for example, credentials that cannot be renewed
        log.warning("Loova task %s: the video is saved, but is not shown (%s)", saved.task_id, redact(error))


async def posters(jobs: VideoJobs, report: BatchReport) -> dict[str, Picture]:
    """Load the small pictures of the first saved videos of a batch, by request key."""

    async def load(video: VideoOutcome) -> Picture | None:
        try:
            data = await load_thumbnail(jobs.records, jobs.records.key_of(str(video.video)))
        except Exception as error:
            log.debug("%s: no small picture (%s)", video.video, redact(error))
            return None
        return Picture(data, "image/jpeg") if data is not None else None

    saved = [video for video in report.videos if video.is_in_bucket and video.video][:MOST_POSTERS]
    pictures = await map_bounded(load, saved, _CONCURRENT_LOADS)
    return {video.key: picture for video, picture in zip(saved, pictures, strict=True) if picture is not None}


async def _picture(
    jobs: VideoJobs, saved: SavedVideo, preview: Preview, options: Mapping[str, Any] | None, *, is_new: bool
) -> Picture | None:
    """Load the picture of a video, or make it if it does not exist."""
    object_key = jobs.records.key_of(saved.video)
    try:
        if not is_new and (stored := await _load_picture(jobs, object_key, preview)):
            return stored
        async with asyncio.timeout(_MAX_SECONDS):
            made = await asyncio.get_running_loop().run_in_executor(_DECODERS, _make_previews, jobs, object_key)
        await save_previews(jobs.records, object_key, made, upload_options=options)
    except Exception as error:
        log.warning("Loova task %s: the video is saved, but has no preview (%s)", saved.task_id, redact(error))
        return None
    return Picture(made.thumbnail, "image/jpeg") if preview == "still" else Picture(made.moving, made.moving_type)


async def _load_picture(jobs: VideoJobs, object_key: str, preview: Preview) -> Picture | None:
    if preview == "still":
        thumbnail = await load_thumbnail(jobs.records, object_key)
        return Picture(thumbnail, "image/jpeg") if thumbnail else None
    moving = await load_moving(jobs.records, object_key)
    return Picture(*moving) if moving else None


def _make_previews(jobs: VideoJobs, object_key: str) -> Previews:
    from prefect_loova.video.thumbnails import make_previews  # noqa: PLC0415  (load decoders on first use)

    with S3File(jobs.records.s3, jobs.records.bucket, object_key) as video:
        return make_previews(video)
