"""Suspend a flow run until its video is made, and resume the runs whose videos are made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from uuid import uuid4

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import aresume_flow_run, asuspend_flow_run
from prefect.logging import get_run_logger

from prefect_loova._concurrency import map_bounded
from prefect_loova._prefect.run import obstacle_to_suspending
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.results import Submission

SUSPENDED_TAG = "loova-suspended"
"""The tag of flow runs that `collect_videos` resumes."""

_PAUSE_KEY = re.compile(r"loova-wait-(?P<record>[0-9a-f]{16})-(?P<key>[0-9a-f]{64})-[0-9a-f]{32}")
_MADE = frozenset({"saved", "failed", "rejected", "in_doubt", "abandoned"})
_PAGE = 200


def check_can_suspend() -> None:
    """Check, before anything is paid, that Prefect can suspend this run.

    Raises:
        InvalidRequestError: Names the reason.
    """
    obstacle = obstacle_to_suspending()
    if obstacle:
        raise InvalidRequestError(
            f"wait: 'suspend' was given, but Prefect can suspend only the flow run of a deployment ({obstacle})"
        )


async def suspend_until_made(submission: Submission, max_wait: float) -> None:
    """Suspend this flow run. `collect_videos` resumes it when the Loova task has ended.

    A resumed run starts again from the beginning, and finds its purchase in the job record. Prefect suspends a run once
    for each key, so the key is new each time: somebody may resume the run too early.

    Args:
        submission: The purchase that the run waits for.
        max_wait: Seconds after which Prefect fails the suspended run. The collector saves the video all the same.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("there is no flow run to suspend")
    run = context.flow_run
    if SUSPENDED_TAG not in run.tags:
        async with get_client() as client:
            await client.update_flow_run(run.id, tags={*run.tags, SUSPENDED_TAG})
    get_run_logger().info("Loova task %s: the run is suspended until the video is saved", submission.task_id)
    key = f"loova-wait-{_digest(submission.record)}-{submission.key}-{uuid4().hex}"
    await asuspend_flow_run(timeout=max(int(max_wait), 1), key=key)


async def resume_suspended_runs(jobs: VideoJobs) -> int:
    """Resume each suspended flow run whose job below this prefix has ended, and return their number.

    A problem with one run does not stop the others. The next call tries it again.
    """

    async def resume(run: FlowRun) -> int:
        match = _PAUSE_KEY.fullmatch((run.state and run.state.state_details.pause_key) or "")
        if match is None or match["record"] != _digest(jobs.records.uri(jobs.records.record_key(match["key"]))):
            return 0
        try:
            stored = await jobs.records.read(match["key"])
            if stored is None or stored.record.state not in _MADE:
                return 0
            await aresume_flow_run(run.id)
        except (NotPausedError, FlowPauseTimeout):
            return 0  # another collector, or a person, has resumed it
        except Exception as error:
            get_run_logger().warning("flow run %s is suspended and cannot be resumed (%s)", run.name, redact(error))
            return 0
        return 1

    try:
        return sum(await map_bounded(resume, [run async for run in _suspended_runs()], 10))
    except Exception as error:
        get_run_logger().warning("the suspended flow runs cannot be listed (%s)", redact(error))
        return 0


def _digest(record: str) -> str:
    """Return what a pause key says of a record's URI: runs of other buckets and prefixes are not ours to resume."""
    return hashlib.sha256(record.encode()).hexdigest()[:16]


async def _suspended_runs() -> AsyncIterator[FlowRun]:
    wanted = FlowRunFilter.model_validate(
        {"tags": {"all_": [SUSPENDED_TAG]}, "state": {"name": {"any_": ["Suspended"]}}}
    )
    async with get_client() as client:
        offset = 0
        while runs := await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=offset):
            for run in runs:
                yield run
            offset += _PAGE
