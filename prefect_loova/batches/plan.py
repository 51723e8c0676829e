"""Plan a batch: admit it as a whole before the first submit, and build the outcome of each video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_loova.errors import BudgetError, ContentRefusedError, InDoubtError, LoovaError, WaitTimeoutError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.job_states import JobState
from prefect_loova.models.prices import MODELS, Models, cost_difference, format_credits
from prefect_loova.models.reports import Outcome, PromptPrice, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission


@dataclass(frozen=True)
class PlannedVideo:
    """One video of a batch, as its job record describes it when the batch starts.

    Attributes:
        request: The video to make.
        rows: Its positions in the given list, counted from 1.
        state: The state of its job record, or None if it has none.
        price: What this run may still spend on it, in credits.
        spent: What an earlier process of the same run spent on it, in credits.
        submission: The earlier purchase.
        reason: Why this run can do nothing about it.
        video: The s3:// URI of the video in the record.
        size_bytes: The size of the video in the record.
        differs: How the video differs from the request.
        content_refused: Whether Loova refused its content.
        is_fallback: Whether the request has the fallback prompt, because Loova refused the content of the first one.
        links: The same request with other signed links, which had other keys in earlier versions.
        models: The table of models.
        group: What its takes share in the report; by default what the request says.
        is_draft: Whether it is a draft.
        first_key: The key of the request before a fallback prompt replaced it; by default the request's own.
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
    content_refused: bool = False
    is_fallback: bool = False
    links: tuple[VideoRequest, ...] = ()
    models: Models = field(default_factory=lambda: MODELS, repr=False, compare=False)
    group: str = ""
    is_draft: bool = False
    first_key: str = ""

    @property
    def place(self) -> str:
        """Its identity in the batch, which a fallback prompt does not change."""
        return self.first_key or self.request.key

    @property
    def estimate(self) -> float:
        """The price from the table, in credits."""
        return self.request.estimate_credits(self.models)

    def with_fallback(self) -> PlannedVideo | None:
        """Return the video with its fallback prompt, or None if it has none."""
        if self.request.fallback is None:
            return None
        links = tuple(link.fallback for link in self.links if link.fallback is not None)
        return PlannedVideo(
            self.request.fallback,
            self.rows,
            spent=self.spent,
            is_fallback=True,
            links=links,
            models=self.models,
            group=self.group,
            is_draft=self.is_draft,
            first_key=self.place,
        )

    def outcome_of(self, outcome: Outcome, reason: str = "", **facts: object) -> VideoOutcome:
        """Return an outcome of this video.

        Args:
            outcome: Which outcome.
            reason: Why there is no video.
            facts: Fields of the outcome to set.
        """
        known: dict[str, object] = {}
        if self.submission:
            known = {
                "task_id": self.submission.task_id,
                "video": self.video,
                "differs": self.differs,
                "cost_difference": cost_difference(self.submission.credits_estimate, self.submission.credits_cost),
            }
        return VideoOutcome.model_validate(
            {
                "key": self.submission.key if self.submission else self.request.key,
                "name": self.request.name,
                "rows": self.rows,
                "take": self.request.take,
                "group": self.group or self.request.group,
                "is_draft": self.is_draft,
                "first_key": self.first_key,
                "label": self.request.label,
                "prompt": self.request.prompt,
                "outcome": outcome,
                "reason": reason,
                "credits_estimate": self.estimate,
                "credits_charged": self.spent,
                "is_fallback": self.is_fallback,
            }
            | known
            | facts
        )

    def saved_outcome(self, saved: SavedVideo, charged: float) -> VideoOutcome:
        """Return the outcome of a video that is in the bucket."""
        return self.outcome_of(
            "reused" if saved.reused and not charged else "saved",
            video=saved.video,
            task_id=saved.task_id,
            differs=saved.differs,
            credits_charged=charged,
            cost_difference=cost_difference(saved.credits_estimate, saved.credits_cost),
        )

    def current_outcome(self) -> VideoOutcome:
        """Return the outcome of a video that is bought, or that this run cannot buy, without another step."""
        if self.submission is not None:
            return self.outcome_of("reused" if self.state == "saved" else "submitted")
        if self.content_refused:
            return self.outcome_of("content_refused", self.reason)
        return self.outcome_of("in_doubt" if self.state == "in_doubt" else "failed", self.reason)

    def failure(self, error: Exception, charged: float) -> VideoOutcome:
        """Return the outcome of a video after an error."""
        outcome: Outcome = "failed"
        if isinstance(error, InDoubtError):
            outcome = "in_doubt"
        elif isinstance(error, ContentRefusedError):
            outcome = "content_refused"
        elif isinstance(error, BudgetError):
            outcome = "not_started"
        elif isinstance(error, WaitTimeoutError) and error.credits_spent == "yes":
            outcome = "submitted"
        known = error.task_id if isinstance(error, LoovaError) else None
        reason = redact(error) if isinstance(error, LoovaError) else redact(f"{type(error).__name__}: {error}")
        return self.outcome_of(outcome, reason, credits_charged=charged, **({"task_id": known} if known else {}))


@dataclass
class RunBudget:
    """The hard limit of one run. Spent and reserved credits together never exceed it.

    Attributes:
        most: The credits that the run may spend, or None for no limit.
        spent: The credits that are spent or reserved.
    """

    most: float | None
    spent: float = 0.0

    def take(self, credits: float) -> bool:
        """Reserve credits for a submit, and return whether enough are left."""
        if self.most is not None and credits and self.spent + credits > self.most:
            return False
        self.spent += credits
        return True

    def settle(self, reserved: float, charged: float) -> None:
        """Replace reserved credits by those that were charged."""
        self.spent += charged - reserved


@dataclass(frozen=True)
class Plan:
    """An admitted batch.

    Attributes:
        videos: The videos, each request once.
        budget: What the batch may cost.
    """

    videos: tuple[PlannedVideo, ...]
    budget: RunBudget = field(default_factory=lambda: RunBudget(None))

    @property
    def price(self) -> float:
        """What the batch may still cost, in credits."""
        return sum(planned.price for planned in self.videos)


def price_table(videos: Sequence[PlannedVideo]) -> str:
    """Return the price of a batch as a markdown table that is readable as plain text too."""
    groups = Counter((v.request.model, v.request.duration, bool(v.request.video_urls), v.price) for v in videos)
    rows = [
        f"| {model} | {seconds} s | {'yes' if reference else 'no'} | {count} | {price:g} | {count * price:g} |"
        for (model, seconds, reference, price), count in sorted(groups.items())
    ]
    head = [
        "| Model | Duration | Reference video | Videos | Credits each | Credits |",
        "|---|---:|---|---:|---:|---:|",
    ]
    total = sum(planned.price for planned in videos)
    bought = sum(planned.submission is not None for planned in videos)
    summary = f"Up to {format_credits(total)}; {bought} of {len(videos)} videos are already bought and cost nothing."
    return "\n".join([*head, *rows, "", summary])


def prompt_prices(videos: Sequence[PlannedVideo]) -> list[PromptPrice]:
    """Return the prompts of a batch, in its order, each with the price of all its takes."""
    groups: dict[str, list[PlannedVideo]] = {}
    for video in videos:
        groups.setdefault(video.request.group, []).append(video)
    return [
        PromptPrice(
            first.request.prompt, first.request.label, 1 + len(others), sum(one.price for one in (first, *others))
        )
        for first, *others in groups.values()
    ]


async def admit(
    jobs: VideoJobs,
    videos: Sequence[PlannedVideo],
    *,
    max_credits: float | None = None,
    keep_credits: float = 0.0,
    over_budget: Literal["refuse", "stop"] = "refuse",
) -> Plan:
    """Admit a batch as a whole, before anything is spent.

    Args:
        jobs: The API and the bucket.
        videos: The result of `price_videos`.
        max_credits: The credits that the run may spend, or None for no limit.
        keep_credits: The credits to keep in the account.
        over_budget: What to do if the batch may cost more. `refuse`: start nothing. `stop`: make the videos that
            certainly fit, in the given order.

    Raises:
        BudgetError: The batch may cost more, and `over_budget` is `refuse`.
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: Loova did not return the balance.
    """
    price, spent = sum(planned.price for planned in videos), sum(planned.spent for planned in videos)
    if not price:
        return Plan(tuple(videos), RunBudget(max_credits, spent))
    available = (await jobs.loova.get_credits()).available
    problems = []
    if max_credits is not None and spent + price > max_credits:
        before = f", and this run has already spent {spent:g}" if spent else ""
        problems.append(f"max_credits: {max_credits:g} was given{before}")
    if price > available - keep_credits:
        problems.append(f"keep_credits: {keep_credits:g} was given, and the account has {available:,.10g} credits")
    if problems and over_budget == "refuse":
        new = sum(bool(planned.price) for planned in videos)
        raise BudgetError(
            f"{new} of {len(videos)} videos are to be bought, for up to {format_credits(price)}; nothing was started. "
            f"{'. '.join(problems)}"
        )
    most = available - keep_credits + spent
    return Plan(tuple(videos), RunBudget(most if max_credits is None else min(most, max_credits), spent))
