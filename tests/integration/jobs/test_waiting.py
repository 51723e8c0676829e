"""Waited for, and never bought again for a failed poll: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_loova.errors import (
    LoovaError,
    MissingVideoUrlError,
    TaskFailedError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import (
    AT_ONCE,
    OPEN,
    RECORD,
    VIDEO,
    Clock,
    Workers,
    until,
)
from tests.support.s3_servers import Bucket


async def test_a_wait_of_three_hours_takes_a_hundred_polls(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=3 * 3600, short_side=64) as loova:
        workers, clock = Workers(bucket, loova), Clock(loova)
        submission = await workers.submit()
        async with workers.worker(clock=clock, sleep=clock.sleep) as jobs:
            task = await wait_for_video(jobs, submission)
        assert task.state == "succeeded"
        assert 80 <= loova.ledger["tasks"][0]["polls"] <= 120
        assert 3 * 3600 <= clock.now <= 3.3 * 3600
        assert workers.states == ["succeeded"]


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        ("contradiction", {}),
        ("unknown_status", {"times": 5}),
        ("poll_without_data", {"times": 5}),
        ("poll_lost", {"times": 9}),
        ("poll_unavailable", {"times": 9}),
        ("bad_gateway", {"on": "poll", "times": 9}),
        ("task_forgotten", {"times": 2}),
        ("success_without_url", {"times": 2}),
    ],
)
async def test_a_poll_that_fails_is_not_a_failed_video(workers: Workers, fault: str, fields: dict[str, Any]) -> None:
    submission = await workers.submit()
    workers.loova.fail(fault, **fields)
    assert (await workers.wait(submission, max_wait=20)).state == "succeeded"
    assert workers.states == ["succeeded"]


@pytest.mark.parametrize(
    ("fault", "error"), [("task_forgotten", TaskNotFoundError), ("success_without_url", MissingVideoUrlError)]
)
async def test_a_task_without_a_video_to_show_is_reported_and_stays_open(
    workers: Workers, fault: str, error: type[LoovaError]
) -> None:
    submission = await workers.submit()
    workers.loova.fail(fault, times=None)
    for call in (workers.wait, workers.save):
        with pytest.raises(error) as reported:
            await call(submission)
        assert reported.value.task_id == submission.task_id
        assert workers.states == ["submitted"]
    assert (await workers.submit(times=AT_ONCE, max_paid_attempts=9)).reused
    workers.loova.clear_faults()
    await workers.wait(submission)
    assert (workers.states, workers.totals["posted"]) == (["succeeded"], 1)


async def test_after_a_wait_times_out_the_job_stays_and_another_wait_continues(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=1000, short_side=64) as loova:
        workers = Workers(bucket, loova)
        submission = await workers.submit()
        with pytest.raises(WaitTimeoutError, match="ask for the same request again") as timeout:
            await workers.wait(submission, max_wait=0.1)
        assert (timeout.value.task_id, timeout.value.credits_spent) == (submission.task_id, "yes")
        with pytest.raises(WaitTimeoutError, match="wait for it first"):
            await workers.save(submission)
        assert workers.states == ["submitted"]
        loova.advance(1000)
        await workers.wait(await workers.submit())
        assert (workers.states, workers.totals["posted"]) == (["succeeded"], 1)


async def test_a_failed_generation_ends_the_job_and_is_bought_again_only_if_allowed(workers: Workers) -> None:
    workers.loova.fail("generation_failed")
    submission = await workers.submit()
    with pytest.raises(TaskFailedError, match="max_paid_attempts=2") as failed:
        await workers.wait(submission)
    assert failed.value.task_id == submission.task_id
    assert (workers.states, workers.keys) == (["failed"], {RECORD})
    with pytest.raises(TaskFailedError):
        await workers.submit()
    with pytest.raises(TaskFailedError):
        await workers.save(submission)
    assert workers.totals["posted"] == 1
    second = await workers.submit(max_paid_attempts=2)
    assert OPEN in workers.keys
    await workers.wait(second)
    assert (await workers.save(second)).video.endswith(VIDEO)
    assert (workers.states, workers.keys) == (["failed", "saved"], {RECORD, VIDEO})


class Signalled(BaseException):
    """As Prefect's exception for SIGTERM, which comes wherever it strikes, and is no cancellation."""


async def test_a_signal_during_a_poll_is_logged_like_a_cancellation(workers: Workers, caplog) -> None:
    async def struck(_seconds: float) -> None:
        raise Signalled

    submission = await workers.submit()
    with pytest.raises(Signalled):
        await workers.wait(submission, sleep=struck)
    assert f"task {submission.task_id}: waiting was cancelled" in caplog.text


async def test_the_log_of_a_cancelled_wait_says_that_the_credits_are_spent_and_how_to_continue(
    workers: Workers, caplog
) -> None:
    workers.loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    submission = await workers.submit()
    waiting = asyncio.create_task(workers.wait(submission))
    await until(lambda: workers.totals["polls"] > 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert f"task {submission.task_id}: waiting was cancelled" in caplog.text
    assert "its credits are spent. Ask for the same request again" in caplog.text
    assert workers.states == ["submitted"]
    workers.loova.clear_faults()
    await workers.wait(await workers.submit())
    assert workers.totals["posted"] == 1
