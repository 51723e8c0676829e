"""Make the shots of a storyboard: plan each shot, and run chains of shots that continue each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from prefect_loova.batches.kept import find_kept_shots
from prefect_loova.batches.plan import Plan, PlannedVideo, RunBudget
from prefect_loova.batches.pricing import plan_video
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.batches.storyboard import Shot, Storyboard
from prefect_loova.errors import InDoubtError, InvalidRequestError, StorageError, first_lines, redact
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.film_media import prepare_film
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.media_urls import url_problems
from prefect_loova.models.film import FilmOptions, fade_problems
from prefect_loova.models.reports import VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission

T = TypeVar("T")

MOST_LOST_ANSWERS = 3
"""The lost answers after which a story submits nothing more."""


@dataclass
class StoryPlan:
    """The state of each shot, by its number."""

    shots: dict[int, Shot]
    max_paid_attempts: int
    film: FilmOptions = field(default_factory=FilmOptions)
    requests: dict[int, VideoRequest] = field(default_factory=dict)
    videos: dict[int, PlannedVideo] = field(default_factory=dict)
    saved: dict[int, SavedVideo] = field(default_factory=dict)
    outcomes: dict[int, VideoOutcome] = field(default_factory=dict)

    @classmethod
    async def of(
        cls, jobs: VideoJobs, board: Storyboard, preparing: MediaPreparer, *, max_paid_attempts: int = 1
    ) -> StoryPlan:
        """Plan every shot. A shot that continues another one has a job record only if that one is saved.

        Raises:
            InvalidRequestError: A model, a kept shot, the film, the media or their URLs have problems; the error lists
                all of them.
        """
        _check_models(jobs, board.shots)
        problems = list[str]()
        kept = await _or_problems(find_kept_shots(jobs, board.shots), problems)
        own = await _or_problems(
            preparing.prepare_all([shot.own_media for shot in board.shots], called="shot"), problems
        )
        film = await _or_problems(prepare_film(jobs, preparing.local, board.film, upload=preparing.upload), problems)
        if kept:
            seconds = [
                kept[shot.number][1].duration_seconds if shot.keep else float(shot.request.duration)
                for shot in board.shots
            ]
            problems += fade_problems(board.film, seconds)
        if problems or kept is None or own is None or film is None:
            raise InvalidRequestError("\n".join(first_lines(problems)))
        shots = {shot.number: shot.with_media(media) for shot, media in zip(board.shots, own, strict=True)}
        plan = cls(shots, max_paid_attempts, film)
        for number, (planned, saved) in kept.items():
            plan.videos[number], plan.saved[number] = planned, saved
        for chain in board.chains():
            is_before_saved = True
            for shot in chain:
                if shot.keep:
                    continue
                is_before_saved = is_before_saved and await plan.plan_ahead(jobs, preparing, shot.number)
                if not is_before_saved and shot.number not in plan.videos:
                    request = shots[shot.number].request
                    plan.videos[shot.number] = PlannedVideo(
                        request,
                        shot.rows,
                        price=request.estimate_credits(jobs.loova.models),
                        models=jobs.loova.models,
                    )
        await plan.check_media(jobs)
        return plan

    async def plan_ahead(self, jobs: VideoJobs, preparing: MediaPreparer, number: int) -> bool:
        """Plan a shot before the story starts, and return whether it is saved.

        If its first frame cannot be read, the run reports that later, and other chains are made.
        """
        try:
            await self.plan_shot(jobs, number, await preparing.prepare(self.request(number)))
        except InvalidRequestError:
            return False
        return number in self.saved

    async def check_media(self, jobs: VideoJobs) -> None:
        """Check the media URLs of all shots to buy, before the first one is paid for.

        Raises:
            InvalidRequestError: Some URLs have problems; the error lists all of them, by shot and field.
        """
        problems = list[str]()
        for number, planned in self.videos.items():
            if planned.price:
                problems += [
                    f"shot {number}: {line}" for line in await _media_problems(jobs, self.shots[number].own_media)
                ]
        if problems:
            raise InvalidRequestError("\n".join(first_lines(problems)))

    def request(self, number: int) -> VideoRequest:
        """Return the request of a shot. If it continues another one, that one must be saved."""
        shot = self.shots[number]
        return shot.after(self.saved[number - 1]) if shot.depends_on_shot_before else shot.request

    async def plan_shot(self, jobs: VideoJobs, number: int, request: VideoRequest) -> PlannedVideo:
        """Plan a shot by the job record of its prepared request."""
        self.requests[number] = request
        planned = await plan_video(
            jobs, PlannedVideo(request, self.shots[number].rows, models=jobs.loova.models), self.max_paid_attempts
        )
        if planned.submission is not None and planned.state == "saved":
            try:
                saved = await saving.find_saved(jobs, planned.submission)
            except StorageError as error:
                if error.transient:
                    raise
                saved, planned = None, replace(planned, reason=f"its video cannot be read: {redact(error)}")
            if saved is not None:
                self.saved[number] = saved
        self.videos[number] = planned
        return planned

    def outcome(self, shot: Shot, reason: str) -> VideoOutcome:
        """Return the outcome of a shot that this run did not make.

        Args:
            shot: The shot.
            reason: Why the run did not start it.
        """
        planned = self.videos[shot.number]
        if shot.number in self.saved:
            return planned.saved_outcome(self.saved[shot.number], planned.spent)
        if planned.submission is not None:
            return planned.outcome_of("failed" if planned.reason else "submitted", planned.reason)
        if planned.state == "in_doubt" or not planned.price:
            return planned.current_outcome()
        return VideoOutcome(
            key=planned.request.key if planned.request.is_prepared else "",
            name=planned.request.name,
            rows=planned.rows,
            outcome="not_started",
            reason=reason,
            credits_estimate=planned.price,
        )


@dataclass
class StoryRun:
    """One run of a story. It makes the chains of shots as slots, budget and lost answers allow."""

    jobs: VideoJobs
    plan: StoryPlan
    budget: RunBudget
    steps: BatchSteps
    prepare: Callable[[VideoRequest], Awaitable[VideoRequest]]
    slots: asyncio.Semaphore
    notify: Callable[[int, VideoOutcome], None]
    lost_answers: int = 0

    async def run_chain(self, chain: list[Shot]) -> None:
        """Make shots that continue each other, one after the other."""
        for shot in chain:
            number, before = shot.number, shot.number - 1
            if shot.depends_on_shot_before and before not in self.plan.saved:
                outcome = self.plan.outcome(shot, f"it continues shot {before}, which is missing")
            else:
                outcome = await self._make(shot)
            self.plan.outcomes[number] = outcome
            self.notify(number, outcome)

    async def _make(self, shot: Shot) -> VideoOutcome:
        number = shot.number
        try:
            planned = self.plan.videos[number]
            if number not in self.plan.saved and not planned.request.is_prepared:
                before = planned.spent
                request = await self.prepare(self.plan.request(number))
                planned = await self.plan.plan_shot(self.jobs, number, request)
                self.budget.spent += planned.spent - before
        except Exception as error:
            return self.plan.outcome(shot, f"its first frame cannot be read, nothing was bought: {redact(error)}")
        if number in self.plan.saved:
            return planned.saved_outcome(self.plan.saved[number], planned.spent)

        async def save(submission: Submission) -> SavedVideo:
            self.plan.saved[number] = saved = await self.steps.save(submission)
            return saved

        async with self.slots:
            if planned.price and self.lost_answers >= MOST_LOST_ANSWERS:
                reason = f"{self.lost_answers} answers were lost, so it was not bought: decide on those, and run again"
                return self.plan.outcome(shot, reason)
            steps = replace(self.steps, submit=self._submit, save=save)
            report = await run_batch(Plan((planned,), self.budget), steps, slots=1)
        return report.videos[0]

    async def _submit(self, request: VideoRequest) -> Submission:
        try:
            return await self.steps.submit(request)
        except InDoubtError as error:
            self.lost_answers += not error.found
            raise


def _check_models(jobs: VideoJobs, shots: Iterable[Shot]) -> None:
    problems = []
    for shot in shots:
        try:
            shot.request.check_model(jobs.loova.models)
        except InvalidRequestError as error:
            problems += [f"shot {shot.number}: {line}" for line in error.message.splitlines()]
    if problems:
        raise InvalidRequestError("\n".join(first_lines(problems)))


async def _or_problems(step: Awaitable[T], problems: list[str]) -> T | None:
    """Return the result of a step. If the input is invalid, add its problems to the list, and return None."""
    try:
        return await step
    except InvalidRequestError as error:
        problems += error.message.splitlines()
        return None


async def _media_problems(jobs: VideoJobs, request: VideoRequest) -> list[str]:
    try:
        jobs.loova.check(request)
    except InvalidRequestError as error:
        return error.message.splitlines()
    return await url_problems(request, jobs.media, allow_private=jobs.loova.is_private)
