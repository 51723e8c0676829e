"""Make the shots of a storyboard: what each one needs, and chains of shots that continue each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from prefect_loova.batches.plan import Plan, PlannedVideo, RunBudget
from prefect_loova.batches.pricing import as_recorded
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.batches.storyboard import Shot, Storyboard
from prefect_loova.errors import InDoubtError, InvalidRequestError, StorageError, first_lines, redact
from prefect_loova.jobs import save as saving
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.media_urls import url_problems
from prefect_loova.models.reports import VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission

_DOUBTS = 3


@dataclass
class StoryPlan:
    """What is known of each shot, by its number."""

    shots: dict[int, Shot]
    max_paid_attempts: int
    orders: dict[int, PlannedVideo] = field(default_factory=dict)
    saved: dict[int, SavedVideo] = field(default_factory=dict)
    outcomes: dict[int, VideoOutcome] = field(default_factory=dict)

    @classmethod
    async def of(
        cls, jobs: VideoJobs, board: Storyboard, preparing: MediaPreparer, *, max_paid_attempts: int = 1
    ) -> StoryPlan:
        """Look at every shot as far as it is known: one that goes on is known once the shot before is there."""
        own = await preparing.prepare_all([shot.own_media for shot in board.shots], called="shot")
        shots = {shot.number: shot.with_media(media) for shot, media in zip(board.shots, own, strict=True)}
        state = cls(shots, max_paid_attempts)
        for chain in board.chains():
            known = True
            for shot in chain:
                known = known and await state.look_ahead(jobs, preparing, shot.number)
                if not known and shot.number not in state.orders:
                    request = shots[shot.number].request
                    state.orders[shot.number] = PlannedVideo(request, (shot.number,), price=request.estimate_credits())
        await state.check_media(jobs)
        return state

    async def look_ahead(self, jobs: VideoJobs, preparing: MediaPreparer, number: int) -> bool:
        """Look at a shot before the story begins; tells whether it is there, so that the next one can be looked at.

        That the frame which it begins with cannot be had is told when its turn comes, and ends no other chain.
        """
        try:
            await self.look(jobs, number, await preparing.prepare(self.request(number)))
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
            raise InvalidRequestError("\n".join(first_lines(problems)))

    def request(self, number: int) -> VideoRequest:
        """What is asked for in a shot, once the shot that it goes on from is there."""
        shot = self.shots[number]
        return shot.after(self.saved[number - 1]) if shot.goes_on else shot.request

    async def look(self, jobs: VideoJobs, number: int, request: VideoRequest) -> PlannedVideo:
        """The order of a shot, by the job record of its prepared request."""
        order = await as_recorded(jobs, PlannedVideo(request, (number,)), self.max_paid_attempts)
        if order.submission is not None and order.state == "saved":
            try:
                found = await saving.find_saved(jobs, order.submission)
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
class StoryRun:
    """One run of a story: its shots are made in chains, as far as slots, budget and answers allow."""

    jobs: VideoJobs
    state: StoryPlan
    budget: RunBudget
    steps: BatchSteps
    prepare: Callable[[VideoRequest], Awaitable[VideoRequest]]
    slots: asyncio.Semaphore
    notify: Callable[[int, VideoOutcome], None]
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
        self.notify(number, outcome)


async def _problems(jobs: VideoJobs, request: VideoRequest) -> list[str]:
    try:
        jobs.loova.check(request)
    except InvalidRequestError as error:
        return error.message.splitlines()
    return await url_problems(request, jobs.media, allow_private=jobs.loova.is_private)
