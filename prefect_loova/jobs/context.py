"""The context that every step of a job needs: the API, the bucket, and the times.

The steps are `submit`, `wait` and `save`, in that order. Each is a function over `VideoJobs`.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova._timing import Clock
from prefect_loova.client import LoovaClient
from prefect_loova.errors import ContentRefusedError, InputRefusedError, LoovaError, OutputRefusedError, TaskFailedError
from prefect_loova.models.attempts import Attempt
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.media import Kind
from prefect_loova.models.media_facts import MediaFacts
from prefect_loova.models.media_types import MediaRules, field_title
from prefect_loova.models.results import Submission
from prefect_loova.store.budget import DailyBudget
from prefect_loova.store.records import JobRecords

MAX_WAIT = 4 * 3600.0
"""The default time to wait for a video, in seconds. Under load a generation takes up to 3 hours."""

BALANCE_SECONDS = 5.0
"""The longest time that a submit waits for the account's balance, in seconds."""

JobEvent = Literal["submitted", "succeeded", "saved", "failed", "content_refused", "in_doubt", "cost_differs"]
"""The events of a job that `VideoJobs.notify` reports."""

log = logging.getLogger(__name__)


def _ignore_event(event: JobEvent, record: JobRecord, attempt: int) -> None:
    """Do nothing: the default for `notify`."""


class JobTimes(BaseModel):
    """When a worker may continue another worker's job, in seconds. The defaults are safe; see docs/decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Job times", field_title_generator=field_title)

    take_over_after: float = Field(30.0, ge=0, description="Age of a claim that any worker may take over, in seconds.")
    doubt_after: float = Field(30.0, ge=0, description="Seconds after a POST's timeout until the job is in doubt.")
    fresh_for: float = Field(5.0, gt=0, description="The most seconds between writing `submitting` and the POST.")
    lease: float = Field(120.0, gt=0, description="Seconds for which a worker may save without renewing its lease.")
    may_run: float = Field(
        4 * 3600.0,
        ge=0,
        description="Seconds for which a task that gives no usable answer, or a job in doubt, counts as running.",
    )
    save_again_after: float = Field(
        60.0, ge=0, description="Seconds until a collector retries a failed save; doubled with each failure."
    )
    forget_after: float = Field(
        24 * 3600.0, ge=0, description="Age at which an index entry without a record is removed, in seconds."
    )
    look_again: float = Field(2.0, gt=0, description="Seconds between reads of a record that another worker writes.")


class VideoJobs:
    """The jobs of one API in one bucket, without Prefect.

    Args:
        loova: An entered client.
        records: The job records.
        times: When to continue other workers' jobs.
        by: The host, flow run and deployment, for people who read the record.
        location_arguments: The command-line arguments that select this account and bucket.
        max_credits_per_day: The credits that may be spent per day below this prefix; None for no budget.
        media: The limits for reference media, and how Loova gets them.
        notify: Called for each event of a job, right after the record was written.
        sleep: Waits for a number of seconds.
        clock: Returns monotonic seconds.
        wall: Returns seconds of the wall clock. The later of the two clocks decides whether a written record is still
            fresh, because one of them stops while a machine is suspended.

    Attributes:
        measured: What this process measured of reference media, by the kind and the identity of each.
    """

    def __init__(
        self,
        loova: LoovaClient,
        records: JobRecords,
        *,
        times: JobTimes | None = None,
        by: Mapping[str, str] | None = None,
        location_arguments: str | None = None,
        max_credits_per_day: float | None = None,
        media: MediaRules | None = None,
        notify: Callable[[JobEvent, JobRecord, int], None] = _ignore_event,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self.loova = loova
        self.records = records
        self.times = times or JobTimes()
        self.by = dict(by or {})
        self.location_arguments = location_arguments or shlex.join(
            ["--bucket", records.bucket, "--prefix", records.prefix]
        )
        self.budget = DailyBudget(records, max_credits_per_day, clock=clock, wall=wall, sleep=sleep)
        self.media = media or MediaRules()
        self.notify = notify
        self.sleep = sleep
        self.clock = clock
        self.wall = wall
        self.measured: dict[tuple[Kind, str | None], MediaFacts] = {}

    async def balance(self) -> float | None:
        """Return the account's credits as evidence for a person, or None if Loova does not answer soon."""
        try:
            async with asyncio.timeout(BALANCE_SECONDS):
                return (await self.loova.get_credits(tries=1)).available
        except (LoovaError, TimeoutError) as error:
            log.debug("cannot get the balance: %s", error)
            return None

    def submission(self, record: JobRecord, number: int | None = None, *, reused: bool) -> Submission:
        """Return the handle on an attempt with a Loova task; by default the attempt that counts."""
        attempt = record.current if number is None else record.attempt(number)
        assert attempt.task_id is not None  # noqa: S101
        return Submission(
            key=record.key,
            attempt=attempt.number,
            state=attempt.state,
            task_id=attempt.task_id,
            api_origin=record.api_origin,
            record=self.records.uri(self.records.record_key(record.key)),
            prompt=str(record.request.get("prompt", "")),
            model=str(record.request.get("model", "")),
            label=attempt.label,
            credits_estimate=attempt.credits_estimate,
            credits_cost=attempt.credits_cost,
            trace_id=attempt.trace_id,
            reused=reused,
        )

    def name(self, record: JobRecord) -> str:
        """Return the job's name for messages, with the URI of its record."""
        return f"job {self.records.uri(self.records.record_key(record.key))}"

    def failed(self, record: JobRecord, number: int | None = None) -> TaskFailedError | ContentRefusedError:
        """Return the error for a failed attempt; by default the last one."""
        refused = record.current if number is None else record.attempt(number)
        if refused.content_refused:
            return self._content_refused(record, refused)
        failed = [attempt for attempt in record.attempts if attempt.state == "failed"] or [record.current]
        attempt = failed[-1] if number is None else record.attempt(number)
        return TaskFailedError(
            f"{self.name(record)}: Loova ended the task without a video. It is not bought again automatically: ask "
            f"for another take, or allow max_paid_attempts={record.possibly_paid_attempts + 1}",
            task_id=attempt.task_id,
            trace_id=attempt.trace_id,
            loova_message=attempt.reason,
            credits_spent="maybe",
        )

    def _content_refused(self, record: JobRecord, attempt: Attempt) -> ContentRefusedError:
        is_output = attempt.task_id is not None
        kind = OutputRefusedError if is_output else InputRefusedError
        return kind(
            f"{self.name(record)}: Loova refused the content of the {'video' if is_output else 'request'}. It is not "
            "bought again: change the prompt or the media, give a fallback_prompt, or ask for another take",
            task_id=attempt.task_id,
            trace_id=attempt.trace_id,
            loova_message=attempt.reason,
            credits_spent="maybe" if is_output else "no",
        )
