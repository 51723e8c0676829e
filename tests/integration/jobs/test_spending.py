"""What a day cost, and a budget of a day that holds for all workers: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest

from prefect_loova.accounts import credits_report
from prefect_loova.errors import BudgetError, InDoubtError, LoovaError, RejectedError
from prefect_loova.models import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.spending import Entry, Spending, today
from prefect_loova.submitting import submit_video
from tests.integration.jobs.shop import AT_ONCE, KEY, REQUEST, Shop

PRICE = REQUEST.estimate_credits()
DAY = date(2026, 11, 24)


async def spent(shop: Shop) -> float:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        return sum(one.credits for one in await jobs.spending.of_day(today()))


async def buy(shop: Shop, number: int, most: float, **settings: Any) -> str:
    """Returns the task, or what kept it from being bought."""
    async with shop.worker(s3=shop.bucket.client, max_credits_per_day=most, **settings) as jobs:
        request = VideoRequest(prompt=f"video {number}", duration=4)
        try:
            return (await submit_video(jobs, request, max_wait=0)).task_id
        except LoovaError as error:
            return type(error).__name__


@pytest.fixture
def loova():
    with LoovaSimulator(generation_seconds=0, short_side=64, max_running=1000) as simulator:
        yield simulator


async def test_of_twenty_workers_at_once_as_many_buy_as_the_day_allows(shop: Shop) -> None:
    outcomes = await asyncio.gather(*(buy(shop, number, most=7.5 * PRICE) for number in range(20)))
    assert outcomes.count("BudgetError") == 13
    assert shop.totals["billed"] == 7
    assert await spent(shop) == 7 * PRICE


async def test_a_budget_counts_what_was_bought_without_one(shop: Shop) -> None:
    await shop.submit()
    assert await buy(shop, 1, most=1.5 * PRICE) == "BudgetError"
    assert await buy(shop, 1, most=2 * PRICE) != "BudgetError"
    assert await spent(shop) == 2 * PRICE


async def test_over_the_budget_nothing_is_claimed_sent_or_noted(shop: Shop) -> None:
    with pytest.raises(BudgetError, match=f"max_credits_per_day: 59 .* this video costs {PRICE:g}") as caught:
        async with shop.worker(s3=shop.bucket.client, max_credits_per_day=59) as jobs:
            await submit_video(jobs, REQUEST)
    assert caught.value.credits_spent == "no"
    assert shop.keys == set()
    assert shop.totals["posted"] == 0
    assert await spent(shop) == 0


async def test_a_job_in_doubt_counts_as_spent(shop: Shop) -> None:
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await shop.submit()
    assert await spent(shop) == PRICE
    await shop.decide("give-up")
    assert await spent(shop) == PRICE


async def test_what_loova_refused_counts_nothing_and_may_be_bought_later(shop: Shop) -> None:
    shop.loova.fail("too_many_running_tasks")
    with pytest.raises(RejectedError):
        await shop.submit(max_wait=0)
    assert await spent(shop) == 0
    async with shop.worker(s3=shop.bucket.client, max_credits_per_day=PRICE) as jobs:
        assert not (await submit_video(jobs, REQUEST)).reused
    assert await spent(shop) == PRICE


async def test_each_paid_attempt_counts(shop: Shop) -> None:
    shop.loova.fail("generation_failed")
    submission = await shop.submit()
    with pytest.raises(LoovaError):
        await shop.wait(submission)
    await shop.submit(times=AT_ONCE, max_paid_attempts=2)
    assert await spent(shop) == 2 * PRICE


async def test_what_is_reserved_by_a_worker_that_died_counts_and_is_taken_up_by_the_next_run(shop: Shop) -> None:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        await Spending(jobs.records, 10 * PRICE).admit(KEY, 1, 0, PRICE)
    assert await spent(shop) == PRICE
    async with shop.worker(s3=shop.bucket.client, max_credits_per_day=PRICE) as jobs:
        await submit_video(jobs, REQUEST)
    assert await spent(shop) == PRICE


async def test_a_worker_that_died_between_its_turn_and_its_note_is_counted_by_the_next(shop: Shop) -> None:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        entry = Entry("a" * 64, 1, 0, 3 * PRICE)
        await jobs.records.put_json(f"loova/_spend/{DAY}.json", {"last": entry.name})
        spending = Spending(jobs.records, 3 * PRICE, lambda: DAY)
        with pytest.raises(BudgetError, match="180 are spent or reserved"):
            await spending.admit(KEY, 1, 0, PRICE)
        assert [one.credits for one in await spending.of_day(DAY)] == [3 * PRICE]


async def test_each_day_has_a_budget_of_its_own(shop: Shop) -> None:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        for day in (DAY, date(2026, 11, 25)):
            spending = Spending(jobs.records, PRICE, lambda day=day: day)
            await spending.admit(KEY, day.day, 0, PRICE)
            with pytest.raises(BudgetError):
                await spending.admit(KEY, day.day + 10, 0, PRICE)


async def test_a_report_adds_up_by_day_and_model(shop: Shop) -> None:
    await shop.submit()
    fast = VideoRequest(prompt="fast", duration=4, model="seedance_2_0_fast")
    async with shop.worker(s3=shop.bucket.client) as jobs:
        await submit_video(jobs, fast)
        report = await credits_report(jobs, days=2, low_below=20_000)
    assert {day.model: (day.day, day.videos, day.credits) for day in report.days} == {
        "seedance_2_0": (today(), 1, 60),
        "seedance_2_0_fast": (today(), 1, 40),
    }
    assert report.is_low
    assert "9,900 credits, which is below 20,000; 100 were spent" in report.summary


def test_an_entry_is_read_as_it_was_named():
    for entry in (Entry("0" * 64, 1, 0, 60), Entry("f" * 64, 12, 3, 62.5)):
        assert Entry.named(entry.name) == entry
    assert Entry.named("2026-11-24.json") is None
