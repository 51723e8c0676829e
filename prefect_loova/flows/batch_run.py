"""Run a batch in a flow run: admit it, make the videos with Prefect tasks or queue them, and show the outcomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, Self, cast

from prefect import tags
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.utilities.annotations import opaque, quote

from prefect_loova._prefect.artifacts import publish_batch, publish_prices, publish_review
from prefect_loova._prefect.concurrency import LIMIT, slot, slot_count
from prefect_loova._prefect.context import Location, location_of
from prefect_loova._prefect.events import events_together
from prefect_loova._prefect.gallery import take_pictures
from prefect_loova._prefect.gates import check_deployed, parse_gate
from prefect_loova._prefect.lineage import label_tags, tagged
from prefect_loova._prefect.previews import Preview, chosen_preview, posters
from prefect_loova._prefect.progress import batch_progress
from prefect_loova._prefect.review import MOST_GROUPS, ask_for_choices
from prefect_loova._prefect.run_logs import RESULT
from prefect_loova._timing import POLL_SECONDS
from prefect_loova.batches.gates import judge_saved
from prefect_loova.batches.plan import Plan, PlannedVideo, admit, price_table, prompt_prices
from prefect_loova.batches.pricing import deduplicate, is_stored, price_planned, price_videos
from prefect_loova.batches.reviewed import ReviewSteps, Round, make_reviewed, next_round, take_groups, with_reviews
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.errors import BatchError, InvalidRequestError, counted, first_lines, redact
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.jobs.media_delivery import warn_about_prompt
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.models.attempts import budget_credits
from prefect_loova.models.gates import Verdict
from prefect_loova.models.prices import format_credits, format_difference
from prefect_loova.models.reports import BatchReport, CollectedVideos, Outcome, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission, VideoTask
from prefect_loova.models.reviews import Draft, TakeDecision, TakeGroup
from prefect_loova.settings import LoovaSettings
from prefect_loova.tasks import save_video, submit_video, wait_for_video
from prefect_loova.videos import LoovaVideos

OnFailure = Literal["raise", "report"]
"""Whether a run with missing videos fails (`raise`) or only reports them (`report`)."""

ReviewMode = Literal["none", "suspend"]
"""Whether a person chooses among takes. `suspend`: in the Prefect UI, while the run is suspended."""

REVIEW_SECONDS = 7 * 24 * 3600.0
"""How long a person may take for a review, in seconds."""

OverBudget = Literal["refuse", "stop"]
"""What to do if a batch may cost more than allowed: start nothing, or make the videos that certainly fit."""


@dataclass(frozen=True)
class Batch:
    """The options of a batch. They are the parameters of `generate_videos`, which explains them."""

    location: Location
    max_credits: float | None = None
    keep_credits: float = 0.0
    over_budget: OverBudget = "refuse"
    on_failure: OnFailure = "raise"
    wait: bool = True
    max_wait: float = MAX_WAIT
    poll_seconds: float = POLL_SECONDS
    max_paid_attempts: int = 1
    upload_options: dict[str, Any] | None = None
    max_bytes: int = saving.MAX_BYTES
    concurrency_limit: str = LIMIT
    preview: Preview = "still"
    local: LocalFiles = field(default_factory=LocalFiles)
    videos: LoovaVideos | None = None
    manifest: str = ""
    draft: str | None = None
    draft_duration: int | None = None
    review: ReviewMode = "none"
    review_seconds: float = REVIEW_SECONDS
    quality_gates: list[Any] | None = None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], local: LocalFiles) -> Self:
        """Return the options that a flow was called with. The flow's other parameters are ignored."""
        videos: LoovaVideos | None = parameters["videos"]
        location = location_of(videos, parameters["credentials"], parameters["bucket"], parameters["prefix"])
        settings = LoovaSettings.load()
        defaults: dict[str, Any] = {
            "poll_seconds": settings.poll_seconds,
            "concurrency_limit": settings.concurrency_limit,
            "preview": chosen_preview(None, videos, "still"),
        }
        given = {one.name: parameters[one.name] for one in fields(cls) if parameters.get(one.name) is not None}
        batch = cls(**defaults | given | {"location": location, "local": local, "videos": videos})
        batch._check_review()
        return batch

    def _check_review(self) -> None:
        """Raise if the options of a review do not fit together, before anything is spent."""
        if self.review == "none" and self.drafts is not None:
            raise InvalidRequestError("draft: was given without a review, in which a person chooses: give review too")
        if (self.review != "none" or self.quality_gates) and not self.wait:
            raise InvalidRequestError(
                "wait: False was given: a review and quality gates need a run that waits for the videos"
            )
        for gate in self.quality_gates or ():
            parse_gate(gate)

    @property
    def drafts(self) -> Draft | None:
        """How drafts differ from the requests, or None without drafts."""
        if self.draft is None and self.draft_duration is None:
            return None
        return Draft(self.draft, self.draft_duration)

    def _complete(self, requests: Sequence[VideoRequest]) -> Sequence[VideoRequest]:
        return [self.videos.complete(request) for request in requests] if self.videos else requests

    async def dry_run(self, requests: Sequence[VideoRequest]) -> BatchReport:
        """Show the price of the batch in the log and as an artifact. Spends nothing."""
        async with self.location.open() as jobs:
            requests = await MediaPreparer(jobs, self.local, upload=False).prepare_all(self._complete(requests))
            videos = await self._priced(jobs, requests)
            for planned in videos:
                warn_about_prompt(planned.request)
        table, prompts = price_table(videos), prompt_prices(videos)
        lines = [f"{one.takes} x {redact(one.prompt, 200)}: {one.credits:g} credits" for one in prompts]
        get_run_logger().info("a dry run, nothing is spent:\n%s\n%s", table, "\n".join(first_lines(lines, 50)))
        await publish_prices(table, prompts)
        report = BatchReport(videos=tuple(map(_dry_run_outcome, videos)))
        for video in report.videos:
            if video.outcome in ("failed", "in_doubt"):
                _log_outcome(video)
        return report

    async def make(
        self,
        requests: Sequence[VideoRequest],
        write_report: Callable[[BatchReport], Awaitable[None]] | None = None,
    ) -> BatchReport:
        """Make the videos of all requests, or queue them.

        Args:
            requests: The videos to make.
            write_report: Called with the report before this method decides whether the run fails.

        Raises:
            BudgetError: The batch as a whole was refused.
            BatchError: Videos are missing, and `on_failure` is `raise`.
        """
        async with self.location.open() as jobs:
            await jobs.records.check_bucket()
            requests = await MediaPreparer(jobs, self.local).prepare_all(self._complete(requests))
            if self.review == "none" and not self.quality_gates:
                wanted = Round(deduplicate(requests, jobs.loova.models))
                report = await self._make_round(jobs, wanted)
            else:
                report = await self._make_reviewed(jobs, requests)
            get_run_logger().info(report.summary, extra=RESULT)
            pictures = {} if self.preview == "none" else await posters(jobs, report)
            await publish_batch(report, pictures, self.manifest)
        if write_report is not None:
            await write_report(report)
        on_their_way: tuple[Outcome, ...] = () if self.wait else ("submitted", "queued")
        missing = [video.line for video in report.missing if video.outcome not in on_their_way]
        if self.on_failure == "raise" and missing:
            raise batch_error("\n".join([report.summary, *first_lines(missing, 10)]), report)
        return report

    async def _priced(self, jobs: VideoJobs, requests: Sequence[VideoRequest]) -> list[PlannedVideo]:
        """Return the videos of all stages, each with its price."""
        if self.review == "none":
            return await price_videos(jobs, requests, max_paid_attempts=self.max_paid_attempts)
        groups = await with_reviews(jobs, take_groups(requests, self.drafts))
        wanted = next_round(groups, jobs.loova.models)
        videos = [*wanted.videos, *wanted.later]
        return await price_planned(jobs, videos, max_paid_attempts=self.max_paid_attempts)

    async def _make_reviewed(self, jobs: VideoJobs, requests: Sequence[VideoRequest]) -> BatchReport:
        steps = await self.review_steps(jobs)
        report, waiting = await make_reviewed(jobs, take_groups(requests, self.drafts), steps)
        if waiting:
            log_waiting(jobs, waiting)
        return report

    async def review_steps(self, jobs: VideoJobs) -> ReviewSteps:
        """The steps of takes that quality gates and people judge.

        Raises:
            InvalidRequestError: The deployment of a gate does not exist.
        """
        gates = [parse_gate(gate) for gate in self.quality_gates or ()]
        await check_deployed(gates)

        async def ask(groups: list[TakeGroup], report: BatchReport) -> dict[str, TakeDecision] | None:
            asked = [video for video in report.videos if video.group in {one.id for one in groups[:MOST_GROUPS]}]
            small = await posters(jobs, BatchReport(videos=tuple(asked)))
            page = await publish_review(report, small)
            return await ask_for_choices(groups, self.review_seconds, page, take_pictures(asked, small))

        async def judge_video(key: str) -> Verdict | None:
            return await judge_saved(jobs, key, gates)

        return ReviewSteps(
            partial(self._make_round, jobs),
            judge_video if gates else None,
            ask if self.review == "suspend" else None,
            self.max_paid_attempts,
        )

    async def _make_round(self, jobs: VideoJobs, wanted: Round) -> BatchReport:
        """Admit the videos of a round as a whole, and make or queue them."""
        priced = partial(price_planned, jobs, max_paid_attempts=self.max_paid_attempts)
        videos, others, later = [await priced(some) for some in (wanted.videos, wanted.others, wanted.later)]
        others = [replace(one, price=0.0) for one in others if one.state is not None]
        admitted = await admit(
            jobs,
            [*videos, *others, *later],
            max_credits=self.max_credits,
            keep_credits=self.keep_credits,
            # A later round is about videos that a person or a quality gate asked for: make those that fit.
            over_budget=self.over_budget if wanted.is_first else "stop",
        )
        plan = replace(admitted, videos=tuple(videos))
        get_run_logger().info(
            "%s: %d already bought, %d to be bought for up to %s%s",
            counted(len(videos), "different video"),
            sum(planned.submission is not None for planned in videos),
            sum(bool(planned.price) for planned in videos),
            format_credits(plan.price),
            f", and after the review for up to {format_credits(sum(one.price for one in later))}" if later else "",
        )
        report = await (self._make_all(jobs, plan) if self.wait else self._queue_all(jobs, plan))
        return BatchReport(videos=(*report.videos, *(one.current_outcome() for one in others)))

    async def _make_all(self, jobs: VideoJobs, plan: Plan) -> BatchReport:
        slots = max(1, await slot_count(self.concurrency_limit))
        wanted = [planned.request for planned in plan.videos]
        async with tagged(wanted), batch_progress(len(plan.videos)) as count, events_together():

            def notify(outcome: VideoOutcome) -> None:
                _log_outcome(outcome)
                count(outcome)

            return await run_batch(plan, self.steps(jobs), slots=slots, notify=notify)

    def steps(self, jobs: VideoJobs) -> BatchSteps:
        """The steps of one video, as Prefect tasks.

        Prefect's timeline connects two task runs if an input of one contains a value of the other's result. It compares
        addresses, so texts that videos share, such as the model, would connect videos that have nothing in common.
        """
        blocks: dict[str, Any] = {
            "credentials": quote(self.location.credentials),
            "bucket": quote(self.location.bucket),
            "max_wait": self.max_wait,
        }

        async def submit(request: VideoRequest) -> Submission:
            limits = {"prefix": self.location.prefix, "max_paid_attempts": self.max_paid_attempts}
            with tags(*label_tags(request.label)):
                bought: Submission = await submit_video(cast("VideoRequest", quote(request)), **blocks, **limits)
            return bought

        async def wait(submission: Submission) -> VideoTask:
            progress = {"poll_seconds": self.poll_seconds, "show_progress": False}  # the batch has a progress bar
            with tags(*label_tags(submission.label)):
                task: VideoTask = await wait_for_video(cast("Submission", opaque(submission)), **blocks, **progress)
            return task

        async def save(submission: Submission) -> SavedVideo:
            options = {"upload_options": self.upload_options, "max_bytes": self.max_bytes, "preview": self.preview}
            with tags(*label_tags(submission.label)):
                saved: SavedVideo = await save_video(cast("Submission", opaque(submission)), **blocks, **options)
            return saved

        return BatchSteps(
            submit, wait, save, is_stored=partial(is_stored, jobs), slot=partial(slot, self.concurrency_limit)
        )

    async def _queue_all(self, jobs: VideoJobs, plan: Plan) -> BatchReport:
        """Queue the videos to buy, and submit as many at once as there are free slots."""
        wanted = [planned for planned in plan.videos if planned.price and plan.budget.take(planned.price)]
        await enqueue(jobs, [planned.request for planned in wanted], max_paid_attempts=self.max_paid_attempts)
        collected = await collect(
            jobs,
            slots=await slot_count(self.concurrency_limit),
            upload_options=self.upload_options,
            max_bytes=self.max_bytes,
        )
        queued = {planned.request.key for planned in wanted}
        return BatchReport(
            videos=tuple(_queued_outcome(video, video.request.key in queued, collected) for video in plan.videos)
        )


def log_waiting(jobs: VideoJobs, waiting: Sequence[TakeGroup]) -> None:
    """Log how to decide about takes without the run."""
    get_run_logger().warning(
        "%s for a review: prefect-loova review %s; then run this again",
        f"{counted(len(waiting), 'request')} {'waits' if len(waiting) == 1 else 'wait'}",
        jobs.location_arguments,
    )


def _dry_run_outcome(planned: PlannedVideo) -> VideoOutcome:
    return planned.outcome_of("not_started", "a dry run") if planned.price else planned.current_outcome()


def _queued_outcome(planned: PlannedVideo, is_queued: bool, collected: CollectedVideos) -> VideoOutcome:
    """Return the outcome of one video of a detached batch."""
    fallback, key = planned.with_fallback(), planned.request.key
    found = {one.key for one in collected.submitted} | {one.key for one in collected.in_doubt}
    found |= {one.key for one in collected.saved}
    if fallback is not None and fallback.request.key in found:
        planned, key = fallback, fallback.request.key
    bought = next((one for one in collected.submitted if one.key == key), None)
    failure = next((reason for one, reason in collected.failed if one == key), None)
    refusal = next((reason for one, reason in collected.content_refused if one == key), None)
    saved = next((one for one in collected.saved if one.key == key), None)
    if bought is not None:
        cost = budget_credits(bought.credits_estimate, bought.credits_cost, settled=False)
        return planned.outcome_of("submitted", task_id=bought.task_id, credits_charged=planned.spent + cost)
    if saved is not None:
        return planned.saved_outcome(saved, planned.spent)
    if failure is not None:
        return planned.outcome_of("failed", failure)
    if refusal is not None:
        return planned.outcome_of("content_refused", refusal)
    doubt = next((one for one in collected.in_doubt if one.key == key), None)
    if planned.state == "in_doubt" or doubt is not None:
        risked = doubt.credits_estimate if doubt is not None and is_queued else 0.0
        reason = planned.reason or "the answer to its submit is lost: a person has to decide (resolve_job)"
        return planned.outcome_of("in_doubt", reason, credits_charged=planned.spent + risked)
    if is_queued:
        return planned.outcome_of("queued", next((reason for one, reason in collected.problems if one == key), ""))
    if planned.price:
        return planned.outcome_of("not_started", "max_credits or keep_credits would be exceeded")
    return planned.current_outcome()


def _log_outcome(outcome: VideoOutcome) -> None:
    result = outcome.video or outcome.reason
    if outcome.differs:
        result = f"{result}, which differs from the request: {outcome.differs}"
    if outcome.cost_difference:
        result = f"{result}; {format_difference(outcome.cost_difference)}"
    is_good = outcome.is_in_bucket and not outcome.differs
    log = get_run_logger().info if is_good else get_run_logger().warning
    log("%s: %s, %s", outcome.name, outcome.outcome.replace("_", " "), result)


def batch_error(message: str, report: BatchReport) -> BatchError:
    """Return the error of a run with missing videos."""
    return BatchError(message, report=report, credits_spent="yes" if report.credits_charged else "no")


def file_run_name(parameter: str, default: str) -> str:
    """Return the name of a run whose parameter names a file."""
    name = str(flow_run.parameters.get(parameter)).rpartition("/")[2]
    return redact(f"{name}{' (dry run)' if flow_run.parameters.get('dry_run') else ''}", 80) or default
