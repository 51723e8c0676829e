"""Suspend a flow run until a person decides about a job in doubt, in a form in the Prefect UI."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.context import Location
from prefect_loova._prefect.pages import escaped
from prefect_loova._prefect.run import obstacle_to_suspending
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InDoubtError, InvalidRequestError, InvalidTransitionError, TaskNotFoundError
from prefect_loova.jobs.decisions import decide
from prefect_loova.models.attempts import Decision

_MAX_QUESTIONS = 20
_CANNOT_SUSPEND = "on_in_doubt='suspend' is not possible here (%s), so the run fails instead"


class DecisionForm(RunInput):
    """The decision about a job in doubt."""

    decision: Literal["adopt", "submit-again", "give-up"] = Field(
        title="Decision",
        description="adopt: you know the id of the Loova task. submit-again: you found no sign that the submit was "
        "billed, and accept the risk of a second payment. give-up: you do not want the video any more.",
    )
    task_id: str = Field("", title="Loova task", description="Only for adopt: its id.")
    who: str = Field(min_length=1, title="Who decides", description="Your name; the job record stores it.")
    why: str = Field("", title="Why", description="What you saw; the job record stores it.")
    force: bool = Field(
        False,
        title="Adopt it anyway",
        description="Only for adopt, if the task contradicts the request; say why.",
    )


async def ask_for_decision(doubt: InDoubtError, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> None:
    """Suspend the flow run until a person has decided about a job in doubt, and apply the decision.

    The form's key contains the request and the attempt. Prefect's default keys count the calls in a process; after the
    run is resumed, they would apply the decision about one job to another.

    Args:
        doubt: The error of the job.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket with the job record.
        prefix: The prefix in the bucket, below the block's own folder.

    Raises:
        InDoubtError: `doubt`, if Prefect cannot suspend this run; the log says why.
    """
    logger = get_run_logger()
    obstacle = obstacle_to_suspending()
    if obstacle:
        logger.warning(_CANNOT_SUSPEND, obstacle)
        raise doubt
    problem = ""
    for question in range(_MAX_QUESTIONS):
        form = DecisionForm.with_initial_data(description=_description(doubt, problem))
        key = f"loova-{doubt.key}-{doubt.attempt}-{question}"
        try:
            answer = await asuspend_flow_run(wait_for_input=form, key=key)
        except RuntimeError as error:
            logger.warning(_CANNOT_SUSPEND, error)
            raise doubt from None
        decision = Decision(what=answer.decision, who=answer.who, when=datetime.now(UTC), why=answer.why)
        try:
            async with Location(credentials, bucket, prefix).open() as jobs:
                task_id = answer.task_id.strip() or None
                await decide(jobs, str(doubt.key), decision, task_id, attempt=doubt.attempt, force=answer.force)
        except (InvalidRequestError, TaskNotFoundError) as error:
            problem = str(error)
            logger.warning("the decision cannot be applied: %s", problem)
        except InvalidTransitionError as error:
            logger.info("%s: continuing with the job as it is", error.message)
            return
        else:
            logger.info("job %s: %s, decided by %s", doubt.key, answer.decision, answer.who)
            return
    raise doubt


def _description(doubt: InDoubtError, problem: str) -> str:
    look, *commands = doubt.next_steps
    lines = [f"**{escaped(problem)}**"] if problem else []
    lines += [escaped(doubt.message), escaped(look), "Without this form:"]
    return "\n\n".join([*lines, "```\n" + "\n".join(commands) + "\n```"])
