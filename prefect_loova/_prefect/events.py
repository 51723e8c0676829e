"""Send events for Prefect's automations: a job changed, or the credits are low. docs/events.md lists them.

`JobEvent` in `jobs/context.py` names the changes of a job. The steps report them with `jobs.notify`.

An event is sent once, right after the change of the job record; those of a batch are sent together, every 2 seconds. A
process that is killed in between sends none, so rely on the records for anything that you must not miss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from typing import Literal

from prefect.client.orchestration import PrefectClient, get_client
from prefect.events import Event, emit_event
from prefect.events.related import related_resources_from_run_context
from prefect.events.schemas.events import Resource
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, Field

from prefect_loova.errors import redact
from prefect_loova.jobs.context import JobEvent
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import CreditsReport

_SECONDS_TOGETHER = 2.0
_FEWEST_TOGETHER = 3  # fewer go by the connection that all other events of the run use
_API_SECONDS = 10.0

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


@asynccontextmanager
async def events_together() -> AsyncIterator[None]:
    """Send the events of jobs together, every 2 seconds, while the block is open, and the last ones when it ends."""
    outbox = _Outbox()
    token = _OUTBOX.set(outbox)
    sending = asyncio.create_task(outbox.keep_sending())
    try:
        yield
    finally:
        _OUTBOX.reset(token)
        outbox.closed.set()
        await asyncio.wait({sending})


class _Outbox:
    """The events that wait to be sent together. Each keeps the context of its run, which they are about too."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.waiting: list[tuple[Event, Context]] = []

    async def keep_sending(self) -> None:
        """Send what waits, every 2 seconds and when the outbox is closed."""
        while not self.closed.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closed.wait(), _SECONDS_TOGETHER)
            await self._send()

    async def _send(self) -> None:
        """Send the waiting events, one by one if they are few or if Prefect's server refuses them together."""
        some, self.waiting = self.waiting, []
        if len(some) >= _FEWEST_TOGETHER:
            try:
                async with asyncio.timeout(_API_SECONDS), get_client() as client:
                    for event, context in some:
                        await asyncio.create_task(_relate(client, event), context=context)
                    await client.request("POST", "/events", json=[event.model_dump(mode="json") for event, _ in some])
                return
            except Exception as error:  # an event that arrived all the same has the same id, and counts once
                log.debug("%d events are sent one by one (%s)", len(some), redact(error))
        for event, context in some:
            context.run(_emit, event)


_OUTBOX: ContextVar[_Outbox | None] = ContextVar("_OUTBOX", default=None)


async def _relate(client: PrefectClient, event: Event) -> None:
    """Add the run, its flow and deployment, and their tags, as Prefect does with an event that is sent alone."""
    known = {resource.id for resource in event.involved_resources}
    event.related += await related_resources_from_run_context(client, exclude=known)


def _emit(event: Event) -> None:
    emit_event(event.event, dict(event.resource), event.occurred, payload=event.payload, id=event.id)


def _send(event: str, resource: dict[str, str], payload: BaseModel) -> None:
    """Send an event, if there is a Prefect server. A failure does not fail the job."""
    try:
        if not (flow_run.id or task_run.id or PREFECT_API_URL.value()):
            return
        content = payload.model_dump(exclude_none=True)
        made = Event(event=event, resource=Resource(resource), payload=content, occurred=datetime.now(UTC))
        outbox = _OUTBOX.get()
        if outbox is not None and not outbox.closed.is_set():
            outbox.waiting.append((made, copy_context()))
        else:
            _emit(made)
    except Exception as error:
        log.warning("the event %s was not sent (%s)", event, redact(error))
