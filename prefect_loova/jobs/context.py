"""The tools that every step of a job works with.

A job goes through `submitting`, `waiting` and `saving`, in that order; each is one function over `VideoJobs`.
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
from prefect_loova.errors import LoovaError, TaskFailedError
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.media import Kind
from prefect_loova.models.media_types import MediaRules
from prefect_loova.models.results import Submission
from prefect_loova.store.budget import DailyBudget
from prefect_loova.store.records import JobRecords

MAX_WAIT = 4 * 3600.0
"""How long to wait for a video by default, in seconds; a generation takes up to 3 hours under load."""

BALANCE_SECONDS = 5.0
"""How long a look at the credits may hold up a submit, in seconds."""

JobEvent = Literal["submitted", "succeeded", "saved", "failed", "in_doubt"]
"""What may happen to a job that others want to hear of."""

log = logging.getLogger(__name__)


def _ignore_event(happening: JobEvent, record: JobRecord, attempt: int) -> None:
    """The core alone has nobody to tell."""


class JobTimes(BaseModel):
    """When one worker may go on with what another one left, in seconds. The defaults are safe; see docs/decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    take_over_after: float = Field(30.0, ge=0, description="Age of a claim that anybody may take over, in seconds.")
    doubt_after: float = Field(30.0, ge=0, description="Seconds after a POST's timeout at which it is in doubt.")
    fresh_for: float = Field(5.0, gt=0, description="The most seconds between writing `submitting` and the POST.")
    lease: float = Field(120.0, gt=0, description="Seconds for which a collector may save without renewing its lease.")
    may_run: float = Field(
        4 * 3600.0,
        ge=0,
        description="Seconds for which a task that gives no usable answer, or a job in doubt, counts as running.",
    )
    save_again_after: float = Field(
        60.0, ge=0, description="Seconds until a collector saves again what could not be saved; doubled each time."
    )
    forget_after: float = Field(
        24 * 3600.0, ge=0, description="Age of an entry in the index of open jobs without a record, in seconds."
    )
    look_again: float = Field(2.0, gt=0, description="Seconds between looks at a record that another worker moves.")


class VideoJobs:
    """The jobs of one API in one bucket, without Prefect.

    Args:
        loova: An entered client.
        records: Where the job records are.
        times: When to go on with what others left.
        by: Who asks, for the people who read the record (host, flow run, deployment).
        place: The arguments by which a command names this account and bucket.
        max_credits_per_day: The credits that may be spent on one day below this prefix, or None for no budget.
        media: What reference media may be, and how they reach Loova.
        tell: Hears of each job that is submitted, made, saved, failed or in doubt, right after the record says so.
        sleep: How to wait, in seconds.
        clock: Monotonic seconds.
        wall: Seconds by the wall clock; the later of the two decides whether a written record is still fresh, as one
            of them stops while a machine is suspended.

    Attributes:
        decoded: The reference media that were decoded here and found good: what each is given as, and its identity.
    """

    def __init__(
        self,
        loova: LoovaClient,
        records: JobRecords,
        *,
        times: JobTimes | None = None,
        by: Mapping[str, str] | None = None,
        place: str | None = None,
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
        self.place = place or shlex.join(["--bucket", records.bucket, "--prefix", records.prefix])
        self.budget = DailyBudget(records, max_credits_per_day, clock=clock, wall=wall, sleep=sleep)
        self.media = media or MediaRules()
        self.notify = notify
        self.sleep = sleep
        self.clock = clock
        self.wall = wall
        self.decoded: set[tuple[Kind, str | None]] = set()

    async def balance(self) -> float | None:
        """The account's credits as evidence for a person, or None where they cannot be had soon. Never an error."""
        try:
            async with asyncio.timeout(BALANCE_SECONDS):
                return (await self.loova.get_credits(tries=1)).available
        except (LoovaError, TimeoutError) as error:
            log.debug("the balance is not known: %s", error)
            return None

    def submission(self, record: JobRecord, number: int | None = None, *, reused: bool) -> Submission:
        """The handle on an attempt that was bought; the one that counts, if no number is given."""
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
            credits_estimate=attempt.credits_estimate,
            credits_cost=attempt.credits_cost,
            trace_id=attempt.trace_id,
            reused=reused,
        )

    def name(self, record: JobRecord) -> str:
        """The job's record, for a message."""
        return f"job {self.records.uri(self.records.record_key(record.key))}"

    def failed(self, record: JobRecord, number: int | None = None) -> TaskFailedError:
        """The error of an attempt that Loova ended without a video; the last such one, if no number is given."""
        failed = [attempt for attempt in record.attempts if attempt.state == "failed"] or [record.current]
        attempt = failed[-1] if number is None else record.attempt(number)
        return TaskFailedError(
            f"{self.name(record)}: Loova ended the task without a video. It is not bought again by itself: ask for "
            f"another take, or allow max_paid_attempts={record.possibly_paid_attempts + 1}",
            task_id=attempt.task_id,
            trace_id=attempt.trace_id,
            loova_message=attempt.reason,
            credits_spent="maybe",
        )
