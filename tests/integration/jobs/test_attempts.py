"""Every attempt of a job is seen, whatever became of the others: in listing, index, collecting and buying."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_loova.errors import InDoubtError, LoovaError, MoveRefusedError, TaskFailedError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.doubt import jobs_in_doubt
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import Attempt, Decision, JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.budget import today
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, PATIENT, RECORD, REQUEST, Shop, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGAIN = Decision(what="submit-again", who="ann", when=NOW, why="")
PRICE = REQUEST.estimate_credits()
STATES = ("claimed", "submitted", "succeeded", "failed", "rejected", "in_doubt", "decided", "abandoned", "submitting")


async def put(shop: Shop, request: VideoRequest, states: tuple[str, ...]) -> None:
    """A record with attempts in these states, in the index; Loova knows none of its tasks."""
    attempts = tuple(
        Attempt(
            number=number,
            state="in_doubt" if state == "decided" else state,  # type: ignore[arg-type]
            task_id=f"{request.take}-{number}" if state in ("submitted", "succeeded", "failed") else None,
            credits_estimate=PRICE,
            post_timeout_seconds=1000 if state == "submitting" else None,
            decision=AGAIN if state == "decided" else None,
            times={"claimed": NOW, "submitting": NOW},
        )
        for number, state in enumerate(states, 1)
    )
    record = JobRecord(
        key=request.key, api_origin=shop.loova.origin, request=request.shown(), attempts=attempts, write_id="w"
    )
    async with shop.worker() as jobs:
        await jobs.records.note_open(record)
        await jobs.records.create(record)


async def test_all_pairs_of_attempts_are_listed_looked_at_and_kept_in_the_index_as_each_needs(shop: Shop) -> None:
    pairs = {
        REQUEST.model_copy(update={"take": take}): states
        for take, states in enumerate(itertools.product(STATES, repeat=2))
    }
    await asyncio.gather(*(put(shop, request, states) for request, states in pairs.items()))
    async with shop.worker(s3=shop.bucket.client, times=PATIENT) as jobs:
        listed = {(job.key, job.attempt) for job in await jobs_in_doubt(jobs)}
        found = await collect(jobs)
    doubtful = {
        (request.key, number)
        for request, states in pairs.items()
        for number, state in enumerate(states, 1)
        if state == "in_doubt"
    }
    assert listed == doubtful
    assert {(job.key, job.attempt) for job in found.in_doubt} == doubtful
    to_look_at = Counter(
        request.key for request, states in pairs.items() for state in states if state in ("submitted", "succeeded")
    )
    assert Counter(key for key, _ in found.problems) == to_look_at
    left = {
        request.key
        for request, states in pairs.items()
        if set(states) & {"submitted", "succeeded", "in_doubt", "submitting"} or states[-1] == "claimed"
    }
    assert {key.removeprefix("loova/_open/") for key in shop.keys if "/_open/" in key} == left


async def test_an_error_of_the_first_paid_attempt_does_not_keep_the_second_one_from_being_saved(shop: Shop) -> None:
    submission = await shop.submit()
    await shop.change(
        lambda record: record.model_copy(
            update={"attempts": (record.current.model_copy(update={"task_id": "sim_unknown"}),)}
        )
    )
    await shop.change(lambda record: record.move("late_purchase", 1, task_id=submission.task_id))
    async with shop.worker(s3=shop.bucket.client) as jobs:
        found = await collect(jobs)
    assert [saved.task_id for saved in found.saved] == [submission.task_id]
    assert [key for key, _ in found.problems] == [KEY]
    assert shop.states == ["submitted", "saved"]


async def test_a_late_answer_to_the_first_attempt_does_not_hide_the_doubt_in_the_second(shop: Shop) -> None:
    shop.loova.fail("slow_reply", delay_seconds=3)
    late = asyncio.create_task(shop.submit())
    await shop.until_posted()
    await shop.change(lambda record: record.move("begin", post_timeout_seconds=0))
    with pytest.raises(InDoubtError):
        await shop.submit(times=AT_ONCE)
    await shop.decide("submit-again")
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await shop.submit(times=AT_ONCE)
    await until(lambda: late.done())
    await shop.wait(await late)
    await shop.save(await late)
    assert shop.states == ["saved", "in_doubt"]
    async with shop.worker(s3=shop.bucket.client) as jobs:
        await collect(jobs)
        assert [(job.key, job.attempt) for job in await jobs_in_doubt(jobs)] == [(KEY, 2)]
        assert sum(one.credits for one in await jobs.spending.of_day(today())) == 2 * PRICE
    assert OPEN in shop.keys
    with pytest.raises(MoveRefusedError, match="the video is bought already"):
        await shop.decide("submit-again", attempt=2)
    assert (await shop.submit()).reused
    await shop.decide("give-up", attempt=2)
    assert shop.states == ["saved", "abandoned"]
    assert OPEN not in shop.keys
    assert shop.totals["posted"] == 2


async def test_a_submit_that_a_dead_worker_left_beside_a_purchase_is_found_in_doubt(shop: Shop) -> None:
    await put(shop, REQUEST, ("submitted", "submitting"))
    await shop.change(
        lambda record: record.model_copy(
            update={
                "attempts": (
                    record.attempts[0],
                    record.attempts[1].model_copy(update={"post_timeout_seconds": 0.0}),
                )
            }
        )
    )
    async with shop.worker(s3=shop.bucket.client, times=AT_ONCE) as jobs:
        assert [job.attempt for job in await jobs_in_doubt(jobs)] == [2]


BUY = [
    (states, most)
    for states in itertools.product(("failed", "rejected", "claimed", "decided", "in_doubt", "abandoned"), repeat=2)
    for most in (1, 2)
]


async def test_no_pair_of_attempts_is_bought_more_often_than_allowed(shop: Shop) -> None:
    async def one(take: int, states: tuple[str, ...], most: int) -> tuple[Any, str]:
        request = REQUEST.model_copy(update={"take": take})
        await put(shop, request, states)
        async with shop.worker(s3=shop.bucket.client, times=AT_ONCE) as jobs:
            try:
                return (states, most), (await submit_video(jobs, request, max_wait=30, max_paid_attempts=most)).state
            except LoovaError as error:
                return (states, most), type(error).__name__

    outcomes = dict(await asyncio.gather(*(one(take, states, most) for take, (states, most) in enumerate(BUY))))
    for (states, most), outcome in outcomes.items():
        paid = sum(state in ("failed", "decided") for state in states)
        if "in_doubt" in states or states[-1] == "decided":
            expected = "InDoubtError"
        elif "abandoned" in states:
            expected = "AbandonedError"
        elif states[-1] in ("rejected", "claimed") and states[0] == "decided":
            expected = "submitted"  # a person's right
        else:
            expected = "submitted" if paid < most else "TaskFailedError"
        assert outcome == expected, (states, most)


@pytest.mark.parametrize("last", ["rejected", "claimed"])
async def test_what_failed_once_is_not_bought_again_after_a_refusal_or_by_taking_over(shop: Shop, last: str) -> None:
    await put(shop, REQUEST, ("failed", last))
    with pytest.raises(TaskFailedError, match="allow max_paid_attempts=2"):
        await shop.submit(times=AT_ONCE)
    assert shop.totals["posted"] == 0
    assert (await shop.submit(times=AT_ONCE, max_paid_attempts=2)).attempt == 2
    assert RECORD in shop.keys
