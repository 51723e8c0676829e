"""Steps of one process that hand the job record on, while other workers write it: on real S3 servers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

import pytest

from prefect_loova.errors import BudgetError, InvalidTransitionError
from prefect_loova.jobs.handover import Handover, handed_over
from prefect_loova.jobs.submit import submit_video
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, PATIENT, REQUEST, Workers, in_doubt

T = TypeVar("T")
PRICE = REQUEST.estimate_credits()


@pytest.fixture
def loova():
    with LoovaSimulator(generation_seconds=0, short_side=64) as simulator:
        yield simulator


async def elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """Run what another process does: nothing is handed over to it."""
    return await asyncio.create_task(work, context=Context())


async def test_a_wait_that_hands_over_leaves_the_success_to_the_save(workers: Workers) -> None:
    with handed_over() as handover:
        submission = await workers.submit()
        await workers.wait(submission)
        assert workers.record.state == "submitted" and handover.made is not None
        await workers.save(submission)
    assert workers.record.state == "saved" and set(workers.record.current.times) >= {"succeeded", "saved"}


async def test_a_wait_without_a_save_behind_it_writes_the_success(workers: Workers) -> None:
    await workers.wait(await workers.submit())
    assert workers.record.state == "succeeded"


async def test_the_video_of_a_process_that_dies_between_wait_and_save_is_saved_at_once(workers: Workers) -> None:
    with handed_over():
        submission = await workers.submit(times=PATIENT)
        await workers.wait(submission, times=PATIENT)
    saved = await workers.save(await workers.submit(times=PATIENT), times=PATIENT)  # no lease is in its way
    assert saved.task_id == submission.task_id and workers.totals["billed"] == 1


async def test_a_save_finds_what_another_worker_saved_since_the_wait(workers: Workers) -> None:
    with handed_over():
        submission = await workers.submit()
        await workers.wait(submission)
        await elsewhere(workers.save(submission))
        written = workers.record.write_id
        await workers.save(submission)
    assert workers.record.write_id == written


async def test_a_failure_is_written_by_the_wait(workers: Workers, loova: LoovaSimulator) -> None:
    loova.fail("generation_failed")
    with handed_over() as handover, pytest.raises(Exception, match="without a video"):
        await workers.wait(await workers.submit())
    assert workers.record.state == "failed" and handover.made is None


async def test_an_adoption_that_is_taken_back_before_the_save_is_not_saved(workers: Workers) -> None:
    await in_doubt(workers)
    await workers.decide("adopt", workers.task_ids[0])
    with handed_over():
        submission = await workers.submit(times=AT_ONCE)
        await workers.wait(submission)
        await elsewhere(workers.decide("take-back"))
        with pytest.raises(InvalidTransitionError, match="was taken back"):
            await workers.save(submission)
    assert workers.record.state == "in_doubt"


async def test_a_video_that_was_bought_since_the_look_is_not_bought_again(workers: Workers) -> None:
    with handed_over() as handover:
        handover.is_new = True
        bought = await elsewhere(workers.submit())
        found = await workers.submit()
    assert found.reused and found.task_id == bought.task_id and workers.totals["billed"] == 1


async def test_a_claim_that_comes_too_late_leaves_no_entry_of_a_saved_job(workers: Workers) -> None:
    with handed_over() as handover:
        handover.is_new = True
        await elsewhere(workers.save(await elsewhere(workers.finished())))
        assert (await workers.submit()).state == "saved"
    assert OPEN not in workers.keys


async def test_a_full_budget_does_not_refuse_a_video_that_was_bought_since_the_look(workers: Workers) -> None:
    other, third = (REQUEST.model_copy(update={"take": take}) for take in (1, 2))
    async with workers.worker(s3=workers.bucket.client, max_credits_per_day=PRICE) as jobs:
        with handed_over() as handover:
            handover.is_new = True
            bought = await elsewhere(workers.submit())
            async with workers.worker() as without_budget:
                await elsewhere(submit_video(without_budget, other))
            assert (await submit_video(jobs, REQUEST)).task_id == bought.task_id
            handover.stored, handover.is_new = None, True
            with pytest.raises(BudgetError):
                await submit_video(jobs, third)
    assert workers.totals["billed"] == 2


async def test_a_record_is_handed_over_once_and_only_for_its_key(workers: Workers) -> None:
    await workers.submit()
    async with workers.worker() as jobs:
        stored = await jobs.records.expect(KEY)
    handover = Handover(stored=stored)
    assert handover.take("another key") == (None, None) and handover.stored is None
    handover.stored = stored
    assert handover.take(KEY, None) == (stored, None) and handover.take(KEY) == (None, None)
