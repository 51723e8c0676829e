"""Put pages into the Prefect UI, as artifacts of the current run. Never a reason to fail a paid job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

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
from prefect_loova.errors import redact
from prefect_loova.models.reports import BatchReport, CreditsReport, StoryReport
from prefect_loova.models.results import JobInDoubt, SavedVideo


def artifact_key(kind: str, key: str) -> str:
    """A stable artifact key, so that the Artifacts page has a history of a request."""
    return f"loova-{kind}-{key[:16]}"


async def publish_video(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> None:
    """Show a saved video, its cost and its state."""
    page = video_page(saved, moving, links)
    await _publish(acreate_markdown_artifact, page, artifact_key("video", saved.key), escaped(saved.name, 200))


async def publish_batch(report: BatchReport, posters: Mapping[str, Picture] | None = None) -> None:
    """Show what became of a batch: a gallery, what needs a person first, and a table that sorts."""
    await _publish(acreate_markdown_artifact, gallery(report, posters or {}), "loova-batch", "The videos of a batch")
    await _publish(acreate_table_artifact, outcome_rows(report), "loova-batch-table", report.summary)


async def publish_story(report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture]) -> None:
    """Show a story: the joined film, moving, and its shots as a gallery."""
    await _publish(
        acreate_markdown_artifact, story_page(report, moving, posters), "loova-story", escaped(report.title, 200)
    )
    await _publish(acreate_table_artifact, outcome_rows(report.shots), "loova-story-table", report.summary)


async def publish_jobs_in_doubt(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> None:
    """Show the jobs that wait for a person, and those that could not be looked at: key and reason."""
    page = doubts_page(jobs, problems)
    await _publish(acreate_markdown_artifact, page, "loova-in-doubt", "Jobs that wait for a person")


async def publish_prices(table: str) -> None:
    """Show what a batch would cost."""
    await _publish(acreate_markdown_artifact, table, "loova-prices", "What the batch would cost; nothing was spent")


async def publish_credits(report: CreditsReport) -> None:
    """Show the account's credits and what was spent."""
    await _publish(acreate_markdown_artifact, credits_page(report), "loova-credits", "Credits, and what was spent")


async def _publish(make: Callable[..., Awaitable[Any]], content: Any, key: str, description: str) -> None:
    """Make an artifact of the current run; outside of a run, do nothing."""
    try:
        get_run_context()
    except MissingContextError:
        return
    try:
        await make(content, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("the artifact %s was not made (%s)", key, redact(error))
