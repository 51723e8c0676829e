"""Create artifacts of the current run, which the Prefect UI shows. A failure never fails a paid job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
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
from prefect_loova._prefect.run import is_in_run
from prefect_loova.errors import redact
from prefect_loova.models.reports import BatchReport, CreditsReport, StoryReport
from prefect_loova.models.results import JobInDoubt, SavedVideo


def artifact_key(kind: str, key: str) -> str:
    """Return a stable artifact key: the Artifacts page then has a history of each request."""
    return f"loova-{kind}-{key[:16]}"


async def publish_video(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> None:
    """Show a saved video and its cost."""
    page = video_page(saved, moving, links)
    await _publish(acreate_markdown_artifact, page, artifact_key("video", saved.key), escaped(saved.name, 200))


async def publish_batch(report: BatchReport, posters: Mapping[str, Picture] | None = None) -> None:
    """Show the outcomes of a batch as a gallery and as a table."""
    await _publish(acreate_markdown_artifact, gallery(report, posters or {}), "loova-batch", "The videos of a batch")
    await _publish(acreate_table_artifact, outcome_rows(report), "loova-batch-table", report.summary)


async def publish_story(report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture]) -> None:
    """Show the joined film of a story, and its shots as a gallery."""
    await _publish(
        acreate_markdown_artifact, story_page(report, moving, posters), "loova-story", escaped(report.title, 200)
    )
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
