"""The options that the tasks share: run name, retries and cache key."""

from __future__ import annotations

import hashlib
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.runtime import task_run
from prefect.tasks import Task, exponential_backoff
from prefect.utilities.annotations import BaseAnnotation

from prefect_loova.errors import may_retry, redact


def _may_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether Prefect may retry a task: not after a final error, or one that a person has to read."""
    return may_retry(state.data)


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """Return the cache key of a call of `wait_for_video` or `save_video` within one flow run."""
    submission, videos = parameters["submission"], parameters["videos"]
    bucket = parameters["bucket"] if videos is None else videos.bucket
    if bucket is None:
        return None  # the task says what is missing
    run = context.task_run.flow_run_id or context.task_run.id
    parts = [
        str(run),
        submission.key,
        str(submission.attempt),
        submission.task_id,
        submission.api_origin,
        submission.record,
        bucket.credentials.get_s3_client().meta.endpoint_url,
    ]
    digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
    return f"{context.task.task_key}-{digest}"  # Prefect uses it as a file name


def _run_name() -> str:
    # A batch marks inputs for Prefect with `quote` and `opaque`.
    given = task_run.parameters.items()
    parameters = {name: value.unwrap() if isinstance(value, BaseAnnotation) else value for name, value in given}
    verb = task_run.task_name.partition("-")[0]
    request, submission = parameters.get("request"), parameters.get("submission")
    video = getattr(request or parameters.get("saved"), "name", None) or getattr(submission, "task_id", "")
    return f"{verb} {redact(video, 80)}".strip()


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_retry,
}
"""The retry options of each task that Prefect may run again."""

NAMED: dict[str, Any] = {"tags": {"loova"}, "task_run_name": _run_name}
"""The tag, and a run name with the prompt or the Loova task."""

NOT_CACHED: dict[str, Any] = NAMED | RETRIES | {"cache_policy": NO_CACHE}
"""The options of a task that always runs."""

CACHED: dict[str, Any] = (
    NAMED | RETRIES | {"cache_key_fn": _cache_key, "persist_result": True, "result_serializer": "json"}
)
"""The options of a task about a submission. A flow run that starts again takes the result of its earlier try."""
