"""The current Prefect run: its deployment, the run that started it, and the local files that it may read."""

from __future__ import annotations

import logging
import os
import socket
from functools import lru_cache
from pathlib import Path

from prefect.context import FlowRunContext
from prefect.runtime import deployment, flow_run, task_run

from prefect_loova.errors import redact
from prefect_loova.jobs.local_files import LocalFiles


def run_identity() -> dict[str, str]:
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
    """The run that a person or a schedule started: a subflow is another run each time that its parent is retried.

    In a subflow Prefect's API is asked for it, once; that it does not answer is no reason to fail a job.
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
    """The local files that the parameters of this run may name: in a run of a deployment, whose parameters anybody
    with the UI may give, those below the working directory only."""
    return LocalFiles(within=Path.cwd()) if deployment_name() else LocalFiles()


def deployment_name() -> str | None:
    """The deployment of this run, or of the one that started it."""
    context, run = FlowRunContext.get(), flow_run.id
    known = context.flow_run if context else None
    is_a_root = known and not known.deployment_id and not known.parent_task_run_id
    # A worker's process has the run of the deployment in its environment, also for flows that it calls without context.
    if run is None or (is_a_root and "PREFECT__FLOW_RUN_ID" not in os.environ):
        return None
    return _deployment_of(run)


@lru_cache(maxsize=64)
def _deployment_of(run: str) -> str | None:
    """For a run without one, Prefect would ask its API each time, and everything in this process would wait."""
    name: str | None = deployment.name
    return name
