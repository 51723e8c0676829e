"""Where a video comes from, for Prefect: tags of the run, and the video as an asset with its reference media."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefect import tags
from prefect.assets import Asset
from prefect.client.orchestration import get_client
from prefect.context import AssetContext, FlowRunContext
from prefect.logging import get_run_logger
from pydantic import ValidationError

from prefect_loova._prefect.run import deployment_name
from prefect_loova.errors import redact
from prefect_loova.models.results import SavedVideo


@contextmanager
def tagged(models: Iterable[str]) -> Iterator[set[str]]:
    """Tag the tasks within, by model and deployment; yields the tags.

    Args:
        models: The models that videos are made with.
    """
    deployment = deployment_name()
    made = {f"model:{model}" for model in models} | ({f"deployment:{deployment}"} if deployment else set())
    with tags(*made):
        yield made


async def tag_this_run(made: set[str]) -> None:
    """Tag the current flow run too, so that it is found by them in the UI. Never a reason to fail a job."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or made <= set(run.tags):
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(run.id, tags={*run.tags, *made})
    except Exception as error:
        get_run_logger().debug("the run was not tagged (%s)", redact(error))


def record_asset(saved: SavedVideo, *, made: bool) -> None:
    """Let the current Prefect task have materialized the video out of its reference media, or have used it.

    `@materialize` takes the names of its assets beforehand, where the video's is known only in the end. The engine
    sends the events when the task has ended well.

    Args:
        saved: The video.
        made: Whether this task brought it into the bucket; else it was there already.
    """
    context, video = AssetContext.get(), _asset(saved.video)
    if context is None or video is None:
        return
    if not made:
        context.direct_asset_dependencies.add(video)
        context.update_tracked_assets()
        return
    media = (url for kind in ("image_urls", "video_urls", "audio_urls") for url in saved.request.get(kind, ()))
    context.direct_asset_dependencies.update(asset for asset in map(_asset, media) if asset is not None)
    context.downstream_assets.add(video)
    context.add_asset_metadata(
        saved.video,
        {
            "loova_task": saved.task_id,
            "model": str(saved.request.get("model", "")),
            "credits": saved.credits_cost,
            "size_bytes": saved.size_bytes,
            "duration_seconds": saved.duration_seconds,
            "sha256": saved.sha256,
            "request_key": saved.key,
        },
    )
    context.update_tracked_assets()


def _asset(uri: str) -> Asset | None:
    """An asset, or None where Prefect allows no such key."""
    try:
        return Asset(key=re.split(r"[?#]", uri)[0])
    except ValidationError:
        return None
