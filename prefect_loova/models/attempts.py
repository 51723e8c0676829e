"""What one attempt to buy a video is, as its job record stores it: values, no I/O and no moves."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Literal, TypeGuard

from pydantic import BaseModel, ConfigDict

from prefect_loova.models.transitions import JobState

DecisionName = Literal["adopt", "submit-again", "give-up", "take-back"]
"""What a person may decide: about a job in doubt, or, with `take-back`, about a task that was adopted for it."""

PURCHASED: frozenset[JobState] = frozenset({"submitted", "succeeded", "saved"})
"""The states of an attempt that holds a Loova task which made, makes or may make a video."""

OPEN: frozenset[JobState] = frozenset({"claimed", "submitting", "submitted", "succeeded", "in_doubt"})
"""The states in which something is left to do or to decide."""

SETTLED: frozenset[JobState] = frozenset({"succeeded", "saved", "failed"})
"""The states whose cost is final: Loova named it when the task ended."""


class Stored(BaseModel):
    """A part of a record."""

    # A record may carry fields of a newer version in the same format: they are kept, not dropped.
    model_config = ConfigDict(frozen=True, extra="allow")


class Decision(Stored):
    """What a person decided about a job in doubt."""

    what: DecisionName
    """What was decided."""
    who: str
    """The name that was given; nothing checks it."""
    when: datetime
    """When, by the clock of the machine where it was said."""
    why: str
    """What the person saw."""
    overruled: tuple[str, ...] | None = None
    """What spoke against an adoption that was forced."""


class Lease(Stored):
    """The right to save, valid for `seconds` after the record was last written."""

    holder: str
    """The worker that saves, as a random token."""
    seconds: float
    """How long it holds after the last write."""
    upload_id: str | None = None
    """The multipart upload, where one was begun: whoever takes the lease over aborts it."""
    object_key: str | None = None
    """Where the video goes."""


class StoredVideo(Stored):
    """The video in the bucket, as it was checked on the way."""

    object_key: str
    """The object's key in the bucket."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Of the whole video, as hex digits."""
    crc32: str | None = None
    """Of the whole video, in base64, as S3 shows it."""
    duration_seconds: float | None = None
    """The length of the video."""
    width: int | None = None
    """Of the picture, in pixels."""
    height: int | None = None
    """Of the picture, in pixels."""
    is_turned: bool | None = None
    """Whether a player turns the picture by a quarter, so that width and height change places."""


class TakenBack(Stored):
    """A task that a person adopted for an attempt and took back: what the attempt was with it."""

    task_id: str
    """The Loova task."""
    state: JobState
    """Where it stood with that task."""
    adopted: Decision
    """The decision that adopted it."""
    decision: Decision
    """The decision that took it back."""
    credits_cost: float | None = None
    """What Loova named for it, in credits."""
    saving: Lease | None = None
    """Who saved its video."""
    video: StoredVideo | None = None
    """Its video, where it was saved: the object stays, and no other video gets its key."""

    @property
    def object_key(self) -> str | None:
        """The key that its video has or was to have."""
        if self.video is not None:
            return self.video.object_key
        return self.saving.object_key if self.saving is not None else None


class Attempt(Stored):
    """One attempt to buy the video: at most one POST of it is ever billed."""

    number: int
    """Counted from 1."""
    state: JobState
    """Where it stands."""
    task_id: str | None = None
    """The Loova task, once an answer or a person named it; it never changes, unless an adoption is taken back."""
    trace_id: str | None = None
    """Loova's trace of the answer to the submit."""
    credits_estimate: float
    """The price by the table, in credits."""
    credits_cost: float | None = None
    """What Loova named, in credits."""
    cost_is_early: bool | None = None
    """True where only the answer to the submit named the cost, and the answer that ended the task named none."""
    budget_day: date | None = None
    """The day (UTC, by S3's clock) whose budget this attempt counts for; None in records of earlier versions."""
    by_decision: bool | None = None
    """True where a person decided to submit again: such an attempt is not counted against `max_paid_attempts`."""
    credits_before: float | None = None
    """The account's balance just before the POST: evidence for a person, nothing else."""
    credits_after: float | None = None
    """The balance when the answer was found to be lost."""
    post_timeout_seconds: float | None = None
    """How long the POST may take; some time after that it is in doubt."""
    refusals: int = 0
    """How often the submit was refused, or never left, before it was tried again."""
    reason: str | None = None
    """Why it was refused, failed or is in doubt."""
    by: dict[str, str] = {}
    """Who asked: host, process, flow run, deployment."""
    times: dict[str, datetime] = {}
    """When it came into each state; for people only."""
    decision: Decision | None = None
    """What a person decided, where it was in doubt."""
    saving: Lease | None = None
    """Who saves the video now, or did last."""
    save_failures: int = 0
    """How often it could not be saved: collectors wait longer after each time."""
    video: StoredVideo | None = None
    """The video, once it is saved."""
    at_least_bytes: int | None = None
    """How large the video is at least, where a download ended at its bound: it is not begun again under that bound."""
    unchecked: StoredVideo | None = None
    """What Loova's URL gave where that was not a whole mp4: kept as it came, and never the saved video."""
    taken_back: tuple[TakenBack, ...] | None = None
    """The tasks that were adopted for it and taken back, where there are any."""

    @property
    def is_open(self) -> bool:
        """Whether something is left to do or to decide. A doubt that a person resolved by buying again is not."""
        return self.state in OPEN and not (self.state == "in_doubt" and self.decision)

    @property
    def is_undecided(self) -> bool:
        """Whether it is in doubt and waits for a person."""
        return self.state == "in_doubt" and self.decision is None

    @property
    def credits_counted(self) -> float:
        """What budgets count for it, in credits: see `counted`."""
        return counted(self.credits_estimate, self.credits_cost, self.state in SETTLED and not self.cost_is_early)


def counted(estimate: float, cost: float | None, settled: bool) -> float:
    """What a budget counts, in credits: the larger of estimate and cost, until Loova named the final cost.

    Args:
        estimate: The price by the table.
        cost: What Loova named so far; a negative one, or one that is no number, is ignored.
        settled: Whether the task has ended and Loova named its cost then.
    """
    if not is_cost(cost):
        return estimate
    return cost if settled else max(estimate, cost)


def is_cost(cost: float | None) -> TypeGuard[float]:
    """Whether this can be a cost: a finite number that is not negative."""
    return cost is not None and math.isfinite(cost) and cost >= 0
