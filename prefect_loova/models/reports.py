"""What the flows return: reports on a batch, a storyboard, the credits, and a pass of the collector."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.models.prices import format_credits
from prefect_loova.models.results import JobInDoubt, SavedVideo, Submission

Outcome = Literal["failed", "in_doubt", "not_started", "submitted", "queued", "saved", "reused"]
"""What became of a request, those that need a person first.

`saved`: bought by this run, and in the bucket. `reused`: bought before, and in the bucket. `submitted`: bought, and
not saved yet. `queued`: waits for a collector to submit it. `not_started`: not bought, the reason says why.
"""


class VideoOutcome(BaseModel):
    """What became of one request of a batch."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="The request's key.")
    name: str = Field(description="What is made.")
    rows: tuple[int, ...] = Field(description="Where it stands in the list that was given, counted from 1.")
    outcome: Outcome = Field(description="What became of it; `Outcome` tells what each means.")
    reason: str = Field("", description="Why there is no video.")
    task_id: str | None = Field(None, description="The Loova task.")
    video: str | None = Field(None, description="The video, as an s3:// URI.")
    differs: str = Field("", description="How the video differs from what was asked for; empty where it does not.")
    credits_estimate: float = Field(description="The price by the table, in credits.")
    credits_charged: float = Field(0.0, description="What this run spent on it, or may have, in credits.")

    @property
    def line(self) -> str:
        """How it ended, what this run spent on it, and why, as one line of an error."""
        spent = f"{self.credits_charged:g} credits spent" if self.credits_charged else "no credits spent"
        return f"{self.name}: {self.outcome.replace('_', ' ')}, {spent}, {self.reason}"


class BatchReport(BaseModel):
    """What became of every request of a batch, in the order that they were given."""

    model_config = ConfigDict(frozen=True)

    videos: tuple[VideoOutcome, ...] = Field(description="Each request once, however often it was given.")

    def count(self, *outcomes: Outcome) -> int:
        """How many requests had one of these outcomes; all of them, if none is given."""
        return sum(not outcomes or video.outcome in outcomes for video in self.videos)

    @property
    def credits_charged(self) -> float:
        """What this run spent, or may have spent, in credits."""
        return sum(video.credits_charged for video in self.videos)

    @property
    def is_complete(self) -> bool:
        """Whether every video is in the bucket."""
        return self.count("saved", "reused") == self.count()

    @property
    def left_to_buy(self) -> str:
        """One line: what is not started, and what it may cost."""
        left = [video for video in self.videos if video.outcome == "not_started"]
        most = format_credits(sum(video.credits_estimate for video in left))
        return f"{len(self.videos)} videos, {len(left)} to be bought for up to {most}"

    @property
    def summary(self) -> str:
        """One line for a log."""
        counts = Counter(video.outcome for video in self.videos)
        told = ", ".join(f"{counts[one]} {one.replace('_', ' ')}" for one in reversed(get_args(Outcome)) if counts[one])
        return f"{len(self.videos)} videos: {told or 'none'}; {format_credits(self.credits_charged)} spent by this run"


class StoryReport(BaseModel):
    """What became of a story."""

    model_config = ConfigDict(frozen=True)

    title: str = Field(description="What it is called.")
    shots: BatchReport = Field(description="What became of each shot; `rows` has its number.")
    film: str | None = Field(None, description="The joined film, as an s3:// URI.")
    contact_sheet: str | None = Field(None, description="Its contact sheet, as an s3:// URI.")
    duration_seconds: float | None = Field(None, description="How long it plays, in seconds.")
    size_bytes: int | None = Field(None, description="Its size, in bytes.")
    sha256: str | None = Field(None, description="Of the whole film, as hex digits.")
    is_copy: bool | None = Field(None, description="Whether the shots were joined without encoding them again.")

    def with_film(self, film: dict[str, Any]) -> StoryReport:
        """The same report with what is known of the joined film."""
        known = {name: value for name, value in film.items() if name in StoryReport.model_fields and name != "shots"}
        return self.model_copy(update=known)

    @property
    def summary(self) -> str:
        """One line for a log."""
        there, all_of_them = self.shots.count("saved", "reused"), self.shots.count()
        film = f"; {self.film}, {self.duration_seconds:.1f} s" if self.film and self.duration_seconds else ""
        spent = format_credits(self.shots.credits_charged)
        return f"{there} of {all_of_them} shots are there{film}; {spent} spent by this run"


class DaySpent(BaseModel):
    """What one model and deployment spent on one day."""

    model_config = ConfigDict(frozen=True)

    day: date = Field(description="The day, in UTC.")
    model: str = Field(description="The model that was asked for.")
    deployment: str = Field(description="The Prefect deployment; empty for runs without one.")
    videos: int = Field(description="How many submits count.")
    credits: float = Field(description="What they cost, or may yet, in credits.")
    unsettled: float = Field(description="Of that, what may still change: running, in doubt, reserved.")


class CreditsReport(BaseModel):
    """The account's credits, and what was spent below one prefix, by the job records."""

    model_config = ConfigDict(frozen=True)

    api_origin: str = Field(description="The API that the account is of.")
    available: float = Field(description="Credits that can be spent.")
    low_below: float = Field(description="The credits below which the balance is low.")
    days: tuple[DaySpent, ...] = Field(description="The days with something spent, the latest first.")
    problems: tuple[tuple[str, str], ...] = Field(
        (), description="Jobs whose record is wrong or cannot be read, which count at their estimate: key and reason."
    )

    @property
    def is_low(self) -> bool:
        """Whether somebody should buy credits."""
        return self.available < self.low_below

    @property
    def summary(self) -> str:
        """One line for a log."""
        spent = sum(day.credits for day in self.days)
        low = f", which is below {self.low_below:,.10g}" if self.is_low else ""
        return f"the account has {self.available:,.10g} credits{low}; {spent:,.10g} were spent in the days looked at"


class CollectedVideos(BaseModel):
    """What one pass found and did."""

    saved: list[SavedVideo] = Field(
        [], description="Videos that are in the bucket since this pass, or since another one at the same time."
    )
    failed: list[tuple[str, str]] = Field([], description="Jobs that ended without a video: key and reason.")
    in_doubt: list[JobInDoubt] = Field([], description="Jobs that wait for a person.")
    running: int = Field(0, description="How many jobs hold a place at Loova, or may.")
    submitted: list[Submission] = Field([], description="Queued jobs that this pass bought.")
    queued: int = Field(0, description="How many wait in the queue.")
    problems: list[tuple[str, str]] = Field([], description="What could not be looked at or saved: key and reason.")

    @property
    def summary(self) -> str:
        """One line for a log."""
        told = {
            "saved": len(self.saved),
            "failed": len(self.failed),
            "in doubt": len(self.in_doubt),
            "submitted": len(self.submitted),
            "running": self.running,
            "queued": self.queued,
            "with problems": len(self.problems),
        }
        return ", ".join(f"{count} {name}" for name, count in told.items() if count) or "nothing to do"
