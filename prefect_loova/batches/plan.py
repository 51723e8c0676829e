"""Many videos as one order: merge, price and admit them before the first submit, and say what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_loova.errors import (
    BudgetError,
    InDoubtError,
    LoovaError,
    WaitTimeoutError,
    redact,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.prices import format_credits
from prefect_loova.models.reports import Outcome, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.models.transitions import JobState


@dataclass(frozen=True)
class PlannedVideo:
    """One video of a batch, as it stands before the batch begins.

    Attributes:
        request: The video to be made.
        rows: Where it stands in the list that was given, counted from 1.
        state: Its job record's state, or None where it has none.
        price: What it may cost this run yet, in credits.
        spent: What an earlier process of the same run spent on it, in credits.
        submission: The purchase that was made already.
        reason: Why nothing can be done about it by this run.
        video: Where the record says that the video is, as an s3:// URI.
        size_bytes: How large the record says that it is.
        differs: How the video differs from what was asked for.
        links: The same request by other signed links, which had other keys in earlier versions.
    """

    request: VideoRequest
    rows: tuple[int, ...]
    state: JobState | None = None
    price: float = 0.0
    spent: float = 0.0
    submission: Submission | None = None
    reason: str = ""
    video: str | None = None
    size_bytes: int | None = None
    differs: str = ""
    links: tuple[VideoRequest, ...] = ()

    def outcome_of(self, outcome: Outcome, reason: str = "", **facts: object) -> VideoOutcome:
        """What became of it."""
        known: dict[str, object] = {}
        if self.submission:
            known = {"task_id": self.submission.task_id, "video": self.video, "differs": self.differs}
        return VideoOutcome.model_validate(
            {
                "key": self.submission.key if self.submission else self.request.key,
                "name": self.request.name,
                "rows": self.rows,
                "outcome": outcome,
                "reason": reason,
                "credits_estimate": self.request.estimate_credits(),
                "credits_charged": self.spent,
            }
            | known
            | facts
        )

    def saved_outcome(self, saved: SavedVideo, charged: float) -> VideoOutcome:
        """Its outcome once the video is in the bucket."""
        return self.outcome_of(
            "reused" if saved.reused and not charged else "saved",
            video=saved.video,
            task_id=saved.task_id,
            differs=saved.differs,
            credits_charged=charged,
        )

    def failure(self, error: Exception, charged: float) -> VideoOutcome:
        """Its outcome after an error."""
        outcome: Outcome = "failed"
        if isinstance(error, InDoubtError):
            outcome = "in_doubt"
        elif isinstance(error, BudgetError):
            outcome = "not_started"
        elif isinstance(error, WaitTimeoutError) and error.credits_spent == "yes":
            outcome = "submitted"
        known = error.task_id if isinstance(error, LoovaError) else None
        reason = redact(error) if isinstance(error, LoovaError) else redact(f"{type(error).__name__}: {error}")
        return self.outcome_of(outcome, reason, credits_charged=charged, **({"task_id": known} if known else {}))


@dataclass
class RunBudget:
    """The hard stop of one run: what is spent and what is still possible never exceed it together.

    Attributes:
        most: The credits that the run may spend, or None for no bound.
        spent: What is spent or reserved, in credits.
    """

    most: float | None
    spent: float = 0.0

    def take(self, credits: float) -> bool:
        """Reserve credits for a submit, if they are left."""
        if self.most is not None and credits and self.spent + credits > self.most:
            return False
        self.spent += credits
        return True

    def settle(self, reserved: float, charged: float) -> None:
        """Put what was charged in the place of what was reserved."""
        self.spent += charged - reserved


@dataclass(frozen=True)
class Plan:
    """A batch that was admitted.

    Attributes:
        orders: What is to be done, each request once.
        budget: What it may cost.
    """

    orders: tuple[PlannedVideo, ...]
    budget: RunBudget = field(default_factory=lambda: RunBudget(None))

    @property
    def price(self) -> float:
        """What the whole batch may cost yet, in credits."""
        return sum(order.price for order in self.orders)


def price_table(orders: Sequence[PlannedVideo]) -> str:
    """What a batch would cost, as a markdown table that reads as plain text too."""
    groups = Counter((o.request.model, o.request.duration, bool(o.request.video_urls), o.price) for o in orders)
    rows = [
        f"| {model} | {seconds} s | {'yes' if reference else 'no'} | {count} | {price:g} | {count * price:g} |"
        for (model, seconds, reference, price), count in sorted(groups.items())
    ]
    head = [
        "| Model | Duration | Reference video | Videos | Credits each | Credits |",
        "|---|---:|---|---:|---:|---:|",
    ]
    total = sum(order.price for order in orders)
    there = sum(order.submission is not None for order in orders)
    told = f"Up to {format_credits(total)}; {there} of {len(orders)} videos are bought already, and cost nothing."
    return "\n".join([*head, *rows, "", told])


async def admit(
    jobs: VideoJobs,
    orders: Sequence[PlannedVideo],
    *,
    max_credits: float | None = None,
    keep_credits: float = 0.0,
    over_budget: Literal["refuse", "stop"] = "refuse",
) -> Plan:
    """Admit a batch as a whole, before anything is spent.

    Args:
        jobs: The API and the bucket.
        orders: What `pricing.priced` returned.
        max_credits: The credits that the run may spend, or None for no bound.
        keep_credits: The credits that must be left in the account.
        over_budget: What to do when the batch may cost more. `refuse`: nothing is started. `stop`: as many are started
            as are certain to fit, in the order given.

    Raises:
        BudgetError: The batch may cost more than that.
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: The balance cannot be had.
    """
    price, spent = sum(order.price for order in orders), sum(order.spent for order in orders)
    if not price:
        return Plan(tuple(orders), RunBudget(max_credits, spent))
    available = (await jobs.loova.get_credits()).available
    new = sum(bool(order.price) for order in orders)
    told = f"{new} of {len(orders)} videos are to be bought, for up to {format_credits(price)}"
    problems = []
    if max_credits is not None and spent + price > max_credits:
        before = f", and {spent:g} are spent by this run already" if spent else ""
        problems.append(f"max_credits: {max_credits:g} was given{before}")
    if price > available - keep_credits:
        problems.append(f"keep_credits: {keep_credits:g} was given, and the account has {available:,.10g} credits")
    if problems and over_budget == "refuse":
        raise BudgetError(f"{told}; nothing was started. {'. '.join(problems)}")
    most = available - keep_credits + spent
    return Plan(tuple(orders), RunBudget(most if max_credits is None else min(most, max_credits), spent))
