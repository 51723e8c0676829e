"""One attempt to buy a video, as its job record stores it. Values only: no I/O and no moves."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Literal, TypedDict, TypeGuard

from pydantic import BaseModel, ConfigDict

from prefect_loova.models.job_states import JobState
from prefect_loova.models.prices import cost_difference

DecisionName = Literal["adopt", "submit-again", "give-up", "take-back"]
"""The decisions of a person. `take-back` is about an adopted task, the others are about a job in doubt."""

PURCHASED: frozenset[JobState] = frozenset({"submitted", "succeeded", "saved"})
"""The states of an attempt whose Loova task may still give a video, or gave one."""

OPEN: frozenset[JobState] = frozenset({"claimed", "submitting", "submitted", "succeeded", "in_doubt"})
"""The states that need another step or a decision."""

SETTLED: frozenset[JobState] = frozenset({"succeeded", "saved", "failed"})
"""The states whose cost is final, because the task has ended."""


class Stored(BaseModel):
    """A part of a job record."""

    # Keep the fields that a newer version adds within the same format.
    model_config = ConfigDict(frozen=True, extra="allow")


class Decision(Stored):
    """A person's decision about a job in doubt or about an adopted task."""

    what: DecisionName
    """The decision."""
    who: str
    """The name that the person gave. It is not checked."""
    when: datetime
    """The time, by the clock of the person's machine."""
    why: str
    """The reason."""
    overruled: tuple[str, ...] | None = None
    """The contradictions that a forced adoption overruled."""


class Lease(Stored):
    """The right to save a video. It expires `seconds` after the last write of the record."""

    holder: str
    """A random token that identifies the worker."""
    seconds: float
    """The seconds that the lease lasts after a write."""
    upload_id: str | None = None
    """The multipart upload, if one was started. The next holder aborts it."""
    object_key: str | None = None
    """The key of the video's object."""


class StoredVideo(Stored):
    """A video in the bucket, with the values that were checked during the transfer."""

    object_key: str
    """The key of the object."""
    size_bytes: int
    """The size, in bytes."""
    sha256: str
    """The SHA-256 of the whole video, as hex digits."""
    crc32: str | None = None
    """The CRC-32 of the whole video, in base64, as S3 shows it."""
    duration_seconds: float | None = None
    """The duration, in seconds."""
    width: int | None = None
    """The width of the frames, in pixels."""
    height: int | None = None
    """The height of the frames, in pixels."""
    is_turned: bool | None = None
    """Whether players rotate the frames by 90 degrees, which swaps width and height."""


class TakenBack(Stored):
    """A task that a person adopted for an attempt and took back, with the attempt's values at that time."""

    task_id: str
    """The Loova task."""
    state: JobState
    """The state of the attempt with that task."""
    adopted: Decision
    """The decision that adopted the task."""
    decision: Decision
    """The decision that took it back."""
    credits_cost: float | None = None
    """The cost that Loova reported, in credits."""
    saving: Lease | None = None
    """The lease on saving its video."""
    video: StoredVideo | None = None
    """Its video, if it was saved. The object stays, and its key is not used again."""

    @property
    def object_key(self) -> str | None:
        """The key that was reserved for its video."""
        if self.video is not None:
            return self.video.object_key
        return self.saving.object_key if self.saving is not None else None


class Attempt(Stored):
    """One attempt to buy the video. At most one POST of an attempt is billed."""

    number: int
    """The number of the attempt, counted from 1."""
    state: JobState
    """The state."""
    task_id: str | None = None
    """The Loova task, from an answer or from an adoption. It changes only if the adoption is taken back."""
    trace_id: str | None = None
    """Loova's trace of the submit answer."""
    credits_estimate: float
    """The price from the table, in credits."""
    credits_cost: float | None = None
    """The cost that Loova reported, in credits."""
    cost_is_early: bool | None = None
    """True if only the submit answer reported a cost, and the final poll reported none."""
    budget_day: date | None = None
    """The day (UTC, by S3's clock) whose budget this attempt counts against. Earlier versions did not store it."""
    by_decision: bool | None = None
    """True if a person decided to submit again. Such an attempt may exceed `max_paid_attempts`."""
    credits_before: float | None = None
    """The account's balance right before the POST. It is evidence for a person only."""
    credits_after: float | None = None
    """The account's balance when the answer was found lost."""
    post_timeout_seconds: float | None = None
    """The total timeout of the POST. Some time after it, the attempt is in doubt."""
    refusals: int = 0
    """How many submits of this attempt were refused or not sent."""
    reason: str | None = None
    """Why the attempt was refused, failed, or is in doubt."""
    content_refused: bool | None = None
    """True if Loova refused the content of the request or of the video. The request is then not bought again."""
    by: dict[str, str] = {}
    """The host, process, flow run and deployment that made the attempt, and the label that it was asked for with."""
    times: dict[str, datetime] = {}
    """When the attempt reached each state. No rule reads it."""
    decision: Decision | None = None
    """A person's decision, if the attempt was in doubt."""
    saving: Lease | None = None
    """The latest lease on saving the video."""
    save_failures: int = 0
    """How many times saving failed. Collectors wait longer after each failure."""
    video: StoredVideo | None = None
    """The saved video."""
    at_least_bytes: int | None = None
    """The least size of a video that exceeded `max_bytes`. It is not downloaded again under that bound."""
    unchecked: StoredVideo | None = None
    """The content of Loova's URL if it was not a whole mp4. It is kept as it came and never counts as the video."""
    taken_back: tuple[TakenBack, ...] | None = None
    """The tasks that were adopted for this attempt and taken back."""

    @property
    def label(self) -> str:
        """The label of the request that bought it."""
        return self.by.get("label", "")

    @property
    def is_open(self) -> bool:
        """Whether another step or a decision is needed. A doubt that a person decided is closed."""
        return self.state in OPEN and not (self.state == "in_doubt" and self.decision)

    @property
    def is_undecided(self) -> bool:
        """Whether the attempt is in doubt and waits for a person."""
        return self.state == "in_doubt" and self.decision is None

    @property
    def cost_difference(self) -> float:
        """By how many credits Loova's charge exceeds the estimate; negative if it is less.

        It is 0 if no charge is known, and for a failed task, because Loova may refund it.
        """
        return 0.0 if self.state == "failed" else cost_difference(self.credits_estimate, self.credits_cost)

    @property
    def credits_counted(self) -> float:
        """The credits that a budget counts for this attempt."""
        return budget_credits(
            self.credits_estimate, self.credits_cost, self.state in SETTLED and not self.cost_is_early
        )


class PurchaseFields(TypedDict, total=False):
    """The fields of an attempt that an answer with a task id may set, besides the task id."""

    trace_id: str | None
    credits_cost: float | None
    reason: str | None


class AttemptFields(PurchaseFields, total=False):
    """The fields of an attempt that a move may set."""

    task_id: str | None
    credits_estimate: float
    cost_is_early: bool | None
    budget_day: date | None
    credits_before: float | None
    credits_after: float | None
    post_timeout_seconds: float
    refusals: int
    by: dict[str, str]
    decision: Decision
    saving: Lease | None
    save_failures: int
    video: StoredVideo
    at_least_bytes: int | None
    unchecked: StoredVideo | None
    content_refused: bool


def budget_credits(estimate: float, cost: float | None, settled: bool) -> float:
    """Return the credits that a budget counts: the larger of estimate and cost, or the final cost.

    Args:
        estimate: The price from the table, in credits.
        cost: The cost that Loova reported, in credits. A negative or non-finite cost is ignored.
        settled: Whether the cost is final.
    """
    if not is_cost(cost):
        return estimate
    return cost if settled else max(estimate, cost)


def is_cost(cost: float | None) -> TypeGuard[float]:
    """Return whether this is a valid cost: finite and not negative."""
    return cost is not None and math.isfinite(cost) and cost >= 0
