"""A job record and the moves that its states allow. Values and one table, no I/O.

A job record holds one request and an append-only list of attempts to buy it. Each attempt has a state:

```
claimed -> submitting -> submitted -> succeeded -> saved
              |              '-> failed (Loova's own terminal answer, nothing else)
              |-> rejected (nothing was bought; may be tried again)
              '-> in_doubt -> a person: adopt a task | submit again (a new attempt) | give up (abandoned)
```

`job_states.MOVES` is this diagram as a table. Only `JobRecord.move` changes a record. It refuses every move that could
pay too often.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Self, Unpack, get_args

from prefect_loova.errors import InvalidTransitionError, redact
from prefect_loova.models.attempts import PURCHASED, Attempt, AttemptFields, Decision, PurchaseFields, Stored, TakenBack
from prefect_loova.models.job_states import MOVES, JobState, MoveName
from prefect_loova.models.request import VideoRequest

FORMAT = 1
"""The format of a record. Records with a newer format are refused."""


def moves_as_markdown() -> str:
    """Return `MOVES` as a Markdown table for the docs."""
    order = list(get_args(JobState))
    rows = [
        f"| {name.replace('_', ' ')} | {', '.join(sorted(move.before, key=order.index)) or 'no record'} "
        f"| {move.after}{' (a new attempt)' if move.appends else ''} | {move.when} |"
        for name, move in MOVES.items()
    ]
    return "\n".join(["| Move | From | To | When |", "|---|---|---|---|", *rows])


_DECISIONS: frozenset[MoveName] = frozenset({"adopt", "submit_again", "give_up", "take_back"})
"""The moves that need a person's decision."""

_CLAIMS: frozenset[MoveName] = frozenset({"take_over", "claim_again", "buy_again"})
"""The moves that give a run the right to buy. `max_paid_attempts` limits them."""


class JobRecord(Stored):
    """One request and all attempts to buy it. Change it only with `move`."""

    format: int = FORMAT
    """The version of the format."""
    key: str
    """The request's key."""
    api_origin: str
    """The origin of the API. Clients of other APIs refuse the record."""
    request: dict[str, Any]
    """The request, with media URLs without their queries."""
    attempts: tuple[Attempt, ...]
    """All attempts to buy the request, in order."""
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
        credits_estimate: float | None = None,
    ) -> Self:
        """Return the first record of a request, with one claimed attempt, by default at the documented price."""
        record = cls(key=request.key, api_origin=api_origin, request=request.as_stored(), attempts=())
        price = request.estimate_credits() if credits_estimate is None else credits_estimate
        return record._appended("claim", now, {"credits_estimate": price, "by": dict(by), "budget_day": budget_day})

    @property
    def current(self) -> Attempt:
        """The attempt that counts: the last one, unless only an earlier one holds a purchase."""
        purchased = (attempt for attempt in reversed(self.attempts) if attempt.state in PURCHASED)
        return next(purchased, self.attempts[-1])

    @property
    def state(self) -> JobState:
        """The state of the attempt that counts."""
        return self.current.state

    @property
    def is_open(self) -> bool:
        """Whether any attempt needs another step or a decision.

        A claim does not count if another attempt is the current one, because no worker continues it.
        """
        current = self.current
        return any(one.is_open and (one.state != "claimed" or one is current) for one in self.attempts)

    @property
    def doubts(self) -> tuple[Attempt, ...]:
        """The attempts in doubt that wait for a person, in order."""
        return tuple(attempt for attempt in self.attempts if attempt.is_undecided)

    @property
    def undecided(self) -> Attempt | None:
        """The latest attempt in doubt that waits for a person."""
        return self.doubts[-1] if self.doubts else None

    @property
    def submitting_attempt(self) -> Attempt | None:
        """The first attempt whose POST may still get an answer."""
        return next((attempt for attempt in self.attempts if attempt.state == "submitting"), None)

    @property
    def paid_attempts(self) -> int:
        """The number of attempts that have a Loova task, in any state."""
        return sum(attempt.task_id is not None for attempt in self.attempts)

    @property
    def possibly_paid_attempts(self) -> int:
        """The number of attempts that have or may have a Loova task. Attempts in doubt count, decided or not."""
        return sum(attempt.task_id is not None or attempt.state == "in_doubt" for attempt in self.attempts)

    def may_buy(self, max_paid_attempts: int) -> bool:
        """Return whether the number of paid attempts allows a run to claim this job.

        A claim that a person decided (`submit_again`) is allowed. After a refusal of content, none is.
        """
        attempt = self.current
        if attempt.content_refused:
            return False
        if attempt.state in ("claimed", "rejected") and self._is_by_decision(attempt):
            return True
        return self.possibly_paid_attempts < max_paid_attempts

    def _is_by_decision(self, attempt: Attempt) -> bool:
        if attempt.by_decision:
            return True
        # Earlier versions did not store `by_decision`: there, the next claim after a `submit-again` has the right.
        earlier = [one for one in self.attempts[: attempt.number - 1] if "claimed" in one.times]
        decision = earlier[-1].decision if earlier else None
        return decision is not None and decision.what == "submit-again"

    def attempt(self, number: int) -> Attempt:
        """Return the attempt with this number, counted from 1."""
        return self.attempts[number - 1]

    def move(
        self,
        name: MoveName,
        number: int | None = None,
        *,
        now: datetime | None = None,
        max_paid_attempts: int = 1,
        **fields: Unpack[AttemptFields],
    ) -> Self:
        """Return the record after a move of one attempt.

        Args:
            name: A row of `MOVES`.
            number: The attempt; by default the one that counts.
            now: The time to store; by default the current time. No rule reads it.
            max_paid_attempts: How many times the request may be bought. Only claims read it.
            fields: Fields of the attempt that the move sets.

        Raises:
            InvalidTransitionError: `MOVES` does not allow this move from the attempt's state, or the move could pay
                too often.
        """
        attempt = self.current if number is None else self.attempt(number)
        move, values = MOVES[name], dict[str, Any](fields)
        if attempt.state not in move.before:
            raise InvalidTransitionError(
                f"attempt {attempt.number} is {attempt.state}: it cannot {name.replace('_', ' ')}"
            )
        self._check_payment(name, attempt, max_paid_attempts)
        if move.after == "submitted" and not values.get("task_id"):
            raise InvalidTransitionError(f"attempt {attempt.number} cannot be submitted without a task id")
        if attempt.task_id not in (None, values.get("task_id", attempt.task_id)) and not move.appends:
            raise InvalidTransitionError(
                f"attempt {attempt.number} is task {attempt.task_id}: its task id is never changed"
            )
        if name in _DECISIONS and not isinstance(values.get("decision"), Decision):
            raise InvalidTransitionError(f"{name.replace('_', ' ')} needs a person's decision in the record")
        if name == "take_back":
            values = self._taken_back(attempt, values["decision"])
        if isinstance(values.get("reason"), str):
            values["reason"] = redact(values["reason"])
        if move.appends:
            earlier = attempt.model_copy(update={"decision": values.pop("decision", attempt.decision)})
            defaults: dict[str, Any] = {"credits_estimate": attempt.credits_estimate, "by": attempt.by}
            if name == "late_purchase":
                defaults["budget_day"] = attempt.budget_day
            if name == "submit_again":
                defaults["by_decision"] = True
            return self._with(earlier)._appended(name, now, defaults | values)
        times = attempt.times if move.after == attempt.state else attempt.times | {move.after: now or datetime.now(UTC)}
        merged = dict(attempt) | (attempt.model_extra or {}) | {"times": times} | values | {"state": move.after}
        return self._with(Attempt.model_validate(merged))

    @staticmethod
    def _taken_back(attempt: Attempt, decision: Decision) -> dict[str, Any]:
        """Return the fields of an attempt after its adopted task is taken back."""
        adopted = attempt.decision
        if adopted is None or adopted.what != "adopt" or attempt.task_id is None:
            raise InvalidTransitionError(
                f"attempt {attempt.number} holds no task that a person adopted: nothing to take back"
            )
        taken_back = TakenBack(
            task_id=attempt.task_id,
            state=attempt.state,
            adopted=adopted,
            decision=decision,
            credits_cost=attempt.credits_cost,
            saving=attempt.saving,
            video=attempt.video,
        )
        cleared = ("task_id", "credits_cost", "decision", "saving", "video", "at_least_bytes", "unchecked")
        return dict.fromkeys(cleared) | {
            "cost_is_early": None,
            "content_refused": None,
            "reason": f"the adoption of task {attempt.task_id} was taken back by {decision.who}",
            "taken_back": (*(attempt.taken_back or ()), taken_back),
        }

    def _check_payment(self, name: MoveName, attempt: Attempt, max_paid_attempts: int) -> None:
        """Refuse a move toward a POST if another attempt holds or may hold the video, or if too many are paid."""
        if name not in (*_CLAIMS, "begin", "submit_again"):
            return
        refusal = f"attempt {attempt.number} cannot {name.replace('_', ' ')}:"
        for other in self.attempts:
            if other.number == attempt.number:
                continue
            if other.state in PURCHASED:
                raise InvalidTransitionError(
                    f"{refusal} attempt {other.number} is {other.state}, so the video is bought already as task "
                    f"{other.task_id}"
                )
            if name != "submit_again" and (other.state == "submitting" or other.is_undecided):
                raise InvalidTransitionError(f"{refusal} attempt {other.number} is {other.state} and may be paid")
            if name != "submit_again" and other.state == "abandoned":
                raise InvalidTransitionError(f"{refusal} a person gave the job up")
        if name in _CLAIMS and not self.may_buy(max_paid_attempts):
            raise InvalidTransitionError(
                f"{refusal} {self.possibly_paid_attempts} attempts are paid or may be, and max_paid_attempts is "
                f"{max_paid_attempts}"
            )

    def _with(self, attempt: Attempt) -> Self:
        attempts = (*self.attempts[: attempt.number - 1], attempt, *self.attempts[attempt.number :])
        return self.model_copy(update={"attempts": attempts})

    def _appended(self, name: MoveName, now: datetime | None, values: Mapping[str, Any]) -> Self:
        state = MOVES[name].after
        defaults = {"number": len(self.attempts) + 1, "state": state, "times": {state: now or datetime.now(UTC)}}
        attempt = Attempt.model_validate({**defaults, **values})
        return self.model_copy(update={"attempts": (*self.attempts, attempt)})


def with_purchase(record: JobRecord, number: int, task_id: str, **fields: Unpack[PurchaseFields]) -> JobRecord:
    """Return the record with a task id that an answer to an attempt's POST named, whatever state the record is in.

    A purchase is never dropped. A known task id changes nothing; a second task becomes an attempt.
    """
    attempt = record.attempt(number)
    if any(known.task_id == task_id for known in record.attempts):
        return record
    if attempt.state in MOVES["bought"].before and attempt.task_id is None:
        return record.move("bought", number, task_id=task_id, **fields)
    return record.move(
        "late_purchase", number, task_id=task_id, **({"reason": f"late answer to attempt {number}"} | fields)
    )
