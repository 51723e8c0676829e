"""Report the account's credits, and the spending by day, model, deployment and label, from the job records."""

from __future__ import annotations

from datetime import date, timedelta

from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.reports import CreditsReport, DaySpent
from prefect_loova.store.budget import AttemptCost, today


async def credits_report(
    jobs: VideoJobs, *, days: int, low_below: float, price_per_credit: float | None = None
) -> CreditsReport:
    """Add up the spending by day, model, deployment and label.

    Args:
        jobs: The API and the bucket.
        days: How many days to include, up to today (UTC).
        low_below: The credits below which the balance is low.
        price_per_credit: What you pay for a credit.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        StorageError: The credentials may not list the bucket (`s3:ListBucket`), or S3 cannot be reached.
    """
    available = (await jobs.loova.get_credits()).available
    costs: dict[tuple[date, str, str, str], list[AttemptCost]] = {}
    problems: dict[str, str] = {}
    # Include tomorrow: S3's clock decides the day, and may be ahead of this machine's.
    for back in range(-1, days):
        for cost in await jobs.budget.costs_on(today() - timedelta(days=back)):
            if cost.problem:
                problems[cost.key] = cost.problem
            costs.setdefault((cost.day, cost.model, cost.deployment, cost.label), []).append(cost)
    return CreditsReport(
        api_origin=jobs.loova.origin,
        available=available,
        low_below=low_below,
        price_per_credit=price_per_credit,
        days=tuple(
            DaySpent(
                day=day,
                model=model,
                deployment=deployment,
                label=label,
                videos=len(group),
                credits=sum(cost.credits for cost in group),
                unsettled=sum(cost.credits for cost in group if not cost.settled),
                cost_difference=sum(cost.difference for cost in group),
            )
            for (day, model, deployment, label), group in sorted(costs.items(), reverse=True)
        ),
        problems=tuple(problems.items()),
    )
