"""The results of the flows: reports on a batch, a storyboard, the credits, and a pass of the collector."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import date
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.errors import ContentRefusedError, LoovaError, counted, redact
from prefect_loova.models.prices import format_credits, format_difference
from prefect_loova.models.results import JobInDoubt, SavedVideo, Submission

log = logging.getLogger(__name__)

Outcome = Literal["failed", "content_refused", "in_doubt", "not_started", "submitted", "queued", "saved", "reused"]
"""The outcome of a request. Outcomes that need a person come first.

`saved`: bought by this run, and in the bucket. `reused`: bought before, and in the bucket. `submitted`: bought, and
not saved yet. `queued`: a collector will submit it. `not_started`: not bought, for the given reason.
`content_refused`: Loova refused the content, and the same request is not bought again.
"""


class VideoOutcome(BaseModel):
    """The outcome of one request of a batch."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="The request's key.")
    first_key: str = Field("", description="With a fallback prompt: the key of the request with the first prompt.")
    name: str = Field(description="The name of the video.")
    rows: tuple[int, ...] = Field(description="The positions of the request in your list, counted from 1.")
    take: int = Field(0, description="The number of the take.")
    group: str = Field("", description="What all takes of the request share: the key of take 0.")
    label: str = Field("", description="The label of the request.")
    is_draft: bool = Field(False, description="Whether the video is a draft.")
    choice: Literal["", "to review", "chosen", "not chosen", "dropped"] = Field(
        "", description="What a person decided about it in a review, or that a person has to; empty without a review."
    )
    rejected: str = Field("", description="Why a quality gate rejected the video; empty if none did.")
    prompt: str = Field("", description="The prompt.")
    outcome: Outcome = Field(description="The outcome; see `Outcome`.")
    reason: str = Field("", description="Why there is no video.")
    task_id: str | None = Field(None, description="The Loova task.")
    video: str | None = Field(None, description="The video, as an s3:// URI.")
    is_fallback: bool = Field(False, description="Whether the video is made from the request's `fallback_prompt`.")
    differs: str = Field("", description="How the video differs from the request; empty if it does not.")
    credits_estimate: float = Field(description="The price from the table, in credits.")
    credits_charged: float = Field(0.0, description="The credits that this run spent on it, or may have spent.")
    cost_difference: float = Field(
        0.0, description="By how many credits Loova's charge exceeds the estimate; negative if it is less."
    )

    @property
    def is_in_bucket(self) -> bool:
        """Whether the video is in the bucket."""
        return self.outcome in ("saved", "reused")

    @property
    def asked_key(self) -> str:
        """The key of the request that was asked for, with its first prompt."""
        return self.first_key or self.key

    @property
    def is_missing(self) -> bool:
        """Whether you do not have this video, or a quality gate rejected it.

        A video that waits for a review, or that nobody wants any more, is not missing.
        """
        if self.choice in ("to review", "not chosen", "dropped"):
            return False
        return not self.is_in_bucket or bool(self.rejected)

    @property
    def line(self) -> str:
        """One line for an error: outcome, credits and reason."""
        spent = f"{self.credits_charged:g} credits spent" if self.credits_charged else "no credits spent"
        reason = f"a quality gate rejected it: {self.rejected}" if self.rejected else self.reason
        return f"{self.name}: {self.outcome.replace('_', ' ')}, {spent}, {reason}"


class BatchReport(BaseModel):
    """The outcome of every request of a batch, in the order of your list."""

    model_config = ConfigDict(frozen=True)

    videos: tuple[VideoOutcome, ...] = Field(description="Each request once, without duplicates.")

    def count(self, *outcomes: Outcome) -> int:
        """Return how many requests had one of these outcomes, or how many there are if you give none."""
        return sum(not outcomes or video.outcome in outcomes for video in self.videos)

    @property
    def credits_charged(self) -> float:
        """The credits that this run spent, or may have spent."""
        return sum(video.credits_charged for video in self.videos)

    @property
    def is_complete(self) -> bool:
        """Whether every video is in the bucket, except those that a person did not choose in a review."""
        return not self.missing

    @property
    def missing(self) -> tuple[VideoOutcome, ...]:
        """The videos that are missing or rejected."""
        return tuple(video for video in self.videos if video.is_missing)

    @property
    def left_to_buy(self) -> str:
        """One line about the videos that are not started, and their price."""
        left = [video for video in self.videos if video.outcome == "not_started"]
        most = format_credits(sum(video.credits_estimate for video in left))
        return f"{counted(len(self.videos), 'video')}, {len(left)} to be bought for up to {most}"

    @property
    def summary(self) -> str:
        """One line for a log."""
        counts = Counter(video.outcome for video in self.videos)
        outcomes = ", ".join(
            f"{counts[one]} {one.replace('_', ' ')}" for one in reversed(get_args(Outcome)) if counts[one]
        )
        spent = format_credits(self.credits_charged)
        difference = format_difference(sum(video.cost_difference for video in self.videos))
        differs = f"; {difference}" if difference else ""
        return f"{counted(len(self.videos), 'video')}: {outcomes or 'none'}; {spent} spent by this run{differs}"


class Seam(BaseModel):
    """Where a kept shot follows a shot whose last frame it was not made from, or no longer."""

    model_config = ConfigDict(frozen=True)

    shot: int = Field(description="The number of the kept shot.")
    distance: float = Field(
        description="The mean absolute difference between the last frame of the shot before and the first frame of the "
        "kept one, over all pixels and the channels of sRGB: 0 for equal frames, 1 for black against white."
    )


class PromptPrice(NamedTuple):
    """A prompt of a batch, and what all takes of it may still cost."""

    prompt: str
    label: str
    takes: int
    credits: float


class StoryReport(BaseModel):
    """The outcome of a story."""

    model_config = ConfigDict(frozen=True)

    title: str = Field(description="The title of the story.")
    shots: BatchReport = Field(description="The outcome of each shot. `rows` has its number.")
    film: str | None = Field(None, description="The joined film, as an s3:// URI.")
    contact_sheet: str | None = Field(None, description="The contact sheet, as an s3:// URI.")
    duration_seconds: float | None = Field(None, description="The duration of the film, in seconds.")
    size_bytes: int | None = Field(None, description="The size of the film, in bytes.")
    sha256: str | None = Field(None, description="The SHA-256 of the film, as hex digits.")
    is_copy: bool | None = Field(None, description="Whether the shots were joined without re-encoding.")
    seams: tuple[Seam, ...] = Field((), description="The seam before each kept shot that has `continue: true`.")
    takes: BatchReport | None = Field(None, description="The takes or drafts of the shots, if there are several.")

    def with_film(self, film: dict[str, Any]) -> StoryReport:
        """Return the report with the fields of the joined film."""
        known = {name: value for name, value in film.items() if name in StoryReport.model_fields and name != "shots"}
        return self.model_copy(update=known)

    @property
    def summary(self) -> str:
        """One line for a log."""
        there, all_of_them = self.shots.count("saved", "reused"), self.shots.count()
        film = f"; {self.film}, {self.duration_seconds:.1f} s" if self.film and self.duration_seconds else ""
        spent = f"{format_credits(self.credits_charged)} spent by this run"
        if self.takes is not None and not all_of_them:
            return f"{counted(len(self.takes.videos), 'take')} wait for a review; {spent}"
        return f"{there} of {counted(all_of_them, 'shot')} are there{film}; {spent}"

    @property
    def credits_charged(self) -> float:
        """The credits that this run spent on takes and shots, or may have spent."""
        videos = (*(self.takes.videos if self.takes else ()), *self.shots.videos)
        return sum({video.key: video.credits_charged for video in videos}.values())


class DaySpent(BaseModel):
    """The credits that one model, deployment and label spent on one day."""

    model_config = ConfigDict(frozen=True)

    day: date = Field(description="The day, in UTC.")
    model: str = Field(description="The requested model.")
    deployment: str = Field(description="The Prefect deployment; empty for runs without a deployment.")
    label: str = Field("", description="The label of the requests; empty for requests without a label.")
    videos: int = Field(description="The number of submits.")
    credits: float = Field(description="The credits that they cost, or may cost.")
    unsettled: float = Field(description="The part of it that may still change: running, in doubt, reserved.")
    cost_difference: float = Field(
        0.0, description="By how many credits Loova's charges exceed the estimates; negative if they are less."
    )


class CreditsReport(BaseModel):
    """The account's credits, and the credits spent below one prefix, from the job records."""

    model_config = ConfigDict(frozen=True)

    api_origin: str = Field(description="The origin of the account's API.")
    available: float = Field(description="Credits that you can spend.")
    low_below: float = Field(description="The limit below which the balance is low, in credits.")
    days: tuple[DaySpent, ...] = Field(description="The days with spent credits, the latest first.")
    price_per_credit: float | None = Field(None, description="What you pay for a credit, in your currency.")
    problems: tuple[tuple[str, str], ...] = Field(
        (), description="Jobs whose record is invalid or cannot be read: key and reason. They count at their estimate."
    )

    def by_label(self) -> dict[str, float]:
        """Return the credits of each label, the largest amount first."""
        spent = Counter[str]()
        for day in self.days:
            spent[day.label] += day.credits  # type: ignore[assignment]
        return dict(sorted(spent.items(), key=lambda one: (-one[1], one[0])))

    def money(self, credits: float) -> str:
        """Format credits in your currency: `12.50`; empty without a price."""
        return "" if self.price_per_credit is None else f"{credits * self.price_per_credit:,.2f}"

    @property
    def is_low(self) -> bool:
        """Whether the balance is low."""
        return self.available < self.low_below

    @property
    def summary(self) -> str:
        """One line for a log."""
        spent = sum(day.credits for day in self.days)
        low = f", which is below {self.low_below:,.10g}" if self.is_low else ""
        difference = format_difference(sum(day.cost_difference for day in self.days))
        differs = f"; {difference}" if difference else ""
        return (
            f"the account has {self.available:,.10g} credits{low}; {spent:,.10g} were spent in the days "
            f"reported{f', which is {self.money(spent)} at your price' if self.price_per_credit else ''}{differs}"
        )


class CollectedVideos(BaseModel):
    """The result of one pass of the collector."""

    saved: list[SavedVideo] = Field(
        [], description="Videos that this pass, or another one at the same time, put into the bucket."
    )
    failed: list[tuple[str, str]] = Field([], description="Jobs that ended without a video: key and reason.")
    content_refused: list[tuple[str, str]] = Field([], description="Jobs whose content Loova refused: key and reason.")
    in_doubt: list[JobInDoubt] = Field([], description="Jobs that wait for a person.")
    running: int = Field(0, description="The number of jobs that hold or may hold a slot at Loova.")
    submitted: list[Submission] = Field([], description="Queued jobs that this pass bought.")
    queued: int = Field(0, description="The number of requests in the queue.")
    problems: list[tuple[str, str]] = Field([], description="Jobs that could not be read or saved: key and reason.")

    def add_failure(self, key: str, error: LoovaError) -> None:
        """Add a job that ended without a video."""
        jobs = self.content_refused if isinstance(error, ContentRefusedError) else self.failed
        jobs.append((key, redact(error)))

    def add_problem(self, key: str, error: Exception) -> None:
        """Add a job that could not be read, submitted or saved, and log it."""
        # Only our own errors are known to hold no secret.
        problem = error if isinstance(error, LoovaError) else redact(f"{type(error).__name__}: {error}")
        log.warning("job %s: %s", key, problem)
        self.problems.append((key, redact(problem)))

    @property
    def summary(self) -> str:
        """One line for a log."""
        counts = {
            "saved": len(self.saved),
            "failed": len(self.failed),
            "content refused": len(self.content_refused),
            "in doubt": len(self.in_doubt),
            "submitted": len(self.submitted),
            "running": self.running,
            "queued": self.queued,
            "with problems": len(self.problems),
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
