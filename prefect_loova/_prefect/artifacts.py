"""Create artifacts of the current run, which the Prefect UI shows. A failure never fails a paid job."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_UI_URL

from prefect_loova._prefect.pages import (
    Links,
    Picture,
    credits_page,
    doubts_page,
    escaped,
    gallery,
    outcome_rows,
    story_page,
    video_page,
)
from prefect_loova._prefect.run import is_in_run
from prefect_loova.errors import redact
from prefect_loova.models.reports import BatchReport, CreditsReport, StoryReport, VideoOutcome
from prefect_loova.models.results import JobInDoubt, SavedVideo


def artifact_key(kind: str, key: str, name: str = "") -> str:
    """Return a stable artifact key, so that the Artifacts page has a history of each request.

    A name stands before the digits of the request's key.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return "-".join(filter(None, ("loova", kind, words, key[:16])))


def video_address(video: VideoOutcome) -> str:
    """Return the URL of a video's page in the Prefect UI, or an empty string if the UI's address is not known."""
    ui = PREFECT_UI_URL.value()
    return f"{ui}/artifacts/key/{artifact_key('video', video.key, video.name)}" if ui and video.video else ""


async def publish_video(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> None:
    """Show a saved video and its cost."""
    page = video_page(saved, moving, links)
    key = artifact_key("video", saved.key, saved.name)
    await _publish(acreate_markdown_artifact, page, key, escaped(saved.name, 200))


async def publish_batch(report: BatchReport, posters: Mapping[str, Picture], manifest: str = "") -> None:
    """Show the outcomes of a batch as a gallery and as a table. `manifest` is the list that they are from."""
    page = gallery(report, posters, address=video_address)
    videos_of = f"The videos of {escaped(manifest, 200)}" if manifest else "The videos of a batch"
    await _publish(acreate_markdown_artifact, page, "loova-batch", videos_of)
    await _publish(acreate_table_artifact, outcome_rows(report), "loova-batch-table", report.summary)


async def publish_story(report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture]) -> None:
    """Show the joined film of a story, and its shots as a gallery."""
    page = story_page(report, moving, posters, address=video_address)
    await _publish(acreate_markdown_artifact, page, "loova-story", escaped(report.title, 200))
    await _publish(acreate_table_artifact, outcome_rows(report.shots), "loova-story-table", report.summary)


async def publish_jobs_in_doubt(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> None:
    """Show the jobs in doubt, and the jobs that could not be read: key and reason."""
    page = doubts_page(jobs, problems)
    await _publish(acreate_markdown_artifact, page, "loova-in-doubt", "Jobs in doubt: a person has to decide")


async def publish_prices(table: str) -> None:
    """Show the price of a batch."""
    await _publish(acreate_markdown_artifact, table, "loova-prices", "The price of the batch; nothing was spent")


async def publish_credits(report: CreditsReport) -> None:
    """Show the account's credits and the spending."""
    await _publish(acreate_markdown_artifact, credits_page(report), "loova-credits", "Credits and spending")


async def _publish(create: Callable[..., Awaitable[Any]], content: Any, key: str, description: str) -> None:
    """Create an artifact of the current run. Outside of a run, do nothing."""
    if not is_in_run():
        return
    try:
        await create(content, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("the artifact %s was not created (%s)", key, redact(error))
