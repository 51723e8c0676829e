"""Every attempt of a job is seen, whatever became of the others: in listing, index, collecting and buying."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_loova.errors import InDoubtError, InvalidTransitionError, LoovaError, TaskFailedError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.attempts import Attempt, Decision
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.budget import today
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, PATIENT, RECORD, REQUEST, Workers, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGAIN = Decision(what="submit-again", who="ann", when=NOW, why="")
PRICE = REQUEST.estimate_credits()
STATES = ("claimed", "submitted", "succeeded", "failed", "rejected", "in_doubt", "decided", "abandoned", "submitting")


async def put(workers: Workers, request: VideoRequest, states: tuple[str, ...]) -> None:
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
        key=request.key, api_origin=workers.loova.origin, request=request.as_stored(), attempts=attempts, write_id="w"
    )
    async with workers.worker() as jobs:
        await jobs.records.index(record)
        await jobs.records.create(record)


async def test_all_pairs_of_attempts_are_listed_polled_and_indexed_as_each_needs(workers: Workers) -> None:
    pairs = {
        REQUEST.model_copy(update={"take": take}): states
        for take, states in enumerate(itertools.product(STATES, repeat=2))
    }
    await asyncio.gather(*(put(workers, request, states) for request, states in pairs.items()))
    async with workers.worker(s3=workers.bucket.client, times=PATIENT) as jobs:
        listed = {(job.key, job.attempt) for job in (await find_doubts(jobs)).in_doubt}
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
    assert {key.removeprefix("loova/_open/") for key in workers.keys if "/_open/" in key} == left


async def test_an_error_of_the_first_paid_attempt_does_not_keep_the_second_one_from_being_saved(
    workers: Workers,
) -> None:
    submission = await workers.submit()
    await workers.change(
        lambda record: record.model_copy(
            update={"attempts": (record.current.model_copy(update={"task_id": "sim_unknown"}),)}
        )
    )
    await workers.change(lambda record: record.move("late_purchase", 1, task_id=submission.task_id))
    async with workers.worker(s3=workers.bucket.client) as jobs:
        found = await collect(jobs)
    assert [saved.task_id for saved in found.saved] == [submission.task_id]
    assert [key for key, _ in found.problems] == [KEY]
    assert workers.states == ["submitted", "saved"]


async def test_a_late_answer_to_the_first_attempt_does_not_hide_the_doubt_in_the_second(workers: Workers) -> None:
    workers.loova.fail("slow_reply", delay_seconds=3)
    late = asyncio.create_task(workers.submit())
    await workers.until_posted()
    await workers.change(lambda record: record.move("begin", post_timeout_seconds=0))
    with pytest.raises(InDoubtError):
        await workers.submit(times=AT_ONCE)
    await workers.decide("submit-again")
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await workers.submit(times=AT_ONCE)
    await until(lambda: late.done())
    await workers.wait(await late)
    await workers.save(await late)
    assert workers.states == ["saved", "in_doubt"]
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await collect(jobs)
        assert [(job.key, job.attempt) for job in (await find_doubts(jobs)).in_doubt] == [(KEY, 2)]
        assert sum(one.credits for one in await jobs.budget.costs_on(today())) == 2 * PRICE
    assert OPEN in workers.keys
    with pytest.raises(InvalidTransitionError, match="the video is bought already"):
        await workers.decide("submit-again", attempt=2)
    assert (await workers.submit()).reused
    await workers.decide("give-up", attempt=2)
    assert workers.states == ["saved", "abandoned"]
    assert OPEN not in workers.keys
    assert workers.totals["posted"] == 2


async def test_a_submit_that_a_dead_worker_left_beside_a_purchase_is_found_in_doubt(workers: Workers) -> None:
    await put(workers, REQUEST, ("submitted", "submitting"))
    await workers.change(
        lambda record: record.model_copy(
            update={
                "attempts": (
                    record.attempts[0],
                    record.attempts[1].model_copy(update={"post_timeout_seconds": 0.0}),
                )
            }
        )
    )
    async with workers.worker(s3=workers.bucket.client, times=AT_ONCE) as jobs:
        assert [job.attempt for job in (await find_doubts(jobs)).in_doubt] == [2]


BUY = [
    (states, most)
    for states in itertools.product(("failed", "rejected", "claimed", "decided", "in_doubt", "abandoned"), repeat=2)
    for most in (1, 2)
]


async def test_no_pair_of_attempts_is_bought_more_often_than_allowed(workers: Workers) -> None:
    async def one(take: int, states: tuple[str, ...], most: int) -> tuple[Any, str]:
        request = REQUEST.model_copy(update={"take": take})
        await put(workers, request, states)
        async with workers.worker(s3=workers.bucket.client, times=AT_ONCE) as jobs:
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
async def test_a_failed_video_is_not_bought_again_after_a_refusal_or_a_takeover(workers: Workers, last: str) -> None:
    await put(workers, REQUEST, ("failed", last))
    with pytest.raises(TaskFailedError, match="allow max_paid_attempts=2"):
        await workers.submit(times=AT_ONCE)
    assert workers.totals["posted"] == 0
    assert (await workers.submit(times=AT_ONCE, max_paid_attempts=2)).attempt == 2
    assert RECORD in workers.keys
