"""Work a batch off: as many videos at once as there are places, each place passed on from video to video.

A lane is one place. It holds a slot (of a limit that others share) from its first submit to its last generation, so
that a slot passes from video to video inside a run. Waiting for what already runs takes no place, saving takes none
either. One bad video does not stop the others; what no later one can escape (a wrong key, no credits for its price,
three answers in a row that this batch lost) does.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from prefect_loova._cancellation import task_group
from prefect_loova.batches.plan import Plan, PlannedVideo
from prefect_loova.errors import (
    AuthenticationError,
    BudgetError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    TaskFailedError,
    redact,
)
from prefect_loova.models.job_record import budget_credits, is_cost
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission, VideoTask

_WAITS_AT_ONCE = 24
_SAVES_AT_ONCE = 3  # each takes some 40 MiB
_TOO_DEAR = (InsufficientCreditsError, BudgetError)
_DOUBTS_IN_A_ROW = 3


@dataclass(frozen=True)
class BatchSteps:
    """The steps of one video, as the caller runs them.

    Attributes:
        submit: Buy it, or find the purchase.
        wait: Wait until it is made.
        save: Bring it into the bucket.
        is_there: Whether a video that was saved before is still in the bucket.
        slot: A place in a limit that others share; entered before a lane's first submit.
    """

    submit: Callable[[VideoRequest], Awaitable[Submission]]
    wait: Callable[[Submission], Awaitable[VideoTask]]
    save: Callable[[Submission], Awaitable[SavedVideo]]
    is_there: Callable[[PlannedVideo], Awaitable[bool]]
    slot: Callable[[], AbstractAsyncContextManager[None]]


async def run_batch(
    plan: Plan, steps: BatchSteps, *, slots: int, notify: Callable[[VideoOutcome], None] = lambda _: None
) -> BatchReport:
    """Make all videos of a plan, and say what became of each.

    Args:
        plan: What was admitted.
        steps: How one video is made.
        places: How many may be generated at once.
        tell: Hears of each outcome as it comes.
    """
    return await _BatchRun(plan, steps, notify).to_the_end(slots)


@dataclass
class _BatchRun:
    plan: Plan
    steps: BatchSteps
    notify: Callable[[VideoOutcome], None]
    stopped: str = ""
    refused: tuple[float, str] = (math.inf, "")
    doubts: int = 0
    queue: deque[PlannedVideo] = field(init=False)
    outcomes: dict[str, VideoOutcome] = field(default_factory=dict)
    saves: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_SAVES_AT_ONCE))

    async def to_the_end(self, slots: int) -> BatchReport:
        self.queue = deque(order for order in self.plan.orders if order.price)
        known = deque(order for order in self.plan.orders if not order.price)
        async with task_group() as group:
            for _ in range(min(slots, len(self.queue))):
                group.create_task(self._lane(group))
            for _ in range(min(_WAITS_AT_ONCE, len(known))):
                group.create_task(self._look_after(known))
        return BatchReport(videos=tuple(self.outcomes[order.request.key] for order in self.plan.orders))

    async def _lane(self, group: asyncio.TaskGroup) -> None:
        async with AsyncExitStack() as held:
            holds = False
            while self.queue:
                order = self.queue.popleft()
                if self._is_not_started(order):
                    continue
                if not holds:
                    await held.enter_async_context(self.steps.slot())
                    holds = True
                    if self._is_not_started(order):  # what the other lanes met meanwhile
                        continue
                if not self.plan.budget.take(order.price):
                    reason = f"the budget of {self.plan.budget.most:g} credits would be exceeded"
                    self._note(order, order.outcome_of("not_started", reason))
                    continue
                made = await self._bought_and_made(order)
                if made is not None:
                    group.create_task(self._saved(order, *made))

    def _is_not_started(self, order: PlannedVideo) -> bool:
        """Whether an earlier one has shown that this one need not be tried; it is noted then."""
        price, reason = self.refused
        reason = self.stopped or (reason if order.price >= price else "")
        if reason:
            self._note(order, order.outcome_of("not_started", reason))
        return bool(reason)

    async def _bought_and_made(self, order: PlannedVideo) -> tuple[Submission, float] | None:
        """Returns the purchase and what it cost this run, or None where it came to nothing."""
        budget, charged = self.plan.budget, order.price
        try:
            submission = await self.steps.submit(order.request)
            charged = _charged(submission)
            budget.settle(order.price, charged)
            self.doubts = 0
        except Exception as error:
            charged = 0.0 if _is_free(error) else order.price
            budget.settle(order.price, charged)
            self._learn_from(error, order)
            self._note(order, order.failure(error, order.spent + charged))
            return None
        try:
            if submission.state == "submitted":
                task = await self.steps.wait(submission)
                if is_cost(task.credits_cost) and not submission.reused:
                    budget.settle(charged, task.credits_cost)
                    charged = task.credits_cost
        except Exception as error:
            self._note(order, order.failure(error, order.spent + charged))
            return None
        return submission, order.spent + charged

    def _learn_from(self, error: Exception, order: PlannedVideo) -> None:
        """What one refusal says about the rest of the batch."""
        if isinstance(error, AuthenticationError):
            self.stopped = self.stopped or f"an earlier one of this batch was refused: {redact(error.why)}"
        if isinstance(error, _TOO_DEAR) and order.price < self.refused[0]:
            self.refused = order.price, f"one of this price was refused: {redact(error.why)}"
        if isinstance(error, InDoubtError) and not error.found:
            self.doubts += 1
            if self.doubts >= _DOUBTS_IN_A_ROW:
                self.stopped = (
                    self.stopped or f"{self.doubts} answers in a row were lost, the last one: {redact(error.why)}"
                )

    async def _saved(self, order: PlannedVideo, submission: Submission, charged: float) -> None:
        async with self.saves:
            try:
                self._note(order, order.saved_outcome(await self.steps.save(submission), charged))
            except Exception as error:
                self._note(order, order.failure(error, charged))

    async def _look_after(self, known: deque[PlannedVideo]) -> None:
        """What costs nothing any more: bought already, or nothing that this run may decide."""
        while known:
            order = known.popleft()
            submission = order.submission
            if submission is None:
                self._note(order, order.outcome_of("in_doubt" if order.state == "in_doubt" else "failed", order.reason))
                continue
            try:
                if submission.state == "saved" and await self.steps.is_there(order):
                    self._note(order, order.outcome_of("saved" if order.spent else "reused"))
                    continue
                if submission.state == "submitted":
                    await self.steps.wait(submission)
            except Exception as error:
                self._note(order, order.failure(error, order.spent))
                continue
            await self._saved(order, submission, order.spent)

    def _note(self, order: PlannedVideo, outcome: VideoOutcome) -> None:
        self.outcomes[order.request.key] = outcome
        self.notify(outcome)


def _is_free(error: Exception) -> bool:
    """Whether a submit that ended so surely cost nothing; an attempt that failed before was paid before."""
    return isinstance(error, LoovaError) and (error.credits_spent == "no" or isinstance(error, TaskFailedError))


def _charged(submission: Submission) -> float:
    if submission.reused:
        return 0.0
    return budget_credits(submission.credits_estimate, submission.credits_cost, settled=False)
