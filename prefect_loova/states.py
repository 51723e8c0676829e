"""What a job record says, and the moves that its states allow: values and one table, no I/O.

A job record holds one request and an append-only list of attempts to buy it. Each attempt has a state of its own:

```
claimed -> submitting -> submitted -> succeeded -> saved
              |              '-> failed (Loova's own terminal answer, nothing else)
              |-> rejected (nothing was bought; may be tried again)
              '-> in_doubt -> a person: adopt a task | submit again (a new attempt) | give up (abandoned)
```

`moves.MOVES` is that drawing as a table. The code moves a record only through it, and what could pay once too often is
refused by the move itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, Self, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict

from prefect_loova.errors import MoveRefusedError, shown
from prefect_loova.models import JobState, VideoRequest
from prefect_loova.moves import MOVES, MoveName

DecisionName = Literal["adopt", "submit-again", "give-up"]
"""What a person may decide about a job in doubt."""

FORMAT = 1
"""The format of a record. A newer one is refused, not misread."""


def moves_as_markdown() -> str:
    """`MOVES` as the table that the docs print."""
    order = list(get_args(JobState))
    rows = [
        f"| {name.replace('_', ' ')} | {', '.join(sorted(move.before, key=order.index)) or 'no record'} "
        f"| {move.after}{' (a new attempt)' if move.appends else ''} | {move.when} |"
        for name, move in MOVES.items()
    ]
    return "\n".join(["| Move | From | To | When |", "|---|---|---|---|", *rows])


PURCHASED: frozenset[JobState] = frozenset({"submitted", "succeeded", "saved"})
"""The states of an attempt that holds a Loova task which made, makes or may make a video."""

OPEN: frozenset[JobState] = frozenset({"claimed", "submitting", "submitted", "succeeded", "in_doubt"})
"""The states in which something is left to do or to decide."""

SETTLED: frozenset[JobState] = frozenset({"succeeded", "saved", "failed"})
"""The states whose cost is final: Loova named it when the task ended."""

_CLAIMS: frozenset[MoveName] = frozenset({"take_over", "claim_again", "buy_again"})
"""The moves by which a run gets the right to buy; each is counted against `max_paid_attempts`."""


class _Stored(BaseModel):
    # A record may carry fields of a newer version in the same format: they are kept, not dropped.
    model_config = ConfigDict(frozen=True, extra="allow")


class Decision(_Stored):
    """What a person decided about a job in doubt."""

    what: DecisionName
    """What was decided."""
    who: str
    """The name that was given; nothing checks it."""
    when: datetime
    """When, by the clock of the machine where it was said."""
    why: str
    """What the person saw."""


class Lease(_Stored):
    """The right to save, valid for `seconds` after the record was last written."""

    holder: str
    """The worker that saves, as a random token."""
    seconds: float
    """How long it holds after the last write."""
    upload_id: str | None = None
    """The multipart upload, where one was begun: whoever takes the lease over aborts it."""
    object_key: str | None = None
    """Where the video goes."""


class StoredVideo(_Stored):
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


class Attempt(_Stored):
    """One attempt to buy the video: at most one POST of it is ever billed."""

    number: int
    """Counted from 1."""
    state: JobState
    """Where it stands."""
    task_id: str | None = None
    """The Loova task, once an answer or a person named it; it never changes."""
    trace_id: str | None = None
    """Loova's trace of the answer to the submit."""
    credits_estimate: float
    """The price by the table, in credits."""
    credits_cost: float | None = None
    """What Loova named, in credits."""
    cost_is_early: bool = False
    """Whether only the answer to the submit named the cost, and the answer that ended the task named none."""
    budget_day: date | None = None
    """The day (UTC, by S3's clock) whose budget this attempt counts for; None in records of earlier versions."""
    by_decision: bool = False
    """Whether a person decided to submit again: such an attempt is not counted against `max_paid_attempts`."""
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
    video: StoredVideo | None = None
    """The video, once it is saved."""

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


class JobRecord(_Stored):
    """One request and everything that was done to have its video. Change it by `move` only."""

    format: int = FORMAT
    """The format's version."""
    key: str
    """The request's key."""
    api_origin: str
    """The API that it was made for; another one refuses it."""
    request: dict[str, Any]
    """What was asked for, media URLs without their queries."""
    attempts: tuple[Attempt, ...]
    """Every attempt to buy it, the first one first."""
    write_id: str = ""
    """The random token of the last write."""

    @classmethod
    def claimed(
        cls,
        request: VideoRequest,
        api_origin: str,
        by: Mapping[str, str],
        now: datetime | None = None,
        budget_day: date | None = None,
    ) -> Self:
        """The record of a request that nobody asked for before."""
        record = cls(key=request.key, api_origin=api_origin, request=request.shown(), attempts=())
        price = request.estimate_credits()
        return record._appended("claim", now, credits_estimate=price, by=dict(by), budget_day=budget_day)

    @property
    def current(self) -> Attempt:
        """The attempt that counts: the last one, unless only an earlier one holds a purchase."""
        if self.attempts[-1].state not in PURCHASED:
            for attempt in reversed(self.attempts):
                if attempt.state in PURCHASED:
                    return attempt
        return self.attempts[-1]

    @property
    def state(self) -> JobState:
        """The state of the attempt that counts."""
        return self.current.state

    @property
    def is_open(self) -> bool:
        """Whether something is left to do or to decide in any attempt.

        A claim beside the attempt that counts is not open: nobody goes on with it.
        """
        current = self.current
        return any(one.is_open and (one.state != "claimed" or one is current) for one in self.attempts)

    @property
    def doubts(self) -> tuple[Attempt, ...]:
        """The attempts in doubt that wait for a person, the first one first."""
        return tuple(attempt for attempt in self.attempts if attempt.is_undecided)

    @property
    def undecided(self) -> Attempt | None:
        """The attempt in doubt that waits for a person, the latest one if there are several."""
        return self.doubts[-1] if self.doubts else None

    @property
    def on_its_way(self) -> Attempt | None:
        """The attempt whose POST may still be answered, the first one if there are several."""
        return next((attempt for attempt in self.attempts if attempt.state == "submitting"), None)

    @property
    def paid_attempts(self) -> int:
        """How many attempts Loova took on, whatever became of them."""
        return sum(attempt.task_id is not None for attempt in self.attempts)

    @property
    def may_be_paid(self) -> int:
        """How many attempts Loova took on or may have taken on: those in doubt count, decided or not."""
        return sum(attempt.task_id is not None or attempt.state == "in_doubt" for attempt in self.attempts)

    def may_buy(self, max_paid_attempts: int) -> bool:
        """Whether the count of paid attempts allows a run to claim this job.

        A claim that a person decided (`submit_again`) is the person's right, whatever the count.
        """
        attempt = self.current
        if attempt.state in ("claimed", "rejected") and self._is_by_decision(attempt):
            return True
        return self.may_be_paid < max_paid_attempts

    def _is_by_decision(self, attempt: Attempt) -> bool:
        if attempt.by_decision:
            return True
        # Records of earlier versions: the claim that came next after a doubt that a person decided to submit again.
        earlier = [one for one in self.attempts[: attempt.number - 1] if "claimed" in one.times]
        decision = earlier[-1].decision if earlier else None
        return decision is not None and decision.what == "submit-again"

    def attempt(self, number: int) -> Attempt:
        """The attempt with this number, counted from 1."""
        return self.attempts[number - 1]

    def move(
        self,
        name: MoveName,
        number: int | None = None,
        *,
        now: datetime | None = None,
        max_paid_attempts: int = 1,
        **facts: Any,
    ) -> Self:
        """The record after a move of one attempt.

        Args:
            name: A row of `MOVES`.
            number: Which attempt; the one that counts, if not given.
            now: The time to note; the clock's, if not given. For people only: no rule reads it.
            max_paid_attempts: How often the request may be bought in all; only claims read it.
            facts: Fields of the attempt that the move sets.

        Raises:
            MoveRefusedError: The table does not allow this move from the attempt's state, or it could pay once more
                than is allowed.
        """
        attempt = self.current if number is None else self.attempt(number)
        move = MOVES[name]
        if attempt.state not in move.before:
            raise MoveRefusedError(f"attempt {attempt.number} is {attempt.state}: it cannot {name.replace('_', ' ')}")
        self._check_payment(name, attempt, max_paid_attempts)
        if move.after == "submitted" and not facts.get("task_id"):
            raise MoveRefusedError(f"attempt {attempt.number} cannot be submitted without a task id")
        if attempt.task_id not in (None, facts.get("task_id", attempt.task_id)) and not move.appends:
            raise MoveRefusedError(f"attempt {attempt.number} is task {attempt.task_id}: its task id is never changed")
        if name in ("adopt", "submit_again", "give_up") and not isinstance(facts.get("decision"), Decision):
            raise MoveRefusedError(f"{name.replace('_', ' ')} is a person's decision, which the record has to name")
        if isinstance(facts.get("reason"), str):
            facts["reason"] = shown(facts["reason"])
        if move.appends:
            earlier = attempt.model_copy(update={"decision": facts.pop("decision", attempt.decision)})
            facts = {"credits_estimate": attempt.credits_estimate, "by": attempt.by} | facts
            if name == "late_purchase":
                facts = {"budget_day": attempt.budget_day} | facts
            if name == "submit_again":
                facts = {"by_decision": True} | facts
            return self._with(earlier)._appended(name, now, **facts)
        times = attempt.times if move.after == attempt.state else attempt.times | {move.after: now or datetime.now(UTC)}
        merged = dict(attempt) | (attempt.model_extra or {}) | {"times": times} | facts | {"state": move.after}
        return self._with(Attempt.model_validate(merged))

    def _check_payment(self, name: MoveName, attempt: Attempt, max_paid_attempts: int) -> None:
        """Refuse a move that leads to a POST while another attempt holds the video, may hold it, or is one too many."""
        if name not in (*_CLAIMS, "begin", "submit_again"):
            return
        verb = name.replace("_", " ")
        for other in self.attempts:
            if other.number == attempt.number:
                continue
            if other.state in PURCHASED:
                raise MoveRefusedError(
                    f"attempt {attempt.number} cannot {verb}: attempt {other.number} is {other.state}, so the video is "
                    f"bought already as task {other.task_id}"
                )
            if name != "submit_again" and (other.state == "submitting" or other.is_undecided):
                raise MoveRefusedError(
                    f"attempt {attempt.number} cannot {verb}: attempt {other.number} is {other.state} and may be paid"
                )
            if name != "submit_again" and other.state == "abandoned":
                raise MoveRefusedError(f"attempt {attempt.number} cannot {verb}: a person gave the job up")
        if name in _CLAIMS and not self.may_buy(max_paid_attempts):
            raise MoveRefusedError(
                f"attempt {attempt.number} cannot {verb}: {self.may_be_paid} attempts are paid or may be, and "
                f"max_paid_attempts is {max_paid_attempts}"
            )

    def _with(self, attempt: Attempt) -> Self:
        attempts = (*self.attempts[: attempt.number - 1], attempt, *self.attempts[attempt.number :])
        return self.model_copy(update={"attempts": attempts})

    def _appended(self, name: MoveName, now: datetime | None, **facts: Any) -> Self:
        state = MOVES[name].after
        times = {state: now or datetime.now(UTC)}
        attempt = Attempt.model_validate({"number": len(self.attempts) + 1, "state": state, "times": times} | facts)
        return self.model_copy(update={"attempts": (*self.attempts, attempt)})


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


def with_purchase(record: JobRecord, number: int, task_id: str, **facts: Any) -> JobRecord:
    """The record with a task id that an answer to the given attempt's POST named, whatever happened meanwhile.

    A purchase is never dropped: known already, it changes nothing; beside another task, it is an attempt of its own.
    """
    attempt = record.attempt(number)
    if any(known.task_id == task_id for known in record.attempts):
        return record
    if attempt.state in MOVES["bought"].before and attempt.task_id is None:
        return record.move("bought", number, task_id=task_id, **facts)
    facts = {"reason": f"late answer to attempt {number}"} | facts
    return record.move("late_purchase", number, task_id=task_id, **facts)
