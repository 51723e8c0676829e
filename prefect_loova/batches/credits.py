"""The account's credits, and what was spent by day, model and deployment: what the job records add up to."""

from __future__ import annotations

from datetime import date, timedelta

from pydantic import BaseModel, ConfigDict, Field

from prefect_loova.jobs.context import VideoJobs
from prefect_loova.store.budget import AttemptCost, today


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


async def credits_report(jobs: VideoJobs, *, days: int, low_below: float) -> CreditsReport:
    """Add up what was spent, by day, model and deployment.

    Args:
        jobs: The API and the bucket.
        days: How many days to look back, today included (UTC).
        low_below: The credits below which the balance is low.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        StorageError: The days may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    available = (await jobs.loova.get_credits()).available
    sums: dict[tuple[date, str, str], list[AttemptCost]] = {}
    problems: dict[str, str] = {}
    # Tomorrow as well: S3's clock, whose day counts, may be ahead of this machine's.
    for back in range(-1, days):
        for spent in await jobs.budget.costs_on(today() - timedelta(days=back)):
            if spent.problem:
                problems[spent.key] = spent.problem
            sums.setdefault((spent.day, spent.model, spent.deployment), []).append(spent)
    return CreditsReport(
        api_origin=jobs.loova.origin,
        available=available,
        low_below=low_below,
        days=tuple(
            DaySpent(
                day=day,
                model=model,
                deployment=deployment,
                videos=len(found),
                credits=sum(one.credits for one in found),
                unsettled=sum(one.credits for one in found if not one.settled),
            )
            for (day, model, deployment), found in sorted(sums.items(), reverse=True)
        ),
        problems=tuple(problems.items()),
    )
