"""The account's credits, and what was spent by day, model and deployment: what the job records add up to."""

from __future__ import annotations

from datetime import date, timedelta

from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.reports import CreditsReport, DaySpent
from prefect_loova.store.budget import AttemptCost, today


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
