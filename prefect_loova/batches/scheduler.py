"""Run a batch: as many videos at the same time as there are slots, and each slot passes from video to video.

A lane holds one slot of a shared limit from its first submit to its last generation. Waiting for a task that already
runs needs no slot, and neither does saving. One bad video does not stop the others. The batch stops for errors that
would hit the rest too: a wrong API key, no credits for a price, three lost answers in a row.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace

from prefect_loova._cancellation import task_group
from prefect_loova._concurrency import map_bounded
from prefect_loova.batches.plan import Plan, PlannedVideo
from prefect_loova.errors import (
    AuthenticationError,
    BudgetError,
    ContentRefusedError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    TaskFailedError,
    redact,
)
from prefect_loova.jobs.handover import HANDOVER, Handover
from prefect_loova.models.attempts import budget_credits, is_cost
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission, VideoTask

_CONCURRENT_WAITS = 24
_CONCURRENT_SAVES = 3  # each takes about 40 MiB
_TOO_EXPENSIVE = (InsufficientCreditsError, BudgetError)
_MAX_LOST_ANSWERS = 3  # in a row


@dataclass(frozen=True)
class BatchSteps:
    """The steps of one video.

    Attributes:
        submit: Buy it, or find the purchase.
        wait: Wait until it is made.
        save: Save it to the bucket.
        is_stored: Return whether an earlier video is still in the bucket.
        slot: Hold a slot of a shared limit; a lane enters it before its first submit.
    """

    submit: Callable[[VideoRequest], Awaitable[Submission]]
    wait: Callable[[Submission], Awaitable[VideoTask]]
    save: Callable[[Submission], Awaitable[SavedVideo]]
    is_stored: Callable[[PlannedVideo], Awaitable[bool]]
    slot: Callable[[], AbstractAsyncContextManager[None]]


async def run_batch(
    plan: Plan, steps: BatchSteps, *, slots: int, notify: Callable[[VideoOutcome], None] = lambda _: None
) -> BatchReport:
    """Make all videos of a plan, and report the outcome of each.

    Args:
        plan: The admitted batch.
        steps: How to make one video.
        slots: How many videos may be generated at the same time.
        notify: Called with each outcome.
    """
    return await _BatchRun(plan, steps, notify).run(slots)


@dataclass
class _BatchRun:
    plan: Plan
    steps: BatchSteps
    notify: Callable[[VideoOutcome], None]
    stop_reason: str = ""
    refused_price: float = math.inf
    refusal: str = ""
    lost_answers: int = 0
    queue: deque[PlannedVideo] = field(init=False)
    outcomes: dict[str, VideoOutcome] = field(default_factory=dict)
    saves: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CONCURRENT_SAVES))

    async def run(self, slots: int) -> BatchReport:
        self.queue = deque(planned for planned in self.plan.videos if planned.price)
        free = [planned for planned in self.plan.videos if not planned.price]
        async with task_group() as group:
            for _ in range(min(slots, len(self.queue))):
                group.create_task(self._run_lane(group))
            group.create_task(map_bounded(self._finish, free, _CONCURRENT_WAITS))
        return BatchReport(videos=tuple(self.outcomes[planned.place] for planned in self.plan.videos))

    async def _run_lane(self, group: asyncio.TaskGroup) -> None:
        async with AsyncExitStack() as stack:
            has_slot = False
            while self.queue:
                planned = self.queue.popleft()
                if self._skip(planned):
                    continue
                if not has_slot:
                    await stack.enter_async_context(self.steps.slot())
                    has_slot = True
                    if self._skip(planned):  # another worker of the batch may have met an error
                        continue
                if not self.plan.budget.take(planned.price):
                    reason = f"the budget of {self.plan.budget.most:g} credits would be exceeded"
                    self._note(planned, planned.outcome_of("not_started", reason))
                    continue
                made = await self._make(planned)
                if made is not None:
                    group.create_task(self._save(*made))

    def _skip(self, planned: PlannedVideo) -> bool:
        """Skip a video, and note why, if an earlier error would hit it too."""
        reason = self.stop_reason or (self.refusal if planned.price >= self.refused_price else "")
        if reason:
            self._note(planned, planned.outcome_of("not_started", reason))
        return bool(reason)

    async def _make(self, planned: PlannedVideo) -> tuple[PlannedVideo, Submission, float] | None:
        """Buy a video and wait for it. Return it with its purchase and its cost for this run, or None after an error.

        If Loova refuses the content, the submit step or this method takes the fallback prompt.
        """
        budget, price, charged = self.plan.budget, planned.price, planned.price
        # The task that saves the video copies the context, and this lane then makes another video.
        HANDOVER.set(Handover(is_new=planned.state is None and not planned.is_fallback))
        try:
            submission = await self.steps.submit(planned.request)
            charged = _charged(submission)
            budget.settle(planned.price, charged)
            self.lost_answers = 0
            planned = _as_submitted(planned, submission)
        except Exception as error:
            charged = 0.0 if _cost_nothing(error) else planned.price
            budget.settle(planned.price, charged)
            self._learn_from(error, planned)
            self._note(planned, planned.failure(error, planned.spent + charged))
            return None
        try:
            if submission.state == "submitted":
                task = await self.steps.wait(submission)
                if is_cost(task.credits_cost) and not submission.reused:
                    budget.settle(charged, task.credits_cost)
                    charged = task.credits_cost
        except Exception as error:
            outcome = planned.failure(error, planned.spent + charged)
            fallback = planned.with_fallback() if isinstance(error, ContentRefusedError) else None
            if fallback is not None and budget.take(price):
                return await self._make(replace(fallback, price=price, spent=planned.spent + charged))
            if fallback is not None:
                reason = (
                    f"{outcome.reason}; the budget of {budget.most:g} credits leaves nothing for the fallback_prompt"
                )
                outcome = outcome.model_copy(update={"reason": reason})
            self._note(planned, outcome)
            return None
        return planned, submission, planned.spent + charged

    def _learn_from(self, error: Exception, planned: PlannedVideo) -> None:
        """Decide whether an error of one submit stops others."""
        if isinstance(error, AuthenticationError):
            self.stop_reason = self.stop_reason or f"an earlier one of this batch was refused: {redact(error.why)}"
        if isinstance(error, _TOO_EXPENSIVE) and planned.price < self.refused_price:
            self.refused_price = planned.price
            self.refusal = f"one of this price was refused: {redact(error.why)}"
        if isinstance(error, InDoubtError) and not error.found:
            self.lost_answers += 1
            if self.lost_answers >= _MAX_LOST_ANSWERS:
                self.stop_reason = self.stop_reason or (
                    f"{self.lost_answers} answers in a row were lost, the last one: {redact(error.why)}"
                )

    async def _save(self, planned: PlannedVideo, submission: Submission, charged: float) -> None:
        async with self.saves:
            try:
                self._note(planned, planned.saved_outcome(await self.steps.save(submission), charged))
            except Exception as error:
                self._note(planned, planned.failure(error, charged))

    async def _finish(self, planned: PlannedVideo) -> None:
        """Finish a video that costs nothing: it is bought, or this run cannot buy it."""
        submission = planned.submission
        if submission is None:
            self._note(planned, planned.current_outcome())
            return
        try:
            if submission.state == "saved" and await self.steps.is_stored(planned):
                self._note(planned, planned.outcome_of("saved" if planned.spent else "reused"))
                return
            if submission.state == "submitted":
                await self.steps.wait(submission)
        except Exception as error:
            outcome = planned.failure(error, planned.spent)
            if outcome.outcome == "content_refused" and planned.request.fallback is not None:
                reason = f"{outcome.reason}; the next run submits its fallback_prompt"
                outcome = outcome.model_copy(update={"reason": reason})
            self._note(planned, outcome)
            return
        await self._save(planned, submission, planned.spent)

    def _note(self, planned: PlannedVideo, outcome: VideoOutcome) -> None:
        self.outcomes[planned.place] = outcome
        self.notify(outcome)


def _as_submitted(planned: PlannedVideo, submission: Submission) -> PlannedVideo:
    """Return the video with the fallback prompt if the submit step took it."""
    fallback = planned.with_fallback()
    taken = fallback is not None and submission.key in (fallback.request.key, fallback.request.former_key)
    return replace(fallback, price=planned.price) if fallback is not None and taken else planned


def _cost_nothing(error: Exception) -> bool:
    """Return whether a failed submit certainly cost nothing. An attempt that failed earlier was paid earlier."""
    return isinstance(error, LoovaError) and (error.credits_spent == "no" or isinstance(error, TaskFailedError))


def _charged(submission: Submission) -> float:
    if submission.reused:
        return 0.0
    return budget_credits(submission.credits_estimate, submission.credits_cost, settled=False)
