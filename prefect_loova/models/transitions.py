"""The moves of a job record: which states an attempt may leave by which move, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

JobState = Literal[
    "claimed", "submitting", "submitted", "succeeded", "saved", "failed", "rejected", "in_doubt", "abandoned"
]
"""The states of a job record; `MOVES` says how one follows another."""

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
    "take_back",
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
    "take_back": _move(
        "submitted succeeded saved failed", "in_doubt", "A person takes a wrong adoption back; the record keeps it."
    ),
    "succeed": _move("submitted", "succeeded", "Loova says that the video is made."),
    "fail": _move("submitted", "failed", "Loova says that the task ended without a video."),
    "lease": _move("succeeded", "succeeded", "A collector takes, renews or takes over the right to save."),
    "save": _move("succeeded", "saved", "The whole, checked video stands in the bucket."),
    "save_again": _move("saved", "succeeded", "The video is gone from the bucket; Loova is asked for it again."),
}
