"""What the Prefect UI shows of a job. Never a reason to fail a paid one."""

from __future__ import annotations

import re

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_loova.errors import shown
from prefect_loova.models import JobInDoubt, SavedVideo, Submission


def escaped(text: object, limit: int = 2000) -> str:
    """Foreign text for markdown: every character that could mean something to markdown or HTML as an entity."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", shown(text, limit))


def _cell(value: str) -> str:
    """A value that can be copied where it is harmless, such as a URI or a checksum."""
    return f"`{value}`" if re.fullmatch(r"[\w./:-]+", value, re.ASCII) else escaped(value)


def artifact_key(kind: str, key: str) -> str:
    """A stable artifact key, so that the Artifacts page has a history of a request."""
    return f"loova-{kind}-{key[:16]}"


async def publish_video(submission: Submission, saved: SavedVideo) -> None:
    """Show a saved video as a markdown and a link artifact of the current run; outside of a run, do nothing."""
    try:
        get_run_context()
    except MissingContextError:
        return
    try:
        await acreate_markdown_artifact(
            _report(submission, saved), key=artifact_key("video", saved.key), description="A video made on Loova"
        )
        await acreate_link_artifact(
            saved.video, link_text=saved.video, key=artifact_key("link", saved.key), description="The video in S3"
        )
    except Exception as error:
        get_run_logger().warning("Loova task %s: no artifact was made (%s)", saved.task_id, shown(error))


async def publish_jobs_in_doubt(jobs: list[JobInDoubt]) -> None:
    """Show the jobs that wait for a person as a markdown artifact of the current run; outside of a run, do nothing."""
    try:
        get_run_context()
    except MissingContextError:
        return
    rows = [
        f"| {job.when} | {escaped(job.prompt, 80)} | {job.credits_estimate:g} | {escaped(job.evidence)} | `{job.key}` |"
        for job in jobs
    ]
    table = ["| Submitted | Prompt | Credits at most | What the balance tells | Key |", "|---|---|---|---|---|", *rows]
    commands = [f"```\n{job.when}\n" + "\n".join(job.next_steps[1:]) + "\n```" for job in jobs]
    report = "\n\n".join(["\n".join(table), *commands]) if jobs else "No job is in doubt."
    try:
        await acreate_markdown_artifact(report, key="loova-in-doubt", description="Jobs that wait for a person")
    except Exception as error:
        get_run_logger().warning("no artifact of the jobs in doubt was made (%s)", shown(error))


def _report(submission: Submission, saved: SavedVideo) -> str:
    cost = "not named" if saved.credits_cost is None else f"{saved.credits_cost:g}"
    rows = {
        "Video": saved.video,
        "Prompt": submission.prompt,
        "Model": submission.model,
        "Loova task": saved.task_id,
        "Credits charged": f"{cost} (estimate {submission.credits_estimate:g})",
        "Paid": "by an earlier run" if saved.reused else "by this run",
        "Size": f"{saved.size_bytes:,} bytes",
        "SHA-256": saved.sha256,
        "Request key": saved.key,
        "Job record": saved.record,
    }
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
