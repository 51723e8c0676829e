"""Create artifacts of the current run, which the Prefect UI shows. A failure never fails a paid job."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_UI_URL

from prefect_loova._prefect.gallery import gallery, outcome_rows, story_page
from prefect_loova._prefect.pages import (
    Links,
    Picture,
    credits_page,
    doubts_page,
    escaped,
    prices_page,
    published_page,
    video_page,
)
from prefect_loova._prefect.run import is_in_run
from prefect_loova.errors import redact
from prefect_loova.models.published import PublishedVideos
from prefect_loova.models.reports import BatchReport, CreditsReport, PromptPrice, StoryReport
from prefect_loova.models.results import JobInDoubt, SavedVideo

_PAGE_LIMIT = 200  # Prefect's server returns at most 200 artifacts at once


def artifact_key(kind: str, key: str, name: str = "") -> str:
    """Return a stable artifact key, so that the Artifacts page has a history of each request.

    The name comes before the first digits of the request's key.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return "-".join(filter(None, ("loova", kind, words, key[:16])))


async def page_addresses(report: BatchReport) -> dict[str, str]:
    """Return the URLs of the videos' pages in the Prefect UI, by request key.

    A video without a page has none, for example one that was saved with another Prefect server.
    """
    ui = PREFECT_UI_URL.value()
    saved = [video for video in report.videos if video.video]
    if not ui or not saved or not is_in_run():
        return {}
    former = {artifact_key("video", video.key): video.key for video in saved}
    keys = former | {artifact_key("video", video.key, video.name): video.key for video in saved}
    names, found = list(keys), set[str | None]()
    try:
        async with get_client() as client:
            for start in range(0, len(names), _PAGE_LIMIT):
                wanted = ArtifactCollectionFilterKey(any_=names[start : start + _PAGE_LIMIT])
                artifact_filter = ArtifactCollectionFilter(key=wanted)
                found |= {page.key for page in await client.read_latest_artifacts(artifact_filter=artifact_filter)}
    except Exception as error:
        get_run_logger().debug("the videos' pages are not linked (%s)", redact(error))
    return {key: f"{ui}/artifacts/key/{name}" for name, key in keys.items() if name in found}


async def publish_video(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> None:
    """Show a saved video and its cost."""
    page = video_page(saved, moving, links)
    key = artifact_key("video", saved.key, saved.name)
    await _publish(acreate_markdown_artifact, page, key, escaped(saved.name, 200))


async def publish_batch(report: BatchReport, posters: Mapping[str, Picture], manifest: str = "") -> None:
    """Show the outcomes of a batch as a gallery and as a table. `manifest` is the list that they are from."""
    page = gallery(report, posters, await page_addresses(report))
    videos_of = f"The videos of {escaped(manifest, 200)}" if manifest else "The videos of a batch"
    await _publish(acreate_markdown_artifact, page, "loova-batch", videos_of)
    await _publish(acreate_table_artifact, outcome_rows(report), "loova-batch-table", report.summary)


async def publish_review(report: BatchReport, posters: Mapping[str, Picture]) -> str | None:
    """Show takes that wait for a person as a gallery, and return the page's URL in the Prefect UI."""
    page = gallery(report, posters, await page_addresses(report))
    made = await _publish(acreate_markdown_artifact, page, "loova-review", "Takes that wait for a person")
    ui = PREFECT_UI_URL.value()
    return f"{ui}/artifacts/artifact/{made}" if ui and made else None


async def publish_story(report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture]) -> None:
    """Show the joined film of a story, and its shots as a gallery."""
    page = story_page(report, moving, posters, await page_addresses(report.shots))
    await _publish(acreate_markdown_artifact, page, "loova-story", escaped(report.title, 200))
    await _publish(acreate_table_artifact, outcome_rows(report.shots), "loova-story-table", report.summary)


async def publish_collection(published: PublishedVideos) -> None:
    """Show the videos of a published collection."""
    await _publish(acreate_markdown_artifact, published_page(published), "loova-published", escaped(published.to, 200))


async def publish_jobs_in_doubt(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> None:
    """Show the jobs in doubt, and the jobs that could not be read: key and reason."""
    page = doubts_page(jobs, problems)
    await _publish(acreate_markdown_artifact, page, "loova-in-doubt", "Jobs in doubt: a person has to decide")


async def publish_prices(table: str, prompts: Sequence[PromptPrice] = ()) -> None:
    """Show the price of a batch, and its prompts."""
    await _publish(
        acreate_markdown_artifact,
        prices_page(table, prompts),
        "loova-prices",
        "The price of the batch; nothing was spent",
    )


async def publish_credits(report: CreditsReport) -> None:
    """Show the account's credits and the spending."""
    await _publish(acreate_markdown_artifact, credits_page(report), "loova-credits", "Credits and spending")


async def _publish(create: Callable[..., Awaitable[Any]], content: Any, key: str, description: str) -> UUID | None:
    """Create an artifact of the current run and return its id. Outside of a run, do nothing."""
    if not is_in_run():
        return None
    try:
        made: UUID = await create(content, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("the artifact %s was not created (%s)", key, redact(error))
        return None
    return made
