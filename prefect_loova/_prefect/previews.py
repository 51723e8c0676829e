"""Make the pictures of a saved video and show it in the Prefect UI. Never a reason to fail a paid job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from prefect_loova._prefect.artifacts import publish_video
from prefect_loova._prefect.lineage import record_asset
from prefect_loova._prefect.links import links_to
from prefect_loova._prefect.pages import MOST_POSTERS, Picture
from prefect_loova.errors import redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.previews import load_moving, load_thumbnail, save_previews
from prefect_loova.store.reader import S3File

if TYPE_CHECKING:
    from prefect_loova.video.thumbnails import Previews

Preview = Literal["moving", "still", "none"]
"""What the page of a video shows.

`moving`: an animated picture of at most 256 KiB, which Prefect's database then holds. `still`: a small picture of at
most 16 KiB. `none`: no pictures are made. The first two put the same pictures beside the video in the bucket.
"""

_LOADS_AT_ONCE = 8
_MOST_SECONDS = 180.0  # an S3 server that does not answer; decoding alone is bounded
# Decoding takes a processor and some 100 MiB: one video at a time, beside the pool that S3's requests wait in.
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="loova-preview")

log = logging.getLogger(__name__)


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
    """Show a saved video in the current run, and let the current Prefect task have made it.

    Args:
        jobs: The API and the bucket.
        saved: The video.
        made: Whether the current Prefect task brought it into the bucket.
        is_new: Whether it was saved just now, so that there are no pictures of it yet.
        preview: What its page shows.
        player_seconds: How long a link in its page plays the video, in seconds; 0 for no such link.
        upload_options: boto3's `ExtraArgs`, for the pictures.
    """
    object_key = saved.video.removeprefix(jobs.records.uri(""))
    picture = None
    if preview != "none":
        picture = await _picture(jobs, saved, object_key, preview, upload_options, look=not is_new)
    try:
        links = links_to(jobs.records.s3, jobs.records.bucket, object_key, player_seconds=player_seconds)
        await publish_video(saved, picture, links)
        record_asset(saved, made=made)
    except Exception as error:  # credentials that cannot be renewed just now, for one
        log.warning("Loova task %s: the video is saved, but is not shown (%s)", saved.task_id, redact(error))


async def posters(jobs: VideoJobs, report: BatchReport) -> dict[str, Picture]:
    """The small pictures of the first videos of a batch that are there, by request key."""
    turn, found = asyncio.Semaphore(_LOADS_AT_ONCE), dict[str, Picture]()

    async def load(key: str, video: str) -> None:
        try:
            async with turn:
                data = await load_thumbnail(jobs.records, video.removeprefix(jobs.records.uri("")))
        except Exception as error:
            log.debug("%s: no small picture (%s)", video, redact(error))
        else:
            if data is not None:
                found[key] = Picture(data, "image/jpeg")

    there = [(one.key, one.video) for one in report.videos if one.outcome in ("saved", "reused") and one.video]
    await asyncio.gather(*(load(key, video) for key, video in there[:MOST_POSTERS]))
    return found


async def _picture(
    jobs: VideoJobs,
    saved: SavedVideo,
    object_key: str,
    preview: Preview,
    options: Mapping[str, Any] | None,
    *,
    look: bool,
) -> Picture | None:
    """The picture of a video, made now if it was not made before; `look` says whether it may have been."""
    try:
        if look and (found := await _found(jobs, object_key, preview)):
            return found
        async with asyncio.timeout(_MOST_SECONDS):
            made = await asyncio.get_running_loop().run_in_executor(_DECODER, _made, jobs, object_key)
        await save_previews(jobs.records, object_key, made, upload_options=options)
    except Exception as error:
        log.warning("Loova task %s: the video is saved, but has no preview (%s)", saved.task_id, redact(error))
        return None
    return Picture(made.thumbnail, "image/jpeg") if preview == "still" else Picture(made.moving, made.moving_type)


async def _found(jobs: VideoJobs, object_key: str, preview: Preview) -> Picture | None:
    if preview == "still":
        thumbnail = await load_thumbnail(jobs.records, object_key)
        return Picture(thumbnail, "image/jpeg") if thumbnail else None
    moving = await load_moving(jobs.records, object_key)
    return Picture(*moving) if moving else None


def _made(jobs: VideoJobs, object_key: str) -> Previews:
    from prefect_loova.video.thumbnails import make_previews  # noqa: PLC0415  (decoders load when they are used)

    with S3File(jobs.records.s3, jobs.records.bucket, object_key) as video:
        return make_previews(video)
