"""The current Prefect run: its deployment, the run that started it, and the local files that it may read."""

from __future__ import annotations

import contextvars
import logging
import os
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import deployment, flow_run, task_run

from prefect_loova.errors import redact
from prefect_loova.jobs.local_files import LocalFiles

JOB_FIELDS: ContextVar[Mapping[str, str] | None] = ContextVar("JOB_FIELDS", default=None)
"""The fields of log records in the current step of a job."""


def is_in_run() -> bool:
    """Return whether this code runs in a flow or a task."""
    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


def run_identity() -> dict[str, str]:
    """Return what a job record keeps about the current run."""
    known = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "flow_run": flow_run.id,
        "root_flow_run": _root_run(),
        "flow": flow_run.flow_name,
        "deployment": deployment_name(),
        "task_run": task_run.id,
    }
    return {name: str(value) for name, value in known.items() if value}


def _root_run() -> str | None:
    """Return the run that a person or a schedule started. A subflow gets a new run each time its parent is retried.

    In a subflow this asks Prefect's API, once. A failure does not fail the job.
    """
    run = flow_run.id
    try:
        return _root_of(run) if run else None
    except Exception as error:
        logging.getLogger(__name__).warning("the run that started this one is not known (%s)", redact(error))
        return str(run)


@lru_cache(maxsize=64)
def _root_of(run: str) -> str:
    return str(flow_run.root_flow_run_id or run)


def local_files() -> LocalFiles:
    """Return the local files that the parameters of this run may name.

    Anybody with the UI can set the parameters of a deployment's run. They may name files below the working directory
    only.
    """
    return LocalFiles(within=Path.cwd()) if deployment_name() else LocalFiles()


def deployment_name() -> str | None:
    """Return the deployment of this run, or of the run that started it."""
    context, run = FlowRunContext.get(), flow_run.id
    known = context.flow_run if context else None
    is_root = known and not known.deployment_id and not known.parent_task_run_id
    if run is None or (is_root and not _process_run()):
        return None
    return _deployment_of(run)


def _process_run() -> str | None:
    """Return the run that a worker started this process for. Flows that lost their context belong to it too.

    Outside of every context, Prefect's public `flow_run.id` reads it from the worker's environment variables.
    """
    run: str | None = contextvars.Context().run(lambda: flow_run.id)
    return run


def _deployment_of(run: str) -> str | None:
    """Cache the deployment: for a run without one, Prefect asks its API each time and blocks the event loop."""
    if run not in _deployments:
        _deployments[run] = deployment.name
    return _deployments[run]


_deployments: dict[str, str | None] = {}
"""The deployments of this process's runs, by the run's id."""


async def read_deployment_name() -> str | None:
    """Return `deployment_name()`, and ask with the run's own API client if it is not known yet.

    Prefect's `deployment.name` opens a new client, in a thread that also sends the run's events: it took 0.15 s.
    """
    context = FlowRunContext.get()
    known = context.flow_run if context else None
    if known and known.deployment_id and str(known.id) not in _deployments:
        async with get_client() as client:
            _deployments[str(known.id)] = (await client.read_deployment(known.deployment_id)).name
    return deployment_name()


def job_fields(key: str | None, task_id: str | None = None) -> dict[str, str]:
    """Return the fields of a log record that belongs to a job, for `extra`.

    Args:
        key: The request's key, if it is known.
        task_id: The Loova task, if it is known.
    """
    known = {"key": key, "loova_task_id": task_id, "deployment": deployment_name()}
    return {name: value for name, value in known.items() if value}


def obstacle_to_suspending() -> str | None:
    """Return why Prefect cannot suspend this run, or None."""
    context = FlowRunContext.get()
    if TaskRunContext.get() is not None:
        return "it runs in a task"
    if context is None or context.flow_run is None:
        return "it is no flow run"
    if context.flow_run.parent_task_run_id is not None:
        return "it is a subflow"
    if context.flow_run.deployment_id is None:
        return "the run has no deployment"
    return None
