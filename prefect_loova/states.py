"""What a job record says, and the moves that its states allow: values and one table, no I/O.

A job record holds one request and an append-only list of attempts to buy it. Each attempt has a state of its own:

```
claimed -> submitting -> submitted -> succeeded -> saved
              |              '-> failed (Loova's own terminal answer, nothing else)
              |-> rejected (nothing was bought; may be tried again)
              '-> in_doubt -> a person: adopt a task | submit again (a new attempt) | give up (abandoned)
```

`MOVES` is that drawing as a table. The code moves a record only through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

from prefect_loova.errors import MoveRefusedError, shown
from prefect_loova.models import JobState, VideoRequest

DecisionName = Literal["adopt", "submit-again", "give-up"]
"""What a person may decide about a job in doubt."""

FORMAT = 1
"""The format of a record. A newer one is refused, not misread."""

MoveName = Literal[
    "claim",
    "take_over",
    "claim_again",
    "buy_again",
    "begin",
    "bought",
    "late_purchase",
    "refused",
    "doubt",
    "adopt",
    "submit_again",
    "give_up",
    "succeed",
    "fail",
    "lease",
    "save",
    "save_again",
]


@dataclass(frozen=True)
class Move:
    """One row of the table: which states an attempt may leave by this move, and what makes it happen."""

    before: frozenset[JobState]
    after: JobState
    when: str
    appends: bool = False
    """Whether the move starts a new attempt instead of changing this one."""


def _move(before: str, after: JobState, when: str, appends: bool = False) -> Move:
    return Move(frozenset(before.split()), after, when, appends)  # type: ignore[arg-type]


MOVES: Mapping[MoveName, Move] = {
    "claim": _move("", "claimed", "The first to create the record wants to buy.", appends=True),
    "take_over": _move("claimed", "claimed", "The claim is 30 s old; its owner's next write is refused."),
    "claim_again": _move("rejected", "claimed", "Nothing was bought, so the same attempt is tried again."),
    "buy_again": _move("failed", "claimed", "A parameter allows another paid attempt.", appends=True),
    "begin": _move("claimed submitting", "submitting", "Written before the POST; again if it is no longer fresh."),
    "bought": _move("submitting in_doubt abandoned", "submitted", "An answer, late or not, holds a task id."),
    "late_purchase": _move(
        "claimed submitting submitted succeeded saved failed rejected in_doubt abandoned",
        "submitted",
        "A late answer names a second task: both are kept.",
        appends=True,
    ),
    "refused": _move("submitting in_doubt", "rejected", "Loova said no, or the POST never left."),
    "doubt": _move("submitting", "in_doubt", "The answer is lost, or overdue by 30 s."),
    "adopt": _move("in_doubt", "submitted", "A person names the task that the lost submit made."),
    "submit_again": _move("in_doubt", "claimed", "A person risks a second payment.", appends=True),
    "give_up": _move("in_doubt", "abandoned", "A person wants no video any more."),
    "succeed": _move("submitted", "succeeded", "Loova says that the video is made."),
    "fail": _move("submitted", "failed", "Loova says that the task ended without a video."),
    "lease": _move("succeeded", "succeeded", "A collector takes, renews or takes over the right to save."),
    "save": _move("succeeded", "saved", "The whole, checked video stands in the bucket."),
    "save_again": _move("saved", "succeeded", "The video is gone from the bucket; Loova is asked for it again."),
}


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
        cls, request: VideoRequest, api_origin: str, by: Mapping[str, str], now: datetime | None = None
    ) -> Self:
        """The record of a request that nobody asked for before."""
        record = cls(key=request.key, api_origin=api_origin, request=request.shown(), attempts=())
        return record._appended("claim", now, credits_estimate=request.estimate_credits(), by=dict(by))

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
        """Whether something is left to do or to decide in any attempt."""
        if self.state == "saved":
            return any(attempt.is_open for attempt in self.attempts if attempt.state in PURCHASED)
        return any(attempt.is_open for attempt in self.attempts)

    @property
    def undecided(self) -> Attempt | None:
        """The attempt in doubt that waits for a person, the latest one if there are several."""
        waiting = [attempt for attempt in self.attempts if attempt.state == "in_doubt" and attempt.decision is None]
        return waiting[-1] if waiting else None

    @property
    def paid_attempts(self) -> int:
        """How many attempts Loova took on, whatever became of them."""
        return sum(attempt.task_id is not None for attempt in self.attempts)

    def attempt(self, number: int) -> Attempt:
        """The attempt with this number, counted from 1."""
        return self.attempts[number - 1]

    def move(self, name: MoveName, number: int | None = None, *, now: datetime | None = None, **facts: Any) -> Self:
        """The record after a move of one attempt.

        Args:
            name: A row of `MOVES`.
            number: Which attempt; the one that counts, if not given.
            now: The time to note; the clock's, if not given. For people only: no rule reads it.
            facts: Fields of the attempt that the move sets.

        Raises:
            MoveRefusedError: The table does not allow this move from the attempt's state.
        """
        attempt = self.current if number is None else self.attempt(number)
        move = MOVES[name]
        if attempt.state not in move.before:
            raise MoveRefusedError(f"attempt {attempt.number} is {attempt.state}: it cannot {name.replace('_', ' ')}")
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
            return self._with(earlier)._appended(name, now, **facts)
        times = attempt.times if move.after == attempt.state else attempt.times | {move.after: now or datetime.now(UTC)}
        merged = dict(attempt) | (attempt.model_extra or {}) | {"times": times} | facts | {"state": move.after}
        return self._with(Attempt.model_validate(merged))

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
