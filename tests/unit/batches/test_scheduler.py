"""Running a batch on a virtual clock: slots, budget and bad videos."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova import VideoRequest
from prefect_loova.batches.plan import Plan, PlannedVideo, RunBudget
from prefect_loova.batches.pricing import deduplicate
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.errors import (
    AuthenticationError,
    BatchError,
    BudgetError,
    InDoubtError,
    InsufficientCreditsError,
    RejectedError,
    TaskFailedError,
    WaitTimeoutError,
)
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.results import SavedVideo, Submission, VideoTask
from tests.support.virtual_time import run

PRICE = 60.0  # 4 s at 15 credits


def requests(count: int) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"video {number}", duration=4) for number in range(count)]


@dataclass
class Loova:
    """A Loova in memory, with the books that the tests look at."""

    seconds: float = 60.0
    surcharge: float = 0.0
    errors: dict[str, Exception] = field(default_factory=dict)
    gone: bool = False
    running: int = 0
    most_running: int = 0
    slots: int = 0
    slots_taken: int = 0
    billed: float = 0.0
    submits: list[str] = field(default_factory=list)
    saves: int = 0

    async def submit(self, request: VideoRequest) -> Submission:
        self.submits.append(request.prompt)
        error = self.errors.get(request.prompt)
        if isinstance(error, TaskFailedError) or error is None:
            cost = request.estimate_credits() + self.surcharge
            self.billed += cost
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            return submission(request, cost=cost)
        raise error

    async def wait(self, submitted: Submission) -> VideoTask:
        await asyncio.sleep(self.seconds)
        self.running -= not submitted.reused
        error = self.errors.get(submitted.prompt)
        if error is not None:
            raise error
        return VideoTask(task_id=submitted.task_id, state="succeeded")

    async def save(self, submitted: Submission) -> SavedVideo:
        self.saves += 1
        await asyncio.sleep(5)
        return saved(submitted)

    async def is_stored(self, order: PlannedVideo) -> bool:
        return not self.gone

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        self.slots += 1
        self.slots_taken += 1
        assert self.slots <= 6
        yield
        self.slots -= 1

    @property
    def steps(self) -> BatchSteps:
        return BatchSteps(submit=self.submit, wait=self.wait, save=self.save, is_stored=self.is_stored, slot=self.slot)


def submission(request: VideoRequest, state: str = "submitted", reused: bool = False, cost: float | None = None):
    return Submission(
        key=request.key,
        attempt=1,
        state=state,
        task_id=f"task of {request.prompt}",
        api_origin="http://loova",
        record="s3://b/r",
        prompt=request.prompt,
        model=request.model,
        credits_estimate=request.estimate_credits(),
        credits_cost=cost,
        reused=reused,
    )


def saved(submitted: Submission) -> SavedVideo:
    return SavedVideo(
        key=submitted.key,
        task_id=submitted.task_id,
        video=f"s3://b/{submitted.key}/video.mp4",
        record=submitted.record,
        size_bytes=1,
        sha256="0",
        credits_cost=submitted.credits_cost,
        reused=submitted.reused,
    )


def new(count: int) -> list[PlannedVideo]:
    return [PlannedVideo(order.request, order.rows, price=PRICE) for order in deduplicate(requests(count))]


def made(
    loova: Loova, orders: list[PlannedVideo], most: float | None = None, slots: int = 6
) -> tuple[BatchReport, float]:
    async def timed() -> tuple[BatchReport, float]:
        plan = Plan(tuple(orders), RunBudget(most, sum(order.spent for order in orders)))
        report = await run_batch(plan, loova.steps, slots=slots)
        return report, asyncio.get_running_loop().time()

    report, seconds = run(timed())
    assert loova.slots == 0
    return report, seconds


def test_every_slot_is_always_in_use():
    loova = Loova()
    report, seconds = made(loova, new(60))
    assert report.count("saved") == 60
    assert loova.most_running == 6
    assert seconds <= math.ceil(60 / 6) * 60 + 5 * 2  # the last ones are saved three at a time


def test_a_slot_passes_from_video_to_video():
    loova = Loova()
    made(loova, new(60))
    assert loova.slots_taken == 6


def test_one_bad_video_does_not_stop_the_others():
    errors = {
        "video 0": TaskFailedError("no video", credits_spent="maybe"),
        "video 1": InDoubtError("lost", key="k", attempt=1, credits_spent="maybe"),
        "video 2": RejectedError("a bad prompt"),
        "video 3": WaitTimeoutError("still running", credits_spent="yes", task_id="t"),
        "video 4": RuntimeError("a bug"),
    }
    report, _ = made(Loova(errors=errors), new(20))
    assert [video.outcome for video in report.videos[:5]] == ["failed", "in_doubt", "failed", "submitted", "failed"]
    assert report.count("saved") == 15
    assert "a bug" in report.videos[4].reason
    assert not report.is_complete


class Signalled(BaseException):
    """As Prefect's exception for SIGTERM, which knows nothing of groups."""


def test_a_signal_ends_the_batch_and_is_raised_unchanged():
    with pytest.raises(Signalled):
        made(Loova(errors={"video 3": Signalled()}), new(20))


def test_a_wrong_key_ends_the_submits():
    loova = Loova(errors={f"video {number}": AuthenticationError("a wrong key") for number in range(20)})
    report, _ = made(loova, new(20))
    assert len(loova.submits) <= 6
    assert report.count("not_started") >= 14
    assert "an earlier one of this batch was refused" in report.videos[-1].reason


def test_three_lost_answers_in_a_row_end_the_submits():
    lost = InDoubtError("lost", key="k", attempt=1, credits_spent="maybe")
    loova = Loova(errors={f"video {number}": lost for number in range(30)})
    report, _ = made(loova, new(30), slots=1)
    assert (len(loova.submits), report.count("in_doubt"), report.count("not_started")) == (3, 3, 27)
    assert "3 answers in a row were lost" in report.videos[-1].reason


def test_jobs_that_were_already_in_doubt_do_not_count_as_lost_answers():
    errors = {f"video {number}": InDoubtError("lost by another run", found=True) for number in range(8)}
    errors |= {f"video {number}": InDoubtError("lost", credits_spent="maybe") for number in (8, 9)}
    report, _ = made(Loova(errors=errors), new(30), slots=1)
    assert (report.count("in_doubt"), report.count("saved"), report.count("not_started")) == (10, 20, 0)


@pytest.mark.parametrize("error", [InsufficientCreditsError("too few"), BudgetError("too much for this day")])
def test_after_a_price_is_refused_lower_prices_are_tried(error):
    loova = Loova(errors={"video 0": error})
    cheap = VideoRequest(prompt="cheap", duration=4, model="seedance_2_0_fast")
    orders = [*new(8), PlannedVideo(cheap, (9,), price=cheap.estimate_credits())]
    report, _ = made(loova, orders, slots=1)
    assert loova.submits == ["video 0", "cheap"]
    assert [video.outcome for video in report.videos[-2:]] == ["not_started", "saved"]
    assert "one of this price was refused" in report.videos[1].reason


def test_a_job_in_doubt_is_reported_and_never_submitted():
    loova = Loova()
    (request,) = requests(1)
    report, _ = made(loova, [PlannedVideo(request, (1,), state="in_doubt", reason="a person decides")], most=0)
    assert (report.videos[0].outcome, report.videos[0].reason, loova.submits) == ("in_doubt", "a person decides", [])


def test_a_saved_video_is_only_checked():
    loova = Loova()
    orders = [
        PlannedVideo(
            request, (row,), state="saved", submission=submission(request, "saved", reused=True), video="s3://b/v"
        )
        for row, request in enumerate(requests(50), 1)
    ]
    report, seconds = made(loova, orders)
    assert (report.count("reused"), loova.submits, loova.saves, seconds) == (50, [], 0, 0)
    assert report.credits_charged == 0
    loova.gone = True
    report, _ = made(loova, orders)
    assert (report.count("reused"), loova.submits, loova.saves) == (50, [], 50)


def test_waiting_for_a_running_task_takes_no_slot():
    loova = Loova()
    orders = [PlannedVideo(r, (1,), state="submitted", submission=submission(r, reused=True)) for r in requests(12)]
    report, seconds = made(loova, orders)
    assert report.count("reused") == 12
    assert (loova.slots_taken, loova.submits) == (0, [])
    assert seconds < 120


def test_a_surcharge_counts_and_the_budget_is_not_exceeded():
    loova = Loova(surcharge=30)
    report, _ = made(loova, new(20), most=20 * PRICE)
    assert loova.billed <= 20 * PRICE + 6 * 30  # what ran when the first surcharge was seen
    assert report.count("not_started") > 0
    assert report.credits_charged == loova.billed
    assert "the budget of 1200 credits would be exceeded" in report.videos[-1].reason


@given(
    count=st.integers(0, 30),
    most=st.floats(0, 2500),
    slots=st.integers(1, 8),
    bad=st.dictionaries(st.integers(0, 29), st.sampled_from(["reject", "doubt", "fail"]), max_size=8),
)
def test_a_run_never_exceeds_its_budget_and_reports_every_video(count, most, slots, bad):
    kinds = {
        "reject": RejectedError("no"),
        "doubt": InDoubtError("lost", key="k", attempt=1, credits_spent="maybe"),
        "fail": TaskFailedError("no video", credits_spent="maybe"),
    }
    loova = Loova(errors={f"video {number}": kinds[kind] for number, kind in bad.items()})
    if slots > 6:
        slots = 6
    report, _ = made(loova, new(count), most=most, slots=slots)
    doubtful = sum(PRICE for video in report.videos if video.outcome == "in_doubt")
    assert loova.billed + doubtful <= most or loova.billed + doubtful == 0
    assert report.count() == count
    assert report.credits_charged == loova.billed + doubtful
    lost_in_a_row = any("answers in a row were lost" in video.reason for video in report.videos)
    assert report.count("not_started") == 0 or loova.billed + doubtful + PRICE > most or lost_in_a_row


def test_a_request_given_twice_is_one_video():
    orders = deduplicate([*requests(3), *requests(2)])
    assert [order.rows for order in orders] == [(1, 4), (2, 5), (3,)]


@dataclass
class ChargesLate(Loova):
    """Names one cost at the submit and another one at the end."""

    at_submit: float | None = 0.0
    at_end: float | None = 75.0

    async def submit(self, request: VideoRequest) -> Submission:
        await super().submit(request)
        return submission(request, cost=self.at_submit)

    async def wait(self, submitted: Submission) -> VideoTask:
        task = await super().wait(submitted)
        return task.model_copy(update={"credits_cost": self.at_end})


@pytest.mark.parametrize("at_submit", [0.0, None, -1e9, math.nan])
def test_a_cost_that_is_too_low_at_the_submit_does_not_free_budget(at_submit: float | None):
    loova = ChargesLate(at_submit=at_submit)
    report, _ = made(loova, new(9), most=4 * PRICE, slots=6)
    assert len(loova.submits) <= 4
    assert report.credits_charged == 75 * len(loova.submits)


@pytest.mark.parametrize("at_end", [None, -1e9, math.nan])
def test_an_impossible_final_cost_keeps_the_reservation(at_end: float | None):
    loova = ChargesLate(at_end=at_end)
    report, _ = made(loova, new(9), most=4 * PRICE, slots=1)
    assert len(loova.submits) == 4
    assert report.credits_charged == 4 * PRICE


def test_each_row_of_an_error_reports_its_own_credits():
    """In a batch of which others were paid for, in doubt, or refused: each row's credits are the row's."""
    errors = {
        "video 1": RejectedError("a bad prompt"),
        "video 2": InDoubtError("lost", key="k", attempt=1, credits_spent="maybe"),
        "video 3": WaitTimeoutError("still running", credits_spent="yes", task_id="t"),
        "video 4": AuthenticationError("a wrong key", credits_spent="maybe"),
    }
    report, _ = made(Loova(errors=errors), new(7), slots=1)
    error = BatchError(
        "\n".join([report.summary, *(video.line for video in report.videos)]), report=report, credits_spent="yes"
    )
    batch, *rows = str(error).split("\n")
    assert batch.endswith("(credits spent: yes)")
    for video, row in zip(report.videos, rows, strict=True):
        told = f"{video.credits_charged:g} credits spent" if video.credits_charged else "no credits spent"
        assert f"{video.outcome.replace('_', ' ')}, {told}, " in row
        if not video.credits_charged:
            assert "credits spent: " not in row, row
    assert [video.credits_charged for video in report.videos] == [60, 0, 60, 60, 60, 0, 0]
    assert "a wrong key" in rows[-1]
