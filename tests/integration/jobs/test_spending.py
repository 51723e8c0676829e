"""What a day cost, and a budget of a day that holds for all workers: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from prefect_loova.batches.credits import credits_report
from prefect_loova.errors import BudgetError, InDoubtError, LoovaError, RejectedError
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.budget import DailyBudget, Reservation, today
from tests.integration.jobs.workers import AT_ONCE, KEY, RECORD, REQUEST, Clock, Workers
from tests.support.proxy import Proxy

PRICE = REQUEST.estimate_credits()
DAY = date(2026, 11, 24)


async def spent(workers: Workers) -> float:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        return sum(one.credits for one in await jobs.budget.costs_on(today()))


async def buy(workers: Workers, number: int, most: float, **settings: Any) -> str:
    """Returns the task, or what kept it from being bought."""
    async with workers.worker(s3=workers.bucket.client, max_credits_per_day=most, **settings) as jobs:
        request = VideoRequest(prompt=f"video {number}", duration=4)
        try:
            return (await submit_video(jobs, request, max_wait=0)).task_id
        except LoovaError as error:
            return type(error).__name__


@pytest.fixture
def loova():
    with LoovaSimulator(generation_seconds=0, short_side=64, max_running=1000) as simulator:
        yield simulator


async def test_of_twenty_workers_at_once_as_many_buy_as_the_day_allows(workers: Workers) -> None:
    outcomes = await asyncio.gather(*(buy(workers, number, most=7.5 * PRICE) for number in range(20)))
    assert outcomes.count("BudgetError") == 13
    assert workers.totals["billed"] == 7
    assert await spent(workers) == 7 * PRICE


async def test_a_budget_counts_what_was_bought_without_one(workers: Workers) -> None:
    await workers.submit()
    assert await buy(workers, 1, most=1.5 * PRICE) == "BudgetError"
    assert await buy(workers, 1, most=2 * PRICE) != "BudgetError"
    assert await spent(workers) == 2 * PRICE


async def test_over_the_budget_nothing_is_claimed_sent_or_noted(workers: Workers) -> None:
    with pytest.raises(
        BudgetError, match=f"max_credits_per_day: the limit is 59 .* this video costs {PRICE:g}"
    ) as caught:
        async with workers.worker(s3=workers.bucket.client, max_credits_per_day=59) as jobs:
            await submit_video(jobs, REQUEST)
    assert caught.value.credits_spent == "no"
    assert workers.keys == set()
    assert workers.totals["posted"] == 0
    assert await spent(workers) == 0


async def test_a_job_in_doubt_counts_as_spent(workers: Workers) -> None:
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await workers.submit()
    assert await spent(workers) == PRICE
    await workers.decide("give-up")
    assert await spent(workers) == PRICE


async def test_a_refused_request_does_not_count_and_may_be_bought_later(workers: Workers) -> None:
    workers.loova.fail("too_many_running_tasks")
    with pytest.raises(RejectedError):
        await workers.submit(max_wait=0)
    assert await spent(workers) == 0
    async with workers.worker(s3=workers.bucket.client, max_credits_per_day=PRICE) as jobs:
        assert not (await submit_video(jobs, REQUEST)).reused
    assert await spent(workers) == PRICE


async def test_each_paid_attempt_counts(workers: Workers) -> None:
    workers.loova.fail("generation_failed")
    submission = await workers.submit()
    with pytest.raises(LoovaError):
        await workers.wait(submission)
    await workers.submit(times=AT_ONCE, max_paid_attempts=2)
    assert await spent(workers) == 2 * PRICE


async def test_the_reservation_of_a_dead_worker_counts_and_the_next_run_uses_it(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await DailyBudget(jobs.records, 10 * PRICE).reserve(KEY, 1, 0, PRICE)
    assert await spent(workers) == PRICE
    async with workers.worker(s3=workers.bucket.client, max_credits_per_day=PRICE) as jobs:
        await submit_video(jobs, REQUEST)
    assert await spent(workers) == PRICE


async def test_a_worker_that_died_between_its_turn_and_its_note_is_counted_by_the_next(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        entry = Reservation("a" * 64, 1, 0, 3 * PRICE)
        await jobs.records.put_json(f"loova/_spend/{DAY}.json", {"last": entry.name})
        budget = DailyBudget(jobs.records, 3 * PRICE, lambda: DAY)
        with pytest.raises(BudgetError, match="180 are spent or reserved"):
            await budget.reserve(KEY, 1, 0, PRICE)
        assert [one.credits for one in await budget.costs_on(DAY)] == [3 * PRICE]


async def test_each_day_has_a_budget_of_its_own(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        for day in (DAY, date(2026, 11, 25)):
            budget = DailyBudget(jobs.records, PRICE, lambda day=day: day)
            await budget.reserve(KEY, day.day, 0, PRICE)
            with pytest.raises(BudgetError):
                await budget.reserve(KEY, day.day + 10, 0, PRICE)


async def test_a_report_adds_up_by_day_and_model(workers: Workers) -> None:
    await workers.submit()
    fast = VideoRequest(prompt="fast", duration=4, model="seedance_2_0_fast")
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await submit_video(jobs, fast)
        report = await credits_report(jobs, days=2, low_below=20_000)
    assert {day.model: (day.day, day.videos, day.credits) for day in report.days} == {
        "seedance_2_0": (today(), 1, 60),
        "seedance_2_0_fast": (today(), 1, 40),
    }
    assert report.is_low
    assert "9,900 credits, which is below 20,000; 100 were spent" in report.summary


def test_an_entry_is_read_as_it_was_named():
    for entry in (Reservation("0" * 64, 1, 0, 60), Reservation("f" * 64, 12, 3, 62.5)):
        assert Reservation.parse(entry.name) == entry
    assert Reservation.parse("2026-11-24.json") is None


# -- what may still be charged counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at_submit", [0, -1_000_000])
async def test_a_cost_that_is_named_too_low_at_the_submit_admits_no_further_submit(
    workers: Workers, at_submit: int
) -> None:
    workers.loova.fail(on="submit", times=None, envelope={"data": {"credits_cost": at_submit}})
    for number in range(6):
        await buy(workers, number, most=2.5 * PRICE)
    assert workers.totals["posted"] == 2
    assert await spent(workers) == 2 * PRICE


async def test_an_end_that_names_no_cost_leaves_the_larger_of_estimate_and_early_cost(workers: Workers) -> None:
    workers.loova.fail(on="submit", times=None, envelope={"data": {"credits_cost": 0}})
    workers.loova.fail(on="poll", times=None, envelope={"data": {"credits_cost": None}})
    submission = await workers.submit()
    await workers.wait(submission)
    await workers.save(submission)
    assert workers.states == ["saved"]
    assert await spent(workers) == PRICE


async def test_the_final_cost_counts_once_loova_has_named_it(workers: Workers) -> None:
    submission = await workers.submit()
    workers.loova.fail(on="poll", times=None, envelope={"data": {"credits_cost": 12}})
    await workers.wait(submission)
    assert await spent(workers) == 12


@pytest.mark.parametrize("cost", ["-5", '"NaN"', '"Infinity"'])
async def test_a_cost_in_a_record_that_can_be_none_is_reported_and_the_estimate_counts(
    workers: Workers, cost: str
) -> None:
    await workers.save(await workers.finished())
    stored = workers.bytes_of(RECORD).decode()
    assert '"credits_cost": 60.0' in stored
    wrong = stored.replace('"credits_cost": 60.0', f'"credits_cost": {cost}')
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=RECORD, Body=wrong.encode())
    async with workers.worker(s3=workers.bucket.client) as jobs:
        report = await credits_report(jobs, days=1, low_below=0)
    assert sum(day.credits for day in report.days) == PRICE
    ((key, reason),) = report.problems
    assert key == KEY
    assert "cannot be a cost" in reason


@pytest.mark.parametrize("state", [(), ("begin", "refused"), ("begin", "bought", "fail")])
async def test_a_job_that_was_priced_by_an_older_table_is_admitted_at_the_price_of_today(
    workers: Workers, state: tuple[Any, ...]
) -> None:
    await workers.leave(*state, **({"task_id": "sim_old"} if "bought" in state else {}))
    await workers.change(
        lambda record: record.model_copy(
            update={"attempts": (record.current.model_copy(update={"credits_estimate": 1.0}),)}
        )
    )
    async with workers.worker(s3=workers.bucket.client, times=AT_ONCE, max_credits_per_day=10) as jobs:
        with pytest.raises(BudgetError, match=f"this video costs {PRICE:g}"):
            await submit_video(jobs, REQUEST, max_paid_attempts=2)
    assert workers.totals["posted"] == 0
    async with workers.worker(s3=workers.bucket.client, times=AT_ONCE, max_credits_per_day=2 * PRICE) as jobs:
        submission = await submit_video(jobs, REQUEST, max_paid_attempts=2)
    assert submission.credits_estimate == PRICE


async def test_a_claim_at_another_price_is_not_counted_beside_its_own_earlier_note(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client, max_credits_per_day=PRICE) as jobs:
        await jobs.budget.reserve(KEY, 1, 0, PRICE - 10)
        await submit_video(jobs, REQUEST)
    assert await spent(workers) == PRICE


POISONS = {
    "corrupt": b"{",
    "deep": b"[" * 100_000,
    "empty": b"",
    "of another API": JobRecord.claimed(REQUEST, "https://another.test", {}).model_dump_json().encode(),
    "of a newer format": JobRecord.claimed(REQUEST, "http://x", {}).model_copy(update={"format": 9}).model_dump_json(),
}


@pytest.mark.parametrize("poison", POISONS)
async def test_a_record_that_cannot_be_read_counts_at_its_noted_estimate_and_stops_no_other_job(
    workers: Workers, poison: str
) -> None:
    await workers.submit()
    body = POISONS[poison]
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=RECORD, Body=body)
    assert await buy(workers, 1, most=1.5 * PRICE) == "BudgetError"
    assert await buy(workers, 1, most=2 * PRICE) != "BudgetError"
    async with workers.worker(s3=workers.bucket.client) as jobs:
        report = await credits_report(jobs, days=1, low_below=0)
    assert sum(day.credits for day in report.days) == 2 * PRICE
    assert [key for key, _ in report.problems] == [KEY]


@pytest.mark.parametrize("turn", [b"{", b"[]", b"null", b"", b"[" * 100_000, b'{"last": 5}', b"\xff"])
async def test_a_turn_that_nobody_wrote_here_is_replaced_and_the_notes_count(workers: Workers, turn: bytes) -> None:
    await workers.submit()
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=f"loova/_spend/{today()}.json", Body=turn)
    assert await buy(workers, 1, most=1.5 * PRICE) == "BudgetError"
    assert await buy(workers, 1, most=2 * PRICE) != "BudgetError"
    assert await buy(workers, 2, most=2 * PRICE) == "BudgetError"


async def test_a_second_purchase_after_the_day_is_settled_counts(workers: Workers) -> None:
    clock = Clock()
    await workers.save(await workers.finished())
    async with workers.worker(s3=workers.bucket.client, clock=clock) as jobs:
        assert sum(one.credits for one in await jobs.budget.costs_on(today())) == PRICE
        await workers.change(lambda record: record.move("late_purchase", 1, task_id="sim_late"))
        clock.now += 61
        assert sum(one.credits for one in await jobs.budget.costs_on(today())) == 2 * PRICE


async def test_each_attempt_of_a_claim_that_was_taken_over_on_the_next_day_counts_once(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await DailyBudget(jobs.records, 10 * PRICE, lambda: DAY).reserve(KEY, 1, 0, PRICE)
    await workers.leave()
    await workers.submit(times=AT_ONCE)
    async with workers.worker(s3=workers.bucket.client) as jobs:
        assert [one.credits for one in await jobs.budget.costs_on(DAY)] == []
        assert [one.credits for one in await jobs.budget.costs_on(today())] == [PRICE]


# -- by which clock ----------------------------------------------------------------------------------------------------


async def at(
    workers: Workers, proxy: Proxy, here: datetime, by_s3: datetime, most: float | None, number: int = 0
) -> str:
    """Buy at a time that this machine's clock and that of S3 tell; returns the task, or what kept it from it."""
    proxy.date = format_datetime(by_s3, usegmt=True)
    s3 = replace(workers.bucket.server, endpoint_url=proxy.url).client()
    async with workers.worker(s3=s3, wall=here.timestamp, max_credits_per_day=most) as jobs:
        try:
            return (await submit_video(jobs, VideoRequest(prompt=f"video {number}", duration=4), max_wait=0)).task_id
        except LoovaError as error:
            return str(error)


MIDNIGHT = datetime(2026, 3, 29, tzinfo=UTC)
NEXT = MIDNIGHT.date()
DAY_BEFORE = NEXT - timedelta(days=1)


async def counted_on(workers: Workers, *days: date) -> list[float]:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        return [sum(one.credits for one in await jobs.budget.costs_on(day)) for day in days]


@pytest.mark.parametrize("most", [None, PRICE])
@pytest.mark.parametrize(
    ("here", "by_s3"),
    [(-1, -1), (-1, 0), (0, -1), (0, 0), (-600, 200), (200, -600), (-899, 0), (899, -1)],
)
async def test_a_submit_near_midnight_counts_on_the_one_day_of_s3s_clock(
    workers: Workers, proxy: Proxy, most: float | None, here: int, by_s3: int
) -> None:
    here_at, s3_at = (MIDNIGHT + timedelta(seconds=seconds) for seconds in (here, by_s3))
    assert (await at(workers, proxy, here_at, s3_at, most)).startswith("sim_")
    assert await counted_on(workers, DAY_BEFORE, NEXT) == ([PRICE, 0] if by_s3 < 0 else [0, PRICE])
    # Another machine, whose clock is wrong the other way, sees the same day and the same budget.
    other_at = s3_at - timedelta(seconds=here - by_s3)
    assert "max_credits_per_day: the limit is 60 credits a day" in await at(workers, proxy, other_at, s3_at, PRICE, 1)
    assert workers.totals["posted"] == 1


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
async def test_under_a_budget_two_clocks_that_disagree_by_far_buy_nothing_and_are_named(
    workers: Workers, proxy: Proxy, hours: int
) -> None:
    noon = datetime(2026, 3, 28, 12, tzinfo=UTC)
    told = await at(workers, proxy, noon, noon + timedelta(hours=hours), PRICE)
    assert f"the clock of S3 at {proxy.url} says {noon + timedelta(hours=hours):%Y-%m-%d %H:%M:%S} UTC" in told
    assert f"the clock of this machine {noon:%Y-%m-%d %H:%M:%S} UTC" in told
    assert workers.totals["posted"] == 0
    assert workers.keys == set()


async def test_without_a_budget_the_day_of_s3s_clock_counts_and_the_log_says_so(
    workers: Workers, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    noon = datetime(2026, 3, 28, 12, tzinfo=UTC)
    with caplog.at_level(logging.WARNING):
        assert (await at(workers, proxy, noon, noon + timedelta(days=1), None)).startswith("sim_")
    assert "the submit counts for the day of S3's clock" in caplog.text
    assert await counted_on(workers, DAY_BEFORE, NEXT) == [0, PRICE]


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
async def test_a_budget_day_has_24_hours_of_utc_where_the_local_day_has_23_or_25(
    workers: Workers, proxy: Proxy, day: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for number, seconds in enumerate((-1, 0, 86_399, 86_400)):
            moment = begin + timedelta(seconds=seconds)
            assert (await at(workers, proxy, moment, moment, None, number)).startswith("sim_")
        days = [day + timedelta(days=by) for by in (-1, 0, 1)]
        assert await counted_on(workers, *days) == [PRICE, 2 * PRICE, PRICE]
    finally:
        monkeypatch.undo()
        time.tzset()
