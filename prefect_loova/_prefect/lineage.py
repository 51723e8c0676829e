"""Lineage in Prefect: tags of the run, and the video as an asset with its reference media."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from prefect import tags
from prefect.assets import Asset
from prefect.client.orchestration import get_client
from prefect.context import AssetContext, FlowRunContext
from prefect.logging import get_run_logger
from pydantic import ValidationError

from prefect_loova._prefect.run import read_deployment_name
from prefect_loova.errors import redact
from prefect_loova.models.media import KINDS
from prefect_loova.models.published import PublishedVideo
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

_MOST_LABELS = 10


@asynccontextmanager
async def tagged(requests: Iterable[VideoRequest]) -> AsyncIterator[None]:
    """Tag the current flow run, and the tasks in the block, by model and deployment.

    The run gets a tag for each label too, unless there are more than 10. `label_tags` are the tags of a task.

    Args:
        requests: The videos to make.
    """
    deployment, wanted = await read_deployment_name(), list(requests)
    task_tags = {f"model:{one.model}" for one in wanted} | ({f"deployment:{deployment}"} if deployment else set())
    labels = {tag for one in wanted for tag in label_tags(one.label)}
    with tags(*task_tags):
        await _tag_this_run(task_tags | (labels if len(labels) <= _MOST_LABELS else set()))
        yield


def label_tags(label: str) -> set[str]:
    """Return the tag of a label, if it is not empty."""
    return {f"label:{redact(label)}"} if label else set()


async def _tag_this_run(run_tags: set[str]) -> None:
    """Tag the current flow run, so that the UI's filter finds it. A failure does not fail the job."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run_tags <= set(run.tags):
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(run.id, tags={*run.tags, *run_tags})
    except Exception as error:
        get_run_logger().debug("the run was not tagged (%s)", redact(error))


def record_asset(saved: SavedVideo, *, made: bool) -> None:
    """Record the video as an asset that the current task materialized from its reference media, or that it used.

    Args:
        saved: The video.
        made: Whether this task saved it to the bucket. If not, the task depends on it.
    """
    video = _asset(saved.video)
    if video is None:
        return
    if not made:
        _add_to_task({video})
        return
    media = (_asset(url) for kind in KINDS for url in saved.request.get(kind, ()))
    metadata = {
        "loova_task": saved.task_id,
        "model": str(saved.request.get("model", "")),
        "credits": saved.credits_cost,
        "size_bytes": saved.size_bytes,
        "duration_seconds": saved.duration_seconds,
        "sha256": saved.sha256,
        "request_key": saved.key,
        **({"label": redact(saved.label)} if saved.label else {}),
    }
    _add_to_task({asset for asset in media if asset is not None}, video, metadata)


def record_published(published: PublishedVideo) -> None:
    """Record a published video as an asset that the current task materialized from the saved video, or that it used."""
    copy, source = _asset(published.video), _asset(published.source)
    if copy is None:
        return
    if not published.is_new:
        _add_to_task({copy})
        return
    metadata = published.model_dump(mode="json", include={"label", "key", "credits", "sha256", "size_bytes"})
    _add_to_task({source} if source else set(), copy, metadata)


def _add_to_task(
    dependencies: set[Asset], materialized: Asset | None = None, metadata: dict[str, Any] | None = None
) -> None:
    """Add assets to the current task; the engine sends the events when the task succeeds.

    This changes Prefect's AssetContext, which is not documented as an API. `@materialize` needs the asset's key before
    the task runs, but the video's key is known only when the task ends.
    """
    context = AssetContext.get()
    if context is None:
        return
    context.direct_asset_dependencies.update(dependencies)
    if materialized is not None:
        context.downstream_assets.add(materialized)
        context.add_asset_metadata(materialized.key, metadata or {})
    context.update_tracked_assets()


def _asset(uri: str) -> Asset | None:
    """Return an asset without query and fragment, or None if Prefect does not allow the key."""
    try:
        return Asset(key=re.split(r"[?#]", uri)[0])
    except ValidationError:
        return None
