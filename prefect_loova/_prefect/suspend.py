"""Ask a person in the Prefect UI about a job in doubt: the flow run is suspended until a form is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from prefect.context import FlowRunContext, TaskRunContext
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._prefect.context import Location
from prefect_loova._prefect.pages import escaped
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InDoubtError, InvalidRequestError, InvalidTransitionError, TaskNotFoundError
from prefect_loova.jobs.decide import decide
from prefect_loova.models.job_record import Decision

_MOST_QUESTIONS = 20


class DecisionForm(RunInput):
    """What shall become of a job in doubt?"""

    decision: Literal["adopt", "submit-again", "give-up"] = Field(
        title="Decision",
        description="adopt: the task is in the Loova dashboard. submit-again: it is not, and a second payment is "
        "risked. give-up: no video is wanted any more.",
    )
    task_id: str = Field("", title="Loova task", description="Only to adopt: its id in the dashboard.")
    who: str = Field(min_length=1, title="Who decides", description="Your name; it stays in the job record.")
    why: str = Field("", title="Why", description="What you saw; it stays in the job record.")
    force: bool = Field(
        False,
        title="Adopt it all the same",
        description="Only to adopt a task that contradicts what was sent; say why.",
    )


async def ask_for_decision(doubt: InDoubtError, credentials: LoovaCredentials, bucket: S3Bucket, prefix: str) -> None:
    """Suspend the flow run until a person has decided about a job in doubt, and carry the decision out.

    The question's key names the request and the attempt. Prefect's own keys count calls in a process; after the run is
    resumed, they would hand the answer about one job to another.

    Args:
        doubt: What is known of the job.
        credentials: The block with the API key.
        bucket: The block of the bucket with the job record.
        prefix: Where in the bucket, below the block's own folder.

    Raises:
        InDoubtError: `doubt`, where Prefect cannot suspend this run; the log says why.
    """
    logger = get_run_logger()
    obstacle = _obstacle()
    if obstacle:
        logger.warning("on_in_doubt='suspend' cannot be done here (%s), so the run fails instead", obstacle)
        raise doubt
    problem = ""
    for question in range(_MOST_QUESTIONS):
        form = DecisionForm.with_initial_data(description=_described(doubt, problem))
        key = f"loova-{doubt.key}-{doubt.attempt}-{question}"
        try:
            answer = await asuspend_flow_run(wait_for_input=form, key=key)
        except RuntimeError as refused:
            logger.warning("on_in_doubt='suspend' cannot be done here (%s), so the run fails instead", refused)
            raise doubt from None
        decision = Decision(what=answer.decision, who=answer.who, when=datetime.now(UTC), why=answer.why)
        try:
            async with Location(credentials, bucket, prefix).open() as jobs:
                task_id = answer.task_id.strip() or None
                await decide(jobs, str(doubt.key), decision, task_id, attempt=doubt.attempt, force=answer.force)
        except (InvalidRequestError, TaskNotFoundError) as error:
            problem = str(error)
            logger.warning("the decision cannot be carried out: %s", problem)
        except InvalidTransitionError as error:
            logger.info("%s: going on with what is there", error.message)
            return
        else:
            logger.info("job %s: %s, decided by %s", doubt.key, answer.decision, answer.who)
            return
    raise doubt


def _obstacle() -> str | None:
    """Why Prefect would not suspend this run, or None."""
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


def _described(doubt: InDoubtError, problem: str) -> str:
    look, *commands = doubt.next_steps
    told = [f"**{escaped(problem)}**"] if problem else []
    told += [escaped(doubt.message), escaped(look), "Outside of this form:"]
    return "\n\n".join([*told, "```\n" + "\n".join(commands) + "\n```"])
