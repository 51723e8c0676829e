"""The command for jobs in doubt: list them, show one, apply a decision, or take an adoption back.

    python -m prefect_loova.resolve --bucket my-bucket
    python -m prefect_loova.resolve KEY adopt TASK_ID --bucket my-bucket --why "found it in the dashboard"
    python -m prefect_loova.resolve KEY submit-again --bucket my-bucket
    python -m prefect_loova.resolve KEY give-up --bucket my-bucket
    python -m prefect_loova.resolve KEY take-back --bucket my-bucket --why "it is another job's task"

It needs a Prefect server only for blocks. Exit codes: 0 listed or decided; 2 invalid input; 1 any other error.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any, get_args

from prefect_loova._prefect.context import Location
from prefect_loova.command import Parser, Place, in_place, run, say
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.jobs.decide import decide
from prefect_loova.jobs.doubt import DoubtReport, find_doubts, job_in_doubt
from prefect_loova.models.attempts import Decision, DecisionName
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import JobInDoubt


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="resolve_job.py", description="List the jobs in doubt, or decide about one.")
    parser.add_argument(
        "key", nargs="?", help="the job's key, or its beginning; without it, the command lists all jobs in doubt"
    )
    parser.add_argument("decision", nargs="?", metavar="DECISION", help=", ".join(get_args(DecisionName)))
    parser.add_argument("task_id", nargs="?", metavar="TASK_ID", help="the Loova task to adopt")
    parser.add_argument(
        "--attempt", type=int, metavar="N", help="the attempt to decide about (default: the one in doubt)"
    )
    parser.add_argument("--who", metavar="NAME", help="who decides (default: your user name); the record stores it")
    parser.add_argument("--why", metavar="TEXT", default="", help="what you saw; the record stores it")
    parser.add_argument(
        "--force", action="store_true", help="adopt a task that contradicts the request; --why must give the reason"
    )
    parser.add_place()
    return parser


async def resolve(args: argparse.Namespace, where: Place) -> dict[str, Any]:
    """List, show or decide. Print the result, and return it as JSON."""
    async with Location(where.credentials, where.bucket, args.prefix).open() as jobs:
        if args.decision is not None:
            decision = Decision(
                what=args.decision, who=args.who or getpass.getuser(), when=datetime.now(UTC), why=args.why
            )
            record = await decide(jobs, args.key, decision, args.task_id, attempt=args.attempt, force=args.force)
            message = _decision_message(jobs.name(record), record, decision)
            say(message) if args.json else print(message)
            return {"job": record.model_dump(mode="json", exclude_none=True)}
        if args.key is None:
            doubts = await find_doubts(jobs)
        else:
            doubts = DoubtReport([await job_in_doubt(jobs, args.key)], [])
        if not args.json:
            print("\n\n".join(map(_describe, doubts.in_doubt)) or _no_doubts(doubts))
        for key, reason in doubts.problems:
            say(f"job {key} cannot be read, and may be in doubt: {reason}")
        return {
            "jobs": [job.model_dump(mode="json", exclude_none=True) for job in doubts.in_doubt],
            "problems": [{"key": key, "reason": reason} for key, reason in doubts.problems],
        }


def _no_doubts(doubts: DoubtReport) -> str:
    count = len(doubts.problems)
    if not count:
        return "No job is in doubt."
    return f"No job that can be read is in doubt; {count} open {'job' if count == 1 else 'jobs'} cannot be read."


def _describe(job: JobInDoubt) -> str:
    return "\n".join(
        [
            f"{job.key}, attempt {job.attempt}: {redact(job.prompt, 80)}",
            f"  submitted at {job.when}; the answer is lost ({job.reason}); up to {job.credits_estimate:g} credits",
            f"  {job.evidence}",
            *job.next_steps,
        ]
    )


def _decision_message(name: str, record: JobRecord, decision: Decision) -> str:
    next_step = {
        "adopt": "Run the same request again to get its video.",
        "submit-again": "Run the same request again to submit it once more.",
        "give-up": "It is never bought again. Ask for another take if you want the video.",
        "take-back": "It is in doubt again. A saved video stays in the bucket, but no longer belongs to a job.",
    }
    return f"{name} is {record.state}, decided by {redact(decision.who, 80)}. {next_step[decision.what]}"


def main(argv: list[str]) -> int:
    """Run the command, and return its exit code."""
    return run(_work, parser(), argv)


def _work(args: argparse.Namespace) -> None:
    if args.decision not in (None, *get_args(DecisionName)):
        rule = f"must be one of {', '.join(get_args(DecisionName))}"
        raise InvalidRequestError(f"decision: {redact(repr(args.decision), 120)} was given: {rule}")
    result = in_place(args, partial(resolve, args))
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
