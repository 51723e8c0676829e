"""Run a batch within a flow run: admit it, work it off with Prefect tasks or queue it, show what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from prefect.logging import get_run_logger

from prefect_loova._prefect.artifacts import publish_batch, publish_prices
from prefect_loova._prefect.concurrency import LIMIT, slot, slot_count
from prefect_loova._prefect.context import Location
from prefect_loova._prefect.lineage import tag_this_run, tagged
from prefect_loova._prefect.previews import Preview, posters
from prefect_loova._prefect.progress import batch_progress
from prefect_loova.batches.plan import Plan, PlannedVideo, admit, price_table
from prefect_loova.batches.pricing import is_there, price_videos
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.errors import BatchError, first_lines
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_delivery import warn_about_references
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.models.job_record import budget_credits
from prefect_loova.models.prices import format_credits
from prefect_loova.models.reports import BatchReport, CollectedVideos, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.tasks import save_video, submit_video, wait_for_video

OnFailure = Literal["raise", "report"]
"""Whether a run fails at its end when videos are missing."""

OverBudget = Literal["refuse", "stop"]
"""What to do when a batch may cost more than it is allowed to: start nothing, or as many as are certain to fit."""


@dataclass(frozen=True)
class Batch:
    """How a batch is made; the fields are the parameters of `generate_videos`, which explains them."""

    location: Location
    max_credits: float | None = None
    keep_credits: float = 0.0
    over_budget: OverBudget = "refuse"
    on_failure: OnFailure = "raise"
    wait: bool = True
    max_wait: float = MAX_WAIT
    poll_seconds: float = 20.0
    max_paid_attempts: int = 1
    upload_options: dict[str, Any] | None = None
    max_bytes: int = saving.MAX_BYTES
    concurrency_limit: str = LIMIT
    preview: Preview = "still"
    local: LocalFiles = field(default_factory=LocalFiles)

    async def dry_run(self, requests: Sequence[VideoRequest]) -> BatchReport:
        """Show what the batch would cost, in the log and as an artifact. Spends nothing."""
        async with self.location.open() as jobs:
            requests = await MediaPreparer(jobs, self.local, upload=False).prepare_all(requests)
            orders = await price_videos(jobs, requests, max_paid_attempts=self.max_paid_attempts)
        for order in orders:
            warn_about_references(order.request)
        table = price_table(orders)
        get_run_logger().info("a dry run, nothing is spent:\n%s", table)
        await publish_prices(table)
        report = BatchReport(videos=tuple(_as_it_stands(order) for order in orders))
        for video in report.videos:
            if video.outcome in ("failed", "in_doubt"):
                _log_outcome(video)
        return report

    async def make(
        self,
        requests: Sequence[VideoRequest],
        report_to: Callable[[BatchReport], Awaitable[None]] | None = None,
    ) -> BatchReport:
        """Make the videos of all requests, or queue them.

        Args:
            requests: The videos to be made.
            report_to: Gets the report before it is decided whether the run fails.

        Raises:
            BudgetError: The batch as a whole was refused.
            BatchError: Videos are missing at the end, and `on_failure` is `raise`.
        """
        logger = get_run_logger()
        async with self.location.open() as jobs:
            await jobs.records.check_conditional_writes()
            requests = await MediaPreparer(jobs, self.local).prepare_all(requests)
            orders = await price_videos(jobs, requests, max_paid_attempts=self.max_paid_attempts)
            plan = await admit(
                jobs,
                orders,
                max_credits=self.max_credits,
                keep_credits=self.keep_credits,
                over_budget=self.over_budget,
            )
            logger.info(
                "%d videos, each once: %d are there, %d are to be bought for up to %s",
                len(orders),
                sum(order.submission is not None for order in orders),
                sum(bool(order.price) for order in orders),
                format_credits(plan.price),
            )
            if self.wait:
                report = await self._worked_off(jobs, plan)
            else:
                report = await self._detached(jobs, plan.orders, plan.budget.take)
            logger.info(report.summary)
            await publish_batch(report, await posters(jobs, report))
        if report_to is not None:
            await report_to(report)
        on_their_way = 0 if self.wait else report.count("submitted", "queued")
        if self.on_failure == "raise" and report.count("saved", "reused") + on_their_way < report.count():
            raise BatchError(
                _what_failed(report), report=report, credits_spent="yes" if report.credits_charged else "no"
            )
        return report

    async def _worked_off(self, jobs: VideoJobs, plan: Plan) -> BatchReport:
        free = await slot_count(self.concurrency_limit)
        with tagged({order.request.model for order in plan.orders}) as made:
            await tag_this_run(made)
            async with batch_progress(len(plan.orders)) as heard:

                def notify(outcome: VideoOutcome) -> None:
                    _log_outcome(outcome)
                    heard(outcome)

                return await run_batch(plan, self.steps(jobs), slots=max(free, 1), notify=notify)

    def steps(self, jobs: VideoJobs) -> BatchSteps:
        """The steps of one video, as Prefect tasks."""
        credentials, bucket = self.location.credentials, self.location.bucket

        async def submit(request: VideoRequest) -> Submission:
            submission: Submission = await submit_video(
                request,
                credentials=credentials,
                bucket=bucket,
                prefix=self.location.prefix,
                max_wait=self.max_wait,
                max_paid_attempts=self.max_paid_attempts,
            )
            return submission

        async def save(submission: Submission) -> SavedVideo:
            options, most = self.upload_options, self.max_bytes
            saved: SavedVideo = await save_video(
                submission,
                credentials=credentials,
                bucket=bucket,
                upload_options=options,
                max_bytes=most,
                max_wait=self.max_wait,
                preview=self.preview,
            )
            return saved

        return BatchSteps(
            submit=submit,
            wait=partial(
                wait_for_video,
                credentials=credentials,
                bucket=bucket,
                max_wait=self.max_wait,
                poll_seconds=self.poll_seconds,
                show_progress=False,  # the batch has a bar
            ),
            save=save,
            is_there=partial(is_there, jobs),
            slot=partial(slot, self.concurrency_limit),
        )

    async def _detached(
        self, jobs: VideoJobs, orders: Sequence[PlannedVideo], take: Callable[[float], bool]
    ) -> BatchReport:
        """Queue what is to be bought, and submit at once what there are places for."""
        wanted = [order for order in orders if order.price and take(order.price)]
        await enqueue(jobs, [order.request for order in wanted], max_paid_attempts=self.max_paid_attempts)
        found = await collect(
            jobs,
            slots=await slot_count(self.concurrency_limit),
            upload_options=self.upload_options,
            max_bytes=self.max_bytes,
        )
        queued = {order.request.key for order in wanted}
        return BatchReport(videos=tuple(_left(order, order.request.key in queued, found) for order in orders))


def _as_it_stands(order: PlannedVideo) -> VideoOutcome:
    if order.submission is not None:
        return order.outcome_of("reused" if order.state == "saved" else "submitted")
    if order.price:
        return order.outcome_of("not_started", "a dry run")
    return order.outcome_of("in_doubt" if order.state == "in_doubt" else "failed", order.reason)


def _left(order: PlannedVideo, queued: bool, found: CollectedVideos) -> VideoOutcome:
    """What became of one request of a detached batch so far."""
    key = order.request.key
    bought = next((one for one in found.submitted if one.key == key), None)
    failed = next((reason for one, reason in found.failed if one == key), None)
    saved = next((one for one in found.saved if one.key == key), None)
    if bought is not None:
        cost = budget_credits(bought.credits_estimate, bought.credits_cost, settled=False)
        return order.outcome_of("submitted", task_id=bought.task_id, credits_charged=order.spent + cost)
    if saved is not None:
        return order.saved_outcome(saved, order.spent)
    if failed is not None:
        return order.outcome_of("failed", failed)
    doubt = next((one for one in found.in_doubt if one.key == key), None)
    if order.state == "in_doubt" or doubt is not None:
        maybe = doubt.credits_estimate if doubt is not None and queued else 0.0
        reason = order.reason or "the answer to its submit is lost: a person decides (resolve_job)"
        return order.outcome_of("in_doubt", reason, credits_charged=order.spent + maybe)
    if queued:
        return order.outcome_of("queued", next((reason for one, reason in found.problems if one == key), ""))
    if order.submission is not None:
        return order.outcome_of("reused" if order.state == "saved" else "submitted")
    if order.price:
        return order.outcome_of("not_started", "max_credits or keep_credits would be exceeded")
    return order.outcome_of("failed", order.reason)


def _log_outcome(outcome: VideoOutcome) -> None:
    told = outcome.video or outcome.reason
    if outcome.differs:
        told = f"{told}, which differs from what was asked for: {outcome.differs}"
    is_good = outcome.outcome in ("saved", "reused") and not outcome.differs
    log = get_run_logger().info if is_good else get_run_logger().warning
    log("%s: %s, %s", outcome.name, outcome.outcome.replace("_", " "), told)


def _what_failed(report: BatchReport) -> str:
    missing = [video for video in report.videos if video.outcome not in ("saved", "reused")]
    return "\n".join([report.summary, *first_lines([video.line for video in missing], 10)])
