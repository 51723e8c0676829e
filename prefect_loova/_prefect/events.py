"""Send events for Prefect's automations: a job changed, or the credits are low. docs/events.md lists them.

`JobEvent` in `jobs/context.py` names the changes of a job. The steps report them with `jobs.notify`.

An event is sent once, right after the change of the job record. A process that is killed in between sends none, so rely
on the records for anything that you must not miss.
"""

from __future__ import annotations

import logging
from typing import Literal

from prefect.events import emit_event
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, Field

from prefect_loova.errors import redact
from prefect_loova.jobs.context import JobEvent
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import CreditsReport

log = logging.getLogger(__name__)


class JobPayload(BaseModel):
    """The payload of an event of a job. Fields that are not known are left out.

    A later version may add fields. If it removes one, or changes the meaning of one, `schema_version` grows.
    """

    schema_version: Literal[1] = Field(1, description="The version of this payload.")
    key: str = Field(description="The request's key.")
    attempt: int = Field(description="The number of the attempt to buy the video, from 1.")
    task_id: str | None = Field(None, description="The Loova task.")
    model: str = Field(description="The model of the request.")
    prompt: str = Field(description="The beginning of the prompt, at most 200 characters.")
    credits_estimate: float | None = Field(None, description="The price by the table, in credits.")
    credits_cost: float | None = Field(None, description="The cost that Loova reported, in credits.")
    cost_difference: float | None = Field(
        None, description="By how many credits the cost exceeds the price; negative if it is less."
    )
    video: str | None = Field(None, description="The video as an `s3://` URI (`saved` only).")
    reason: str | None = Field(None, description="Why there is no video.")
    differs: str | None = Field(
        None, description="How the length or ratio of the video differs from the request (`saved` only)."
    )
    deployment: str | None = Field(None, description="The deployment that asked for the video.")
    label: str | None = Field(None, description="The label of the request.")


class CreditsPayload(BaseModel):
    """The payload of `loova.credits.low`."""

    schema_version: Literal[1] = Field(1, description="The version of this payload.")
    available: float = Field(description="The credits of the account.")
    low_below: float = Field(description="The limit that the balance is below.")


def emit_job_event(bucket: str, event: JobEvent, record: JobRecord, number: int) -> None:
    """Send an event of a job whose record is in this bucket."""
    attempt = record.attempt(number)
    model = str(record.request.get("model", ""))
    payload = JobPayload(
        key=record.key,
        attempt=number,
        task_id=attempt.task_id,
        model=model,
        prompt=redact(record.request.get("prompt", ""), 200),
        credits_estimate=attempt.credits_estimate,
        credits_cost=attempt.credits_cost,
        cost_difference=attempt.cost_difference or None,
        video=f"s3://{bucket}/{attempt.video.object_key}" if attempt.video else None,
        reason=attempt.reason,
        differs=(differences(record.request, attempt.video) or None) if attempt.video else None,
        deployment=attempt.by.get("deployment"),
        label=redact(attempt.label) or None,
    )
    resource = {
        "prefect.resource.id": f"loova.job.{record.key}",
        "prefect.resource.name": redact(record.request.get("prompt", ""), 60) or record.key[:16],
        "loova.model": model,
        "loova.api": record.api_origin,
        **({"loova.label": redact(attempt.label)} if attempt.label else {}),
    }
    _send(f"loova.job.{event}", resource, payload)


def emit_credits_low(report: CreditsReport) -> None:
    """Send `loova.credits.low`."""
    resource = {
        "prefect.resource.id": f"loova.account.{report.api_origin.partition('://')[2]}",
        "prefect.resource.name": "Loova credits",
        "loova.api": report.api_origin,
    }
    payload = CreditsPayload(available=report.available, low_below=report.low_below)
    _send("loova.credits.low", resource, payload)


def _send(event: str, resource: dict[str, str], payload: BaseModel) -> None:
    """Send an event, if there is a Prefect server. A failure does not fail the job."""
    try:
        if not (flow_run.id or task_run.id or PREFECT_API_URL.value()):
            return
        emit_event(event=event, resource=resource, payload=payload.model_dump(exclude_none=True))
    except Exception as error:
        log.warning("the event %s was not sent (%s)", event, redact(error))
