"""`prefect-loova resolve`: list the jobs in doubt, show one, apply a decision, or take an adoption back."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from prefect_loova._prefect.context import Location
from prefect_loova._sync import run_sync
from prefect_loova.cli.options import Where
from prefect_loova.cli.output import say
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import DoubtReport, find_doubts, job_in_doubt
from prefect_loova.models.attempts import Decision, DecisionName
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import JobInDoubt

_NEXT_STEPS = {
    "adopt": "Run the same request again to get its video.",
    "submit-again": "Run the same request again to submit it once more.",
    "give-up": "It is never bought again. Ask for another take if you want the video.",
    "take-back": "It is in doubt again. A saved video stays in the bucket, but no longer belongs to a job.",
}


def resolve(
    key: Annotated[str | None, Parameter(help="the job's key, or its beginning (default: list all in doubt)")] = None,
    decision: Annotated[str | None, Parameter(help=", ".join(get_args(DecisionName)))] = None,
    task_id: Annotated[str | None, Parameter(help="the Loova task to adopt")] = None,
    /,
    *,
    attempt: Annotated[int | None, Parameter(help="the attempt to decide about (default: the one in doubt)")] = None,
    who: Annotated[str | None, Parameter(help="who decides (default: your user name); it is stored")] = None,
    why: Annotated[str, Parameter(help="what you saw; it is stored")] = "",
    force: Annotated[bool, Parameter(help="adopt a task that contradicts the request; needs --why")] = False,
    where: Where = Where(),  # noqa: B008
) -> None:
    """List, show or decide. It needs a Prefect server only for blocks.

    Exit codes: 0 listed or decided; 2 invalid input; 1 any other error.
    """
    if decision not in (None, *get_args(DecisionName)):
        rule = f"must be one of {', '.join(get_args(DecisionName))}"
        raise InvalidRequestError(f"decision: {redact(repr(decision), 120)} was given: {rule}")
    with where.open() as location:
        if key is None or decision is None:
            result = run_sync(_list(location, key, as_json=where.json))
        else:
            made = Decision.model_validate(
                {"what": decision, "who": who or getpass.getuser(), "when": datetime.now(UTC), "why": why}
            )
            result = run_sync(_decide(location, key, made, task_id, attempt, force=force, as_json=where.json))
    if where.json:
        print(json.dumps(result))


async def _list(location: Location, key: str | None, *, as_json: bool) -> dict[str, Any]:
    """Print all jobs in doubt, or one, and return them as JSON."""
    async with location.open() as jobs:
        doubts = await find_doubts(jobs) if key is None else DoubtReport([await job_in_doubt(jobs, key)], [])
    if not as_json:
        print("\n\n".join(map(_describe, doubts.in_doubt)) or _no_doubts(doubts))
    for problem, reason in doubts.problems:
        say(f"job {problem} cannot be read, and may be in doubt: {reason}")
    return {
        "jobs": [job.model_dump(mode="json", exclude_none=True) for job in doubts.in_doubt],
        "problems": [{"key": problem, "reason": reason} for problem, reason in doubts.problems],
    }


async def _decide(
    location: Location,
    key: str,
    decision: Decision,
    task_id: str | None,
    attempt: int | None,
    *,
    force: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Apply a decision, print what became of the job, and return it as JSON."""
    async with location.open() as jobs:
        record = await decide(jobs, key, decision, task_id, attempt=attempt, force=force)
        message = _decision_message(jobs.name(record), record, decision)
    say(message) if as_json else print(message)
    return {"job": record.model_dump(mode="json", exclude_none=True)}


def _no_doubts(doubts: DoubtReport) -> str:
    count = len(doubts.problems)
    if not count:
        return "No job is in doubt."
    return f"No job that can be read is in doubt; {count} open {'job' if count == 1 else 'jobs'} cannot be read."


def _describe(job: JobInDoubt) -> str:
    return "\n".join(
        [
            f"{job.key[:12]}, attempt {job.attempt}: {redact(job.prompt, 80)}",
            f"  submitted at {job.when}; the answer is lost ({job.reason}); up to {job.credits_estimate:g} credits",
            f"  {job.evidence}",
            *job.next_steps,
        ]
    )


def _decision_message(name: str, record: JobRecord, decision: Decision) -> str:
    return f"{name} is {record.state}, decided by {redact(decision.who, 80)}. {_NEXT_STEPS[decision.what]}"
