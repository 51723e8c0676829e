"""The moves of a job record, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

JobState = Literal[
    "claimed", "submitting", "submitted", "succeeded", "saved", "failed", "rejected", "in_doubt", "abandoned"
]
"""The states of an attempt. `MOVES` defines the order, and `attempts` which states are bought, open or settled."""

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
    """One row of the table."""

    before: frozenset[JobState]
    """The states in which the move is allowed."""
    after: JobState
    """The state after the move."""
    when: str
    """What causes the move, for the docs."""
    appends: bool = False
    """Whether the move adds an attempt instead of changing one."""


def _move(before: str, after: JobState, when: str, appends: bool = False) -> Move:
    return Move(frozenset(before.split()), after, when, appends)  # type: ignore[arg-type]


MOVES: Mapping[MoveName, Move] = {
    "claim": _move("", "claimed", "A worker creates the record to buy the video.", appends=True),
    "take_over": _move("claimed", "claimed", "The claim is 30 s old. The next write of its owner is refused."),
    "claim_again": _move("rejected", "claimed", "Nothing was bought, so the attempt is retried."),
    "buy_again": _move("failed", "claimed", "`max_paid_attempts` allows another attempt.", appends=True),
    "begin": _move("claimed submitting", "submitting", "Right before the POST, and again if the write was slow."),
    "bought": _move("submitting in_doubt abandoned", "submitted", "An answer contains a task id."),
    "late_purchase": _move(
        "claimed submitting submitted succeeded saved failed rejected in_doubt abandoned",
        "submitted",
        "A late answer contains a second task id. Both tasks are kept.",
        appends=True,
    ),
    "refused": _move("submitting in_doubt", "rejected", "Loova refused the request, or the POST was not sent."),
    "doubt": _move("submitting", "in_doubt", "The answer is lost, or 30 s overdue."),
    "adopt": _move("in_doubt", "submitted", "A person knows the id of the task."),
    "submit_again": _move("in_doubt", "claimed", "A person accepts the risk of a second payment.", appends=True),
    "give_up": _move("in_doubt", "abandoned", "A person no longer wants the video."),
    "take_back": _move(
        "submitted succeeded saved failed", "in_doubt", "A person takes back a wrong adoption. The record keeps it."
    ),
    "succeed": _move("submitted", "succeeded", "Loova reports that the task succeeded."),
    "fail": _move("submitted", "failed", "Loova reports that the task ended without a video."),
    "lease": _move("succeeded", "succeeded", "A worker takes, renews, takes over or releases the right to save."),
    "save": _move("succeeded", "saved", "The video is in the bucket, complete and checked."),
    "save_again": _move("saved", "succeeded", "The object is missing, so the video is downloaded again."),
}
