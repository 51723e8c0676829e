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

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Self, get_args

from prefect_loova.errors import InvalidTransitionError, redact
from prefect_loova.models.attempts import (
    OPEN,
    PURCHASED,
    SETTLED,
    Attempt,
    Decision,
    DecisionName,
    Lease,
    Stored,
    StoredVideo,
    TakenBack,
    counted,
    is_cost,
)
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.transitions import MOVES, JobState, MoveName

__all__ = [
    "FORMAT",
    "MOVES",
    "OPEN",
    "PURCHASED",
    "SETTLED",
    "Attempt",
    "Decision",
    "DecisionName",
    "JobRecord",
    "Lease",
    "MoveName",
    "StoredVideo",
    "TakenBack",
    "counted",
    "is_cost",
    "moves_as_markdown",
    "with_purchase",
]

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


_DECISIONS: frozenset[MoveName] = frozenset({"adopt", "submit_again", "give_up", "take_back"})
"""The moves that only a person makes."""

_CLAIMS: frozenset[MoveName] = frozenset({"take_over", "claim_again", "buy_again"})
"""The moves by which a run gets the right to buy; each is counted against `max_paid_attempts`."""


class JobRecord(Stored):
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
        record = cls(key=request.key, api_origin=api_origin, request=request.as_stored(), attempts=())
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
            InvalidTransitionError: The table does not allow this move from the attempt's state, or it could pay more
                often than is allowed.
        """
        attempt = self.current if number is None else self.attempt(number)
        move = MOVES[name]
        if attempt.state not in move.before:
            raise InvalidTransitionError(
                f"attempt {attempt.number} is {attempt.state}: it cannot {name.replace('_', ' ')}"
            )
        self._check_payment(name, attempt, max_paid_attempts)
        if move.after == "submitted" and not facts.get("task_id"):
            raise InvalidTransitionError(f"attempt {attempt.number} cannot be submitted without a task id")
        if attempt.task_id not in (None, facts.get("task_id", attempt.task_id)) and not move.appends:
            raise InvalidTransitionError(
                f"attempt {attempt.number} is task {attempt.task_id}: its task id is never changed"
            )
        if name in _DECISIONS and not isinstance(facts.get("decision"), Decision):
            raise InvalidTransitionError(
                f"{name.replace('_', ' ')} is a person's decision, which the record has to name"
            )
        if name == "take_back":
            facts = self._taken_back(attempt, facts["decision"])
        if isinstance(facts.get("reason"), str):
            facts["reason"] = redact(facts["reason"])
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

    @staticmethod
    def _taken_back(attempt: Attempt, decision: Decision) -> dict[str, Any]:
        """What an attempt becomes without the task that was adopted for it."""
        adopted = attempt.decision
        if adopted is None or adopted.what != "adopt" or attempt.task_id is None:
            raise InvalidTransitionError(
                f"attempt {attempt.number} holds no task that a person adopted: nothing to take back"
            )
        kept = TakenBack(
            task_id=attempt.task_id,
            state=attempt.state,
            adopted=adopted,
            decision=decision,
            credits_cost=attempt.credits_cost,
            saving=attempt.saving,
            video=attempt.video,
        )
        without = ("task_id", "credits_cost", "decision", "saving", "video", "at_least_bytes", "unchecked")
        return dict.fromkeys(without, None) | {
            "cost_is_early": None,
            "reason": f"the adoption of task {attempt.task_id} was taken back by {decision.who}",
            "taken_back": (*(attempt.taken_back or ()), kept),
        }

    def _check_payment(self, name: MoveName, attempt: Attempt, max_paid_attempts: int) -> None:
        """Refuse a move that leads to a POST while another attempt holds the video, may hold it, or is one too many."""
        if name not in (*_CLAIMS, "begin", "submit_again"):
            return
        verb = name.replace("_", " ")
        for other in self.attempts:
            if other.number == attempt.number:
                continue
            if other.state in PURCHASED:
                raise InvalidTransitionError(
                    f"attempt {attempt.number} cannot {verb}: attempt {other.number} is {other.state}, so the video is "
                    f"bought already as task {other.task_id}"
                )
            if name != "submit_again" and (other.state == "submitting" or other.is_undecided):
                raise InvalidTransitionError(
                    f"attempt {attempt.number} cannot {verb}: attempt {other.number} is {other.state} and may be paid"
                )
            if name != "submit_again" and other.state == "abandoned":
                raise InvalidTransitionError(f"attempt {attempt.number} cannot {verb}: a person gave the job up")
        if name in _CLAIMS and not self.may_buy(max_paid_attempts):
            raise InvalidTransitionError(
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
