"""Make a story within a flow run: admit it as a whole, make its shots with Prefect tasks, join them, and show it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect_aws.s3 import S3Bucket

from prefect_loova._cancellation import task_group
from prefect_loova._prefect.artifacts import publish_prices, publish_story
from prefect_loova._prefect.concurrency import slot_count
from prefect_loova._prefect.context import open_jobs
from prefect_loova._prefect.lineage import tag_this_run, tagged
from prefect_loova._prefect.pages import Picture
from prefect_loova._prefect.previews import posters
from prefect_loova._prefect.progress import batch_progress
from prefect_loova.batches.film import join_shots
from prefect_loova.batches.plan import Plan, PlannedVideo, RunBudget, admit, price_table
from prefect_loova.batches.pricing import as_recorded
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.batches.storyboard import Shot, Storyboard
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import BatchError, InDoubtError, InvalidRequestError, StorageError, first_lines, redact
from prefect_loova.flows.batch_run import Batch
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.media_delivery import warn_about_references
from prefect_loova.jobs.media_identity import Preparing
from prefect_loova.jobs.media_urls import url_problems
from prefect_loova.models.prices import format_credits
from prefect_loova.models.reports import BatchReport, StoryReport, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.store.previews import load_moving
from prefect_loova.tasks import RETRIES, prepare_media

_DOUBTS = 3
_TOLD = 50


@dataclass(frozen=True)
class Story:
    """How a story is made: like a batch, and in chains of shots that go on from each other.

    Attributes:
        board: What is told.
        batch: How each shot is made.
    """

    board: Storyboard
    batch: Batch

    async def dry_run(self) -> StoryReport:
        """Show what the story would cost. Spends nothing, and puts nothing into the bucket."""
        async with self._jobs() as jobs:
            state = await _State.of(jobs, self, Preparing(jobs, self.batch.local, upload=False))
        for order in state.orders.values():
            warn_about_references(order.request)
        table = price_table(list(state.orders.values()))
        get_run_logger().info("a dry run, nothing is spent:\n%s", table)
        await publish_prices(table)
        return self._report([state.outcome(shot, "a dry run") for shot in self.board.shots])

    async def make(self) -> StoryReport:
        """Make all shots, each paid once, and join them.

        Raises:
            InvalidRequestError: All that is wrong with the shots' media.
            BudgetError: The story as a whole was refused; nothing was bought.
            BatchError: Shots are missing at the end.
        """
        logger = get_run_logger()
        async with self._jobs() as jobs:
            await jobs.records.check_conditional_writes()
            state = await _State.of(jobs, self, Preparing(jobs, self.batch.local))
            orders = list(state.orders.values())
            plan = await admit(jobs, orders, max_credits=self.batch.max_credits, keep_credits=self.batch.keep_credits)
            logger.info(
                "%s: %d shots, %d are there, the others cost up to %s",
                redact(self.board.title, 80),
                len(orders),
                len(state.saved),
                format_credits(plan.price),
            )
            outcomes = await self._shots(jobs, state, plan.budget)
            report, problem = self._report(outcomes), None
            if len(state.saved) == len(self.board.shots):
                try:
                    report = report.with_film(await self._film(state))
                except Exception as error:
                    problem = error
            logger.info(report.summary)
            await self._show(jobs, report)
        if report.film is None:
            told = _not_joined(report, problem) if problem else _what_failed(report)
            spent = "yes" if report.shots.credits_charged else "no"
            raise BatchError(told, report=report.shots, credits_spent=spent) from problem
        return report

    async def _film(self, state: _State) -> dict[str, Any]:
        videos = [state.saved[shot.number] for shot in self.board.shots]
        film: dict[str, Any] = await _join(videos, **self._where, upload_options=self.batch.upload_options)
        return film

    @property
    def _where(self) -> dict[str, Any]:
        return {"credentials": self.batch.credentials, "bucket": self.batch.bucket, "prefix": self.batch.prefix}

    def _jobs(self) -> Any:
        return open_jobs(self.batch.credentials, self.batch.bucket, self.batch.prefix)

    def _report(self, outcomes: list[VideoOutcome]) -> StoryReport:
        return StoryReport(title=self.board.title, shots=BatchReport(videos=tuple(outcomes)))

    async def _shots(self, jobs: VideoJobs, state: _State, budget: RunBudget) -> list[VideoOutcome]:
        free = max(1, await slot_count(self.batch.concurrency_limit))
        with tagged({shot.request.model for shot in self.board.shots}) as made:
            await tag_this_run(made)
            async with batch_progress(len(self.board.shots)) as heard, task_group() as group:
                prepare = partial(prepare_media, **self._where)
                run = _StoryRun(jobs, state, budget, self.batch.steps(jobs), prepare, asyncio.Semaphore(free), heard)
                for chain in self.board.chains():
                    group.create_task(run.chain(chain))
        return [state.outcomes[shot.number] for shot in self.board.shots]

    async def _show(self, jobs: VideoJobs, report: StoryReport) -> None:
        moving = None
        try:
            if report.film:
                found = await load_moving(jobs.records, report.film.removeprefix(jobs.records.uri("")))
                moving = Picture(*found) if found else None
            pictures = await posters(jobs, report.shots)
        except Exception as error:
            get_run_logger().warning("the story has no pictures in its page (%s)", redact(error))
            pictures = {}
        await publish_story(report, moving, pictures)


@dataclass
class _State:
    """What is known of each shot, by its number."""

    shots: dict[int, Shot]
    max_paid_attempts: int
    orders: dict[int, PlannedVideo] = field(default_factory=dict)
    saved: dict[int, SavedVideo] = field(default_factory=dict)
    outcomes: dict[int, VideoOutcome] = field(default_factory=dict)

    @classmethod
    async def of(cls, jobs: VideoJobs, story: Story, preparing: Preparing) -> _State:
        """Look at every shot as far as it is known: one that goes on is known once the shot before is there."""
        own = await preparing.all([shot.own_media for shot in story.board.shots], called="shot")
        shots = {shot.number: shot.with_media(media) for shot, media in zip(story.board.shots, own, strict=True)}
        state = cls(shots, story.batch.max_paid_attempts)
        for chain in story.board.chains():
            known = True
            for shot in chain:
                known = known and await state.look_ahead(jobs, preparing, shot.number)
                if not known and shot.number not in state.orders:
                    request = shots[shot.number].request
                    state.orders[shot.number] = PlannedVideo(request, (shot.number,), price=request.estimate_credits())
        await state.check_media(jobs)
        return state

    async def look_ahead(self, jobs: VideoJobs, preparing: Preparing, number: int) -> bool:
        """Look at a shot before the story begins; tells whether it is there, so that the next one can be looked at.

        That the frame which it begins with cannot be had is told when its turn comes, and ends no other chain.
        """
        try:
            await self.look(jobs, number, await preparing.one(self.request(number)))
        except InvalidRequestError:
            return False
        return number in self.saved

    async def check_media(self, jobs: VideoJobs) -> None:
        """Look at the URLs of all shots that are to be bought, before the first one is paid for.

        Raises:
            InvalidRequestError: All that is wrong with them, by shot and field.
        """
        problems = list[str]()
        for number, order in self.orders.items():
            if order.price:
                problems += [f"shot {number}: {line}" for line in await _problems(jobs, self.shots[number].own_media)]
        if problems:
            raise InvalidRequestError("\n".join(first_lines(problems, _TOLD)))

    def request(self, number: int) -> VideoRequest:
        """What is asked for in a shot, once the shot that it goes on from is there."""
        shot = self.shots[number]
        return shot.after(self.saved[number - 1]) if shot.goes_on else shot.request

    async def look(self, jobs: VideoJobs, number: int, request: VideoRequest) -> PlannedVideo:
        """The order of a shot, by the job record of its prepared request."""
        order = await as_recorded(jobs, PlannedVideo(request, (number,)), self.max_paid_attempts)
        if order.submission is not None and order.state == "saved":
            try:
                found = await saving.found(jobs, order.submission)
            except StorageError as error:
                if error.transient:
                    raise
                found, order = None, replace(order, reason=f"its video cannot be looked at: {redact(error)}")
            if found is not None:
                self.saved[number] = found
        self.orders[number] = order
        return order

    def outcome(self, shot: Shot, reason: str) -> VideoOutcome:
        """What is known of a shot that this run did not make."""
        order = self.orders[shot.number]
        if shot.number in self.saved:
            return order.saved_outcome(self.saved[shot.number], order.spent)
        if order.submission is not None:
            return order.outcome_of("failed" if order.reason else "submitted", order.reason)
        if order.state == "in_doubt":
            return order.outcome_of("in_doubt", order.reason)
        if not order.price:
            return order.outcome_of("failed", order.reason)
        key = order.request.key if order.request.is_prepared else ""
        return VideoOutcome(
            key=key,
            name=order.request.name,
            rows=order.rows,
            outcome="not_started",
            reason=reason,
            credits_estimate=order.price,
        )


@dataclass
class _StoryRun:
    jobs: VideoJobs
    state: _State
    budget: RunBudget
    steps: BatchSteps
    prepare: Callable[[VideoRequest], Awaitable[VideoRequest]]
    slots: asyncio.Semaphore
    notify: Any
    doubts: int = 0

    async def chain(self, chain: list[Shot]) -> None:
        """Make shots that go on from each other, one after the other."""
        for shot in chain:
            number, before = shot.number, shot.number - 1
            if shot.goes_on and before not in self.state.saved:
                told = f"it goes on from shot {before}, which is not there"
                self._note(number, self.state.outcome(shot, told))
            else:
                self._note(number, await self._made(shot))

    async def _made(self, shot: Shot) -> VideoOutcome:
        number = shot.number
        try:
            order = self.state.orders[number]
            if not order.request.is_prepared:
                before = order.spent
                order = await self.state.look(self.jobs, number, await self.prepare(self.state.request(number)))
                self.budget.spent += order.spent - before
        except Exception as error:
            return self.state.outcome(shot, f"its first frame could not be had, nothing was bought: {redact(error)}")
        if number in self.state.saved:
            return order.saved_outcome(self.state.saved[number], order.spent)

        async def save(submission: Submission) -> SavedVideo:
            self.state.saved[number] = saved = await self.steps.save(submission)
            return saved

        async with self.slots:
            if order.price and self.doubts >= _DOUBTS:
                told = f"{self.doubts} answers were lost, so it was not bought: decide on those, and run it again"
                return self.state.outcome(shot, told)
            steps = replace(self.steps, submit=self._submit, save=save)
            report = await run_batch(Plan((order,), self.budget), steps, slots=1)
        return report.videos[0]

    async def _submit(self, request: VideoRequest) -> Submission:
        try:
            return await self.steps.submit(request)
        except InDoubtError as error:
            self.doubts += not error.found
            raise

    def _note(self, number: int, outcome: VideoOutcome) -> None:
        self.state.outcomes[number] = outcome
        told = outcome.video or outcome.reason
        log = get_run_logger().info if outcome.outcome in ("saved", "reused") else get_run_logger().warning
        log("shot %d, %s: %s, %s", number, outcome.name, outcome.outcome.replace("_", " "), told)
        self.notify(outcome)


async def _problems(jobs: VideoJobs, request: VideoRequest) -> list[str]:
    try:
        jobs.loova.check(request)
    except InvalidRequestError as error:
        return error.message.splitlines()
    return await url_problems(request, jobs.media, allow_private=jobs.loova.is_private)


def _joins() -> str:
    return f"join {len(task_run.parameters['videos'])} shots"


@task(
    name="join-shots",
    description="Join the shots of a story into one film in the bucket.",
    tags={"loova"},
    task_run_name=_joins,
    **RETRIES,
    cache_policy=NO_CACHE,
)
async def _join(
    videos: list[SavedVideo],
    *,
    credentials: LoovaCredentials,
    bucket: S3Bucket,
    prefix: str,
    upload_options: dict[str, Any] | None,
) -> dict[str, Any]:
    async with open_jobs(credentials, bucket, prefix) as jobs:
        return await join_shots(jobs, videos, upload_options=upload_options)


def _not_joined(report: StoryReport, problem: Exception) -> str:
    return (
        f"{report.summary}\nAll shots are paid for and in the bucket, but they could not be joined: "
        f"{redact(problem)}\nRun the same storyboard again: it buys none of them again, and joins them"
    )


def _what_failed(report: StoryReport) -> str:
    missing = [one for one in report.shots.videos if one.outcome not in ("saved", "reused")]
    told = [f"shot {one.rows[0]}, {one.line}" for one in missing]
    return "\n".join([report.summary, *first_lines(told, 10)])
