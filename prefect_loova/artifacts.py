"""What the Prefect UI shows of a job. Never a reason to fail a paid one."""

from __future__ import annotations

import re
from typing import get_args

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_loova.accounts import CreditsReport
from prefect_loova.batch import BatchReport, Outcome
from prefect_loova.errors import shown
from prefect_loova.models import JobInDoubt, SavedVideo, Submission

_ADDRESS = re.compile(r"https?:(?=//)|www(?=\.)|(?<=[\w.+-])@(?=[\w-])", re.IGNORECASE)

_MOST_ROWS = 500


def escaped(text: object, limit: int = 2000) -> str:
    """Foreign text for markdown: a backslash before every character that could mean something to markdown or HTML.

    Not entities: the first of Prefect's two UIs shows `&#42;` as it stands. And the second makes a link of whatever
    looks like an address, escaped or not, so that an address gets an invisible character in its middle.
    """
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", _ADDRESS.sub("\\g<0>\u2060", shown(text, limit)))


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
    report = "\n\n".join(map(_doubt, jobs)) or "No job is in doubt."
    await _publish_markdown(report, "loova-in-doubt", "Jobs that wait for a person")


async def publish_batch(report: BatchReport) -> None:
    """Show what became of a batch as a markdown artifact of the current run, what needs a person first."""
    await _publish_markdown(_batch(report), "loova-batch", "What became of each video")


def _batch(report: BatchReport) -> str:
    order = get_args(Outcome)
    rows = [
        f"| {video.outcome.replace('_', ' ')} | {escaped(video.name, 80)} "
        f"| {_cell(video.video or '') if video.video else escaped(video.reason, 300)} "
        f"| {video.credits_charged:g} | {_cell(video.task_id or '')} |"
        for video in sorted(report.videos, key=lambda video: order.index(video.outcome))[:_MOST_ROWS]
    ]
    left = len(report.videos) - len(rows)
    more = [f"\n{left:,} more are not shown; those that need a person stand above."] if left else []
    head = ["", "| State | Video | Where, or why not | Credits | Loova task |", "|---|---|---|---|---|"]
    return "\n".join([escaped(report.summary), *head, *rows, *more])


async def publish_prices(table: str) -> None:
    """Show what a batch would cost as a markdown artifact of the current run."""
    await _publish_markdown(table, "loova-prices", "What the batch would cost; nothing was spent")


async def publish_credits(report: CreditsReport) -> None:
    """Show the account's credits and what was spent as a markdown artifact of the current run."""
    rows = [
        f"| {day.day} | {_cell(day.model)} | {escaped(day.deployment)} | {day.videos} | {day.credits:g} "
        f"| {day.unsettled:g} |"
        for day in report.days[:_MOST_ROWS]
    ]
    head = ["", "| Day | Model | Deployment | Videos | Credits | May change |", "|---|---|---|---:|---:|---:|"]
    shown_report = "\n".join([escaped(report.summary), *head, *rows])
    await _publish_markdown(shown_report, "loova-credits", "Credits, and what was spent")


async def _publish_markdown(report: str, key: str, description: str) -> None:
    try:
        get_run_context()
    except MissingContextError:
        return
    try:
        await acreate_markdown_artifact(report, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("the artifact %s was not made (%s)", key, shown(error))


def _doubt(job: JobInDoubt) -> str:
    commands = "\n".join(job.next_steps[1:])
    facts = [
        f"submitted at {job.when}, attempt {job.attempt}, up to {job.credits_estimate:g} credits",
        f"the answer is lost: {escaped(job.reason)}",
        escaped(job.evidence),
    ]
    return "\n".join(
        [f"### {escaped(job.prompt, 80)}", "", *(f"- {fact}" for fact in facts), "", f"```\n{commands}\n```"]
    )


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
