"""A refusal of content is final: the same request is not bought again, but its fallback prompt is, once."""

from __future__ import annotations

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import (
    ContentRefusedError,
    InputRefusedError,
    OutputRefusedError,
    RejectedError,
    TaskFailedError,
)
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.queue import enqueue
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from tests.integration.jobs.workers import Workers

REQUEST = VideoRequest(prompt="a brand", duration=4)
WITH_FALLBACK = VideoRequest(prompt="a brand", fallback_prompt="a label", duration=4)
USERS_WORDS = {"code": 10009, "message": "Your prompt breaks rule 7", "data": None}


async def submit(workers: Workers, request: VideoRequest, max_paid_attempts: int = 1) -> Submission:
    async with workers.worker() as jobs:
        return await submit_video(jobs, request, max_wait=5, max_paid_attempts=max_paid_attempts)


async def wait(workers: Workers, submission: Submission) -> None:
    async with workers.worker() as jobs:
        await wait_for_video(jobs, submission, max_wait=5, poll_seconds=0.05)


def totals(workers: Workers) -> tuple[int, int]:
    return workers.totals["posted"], workers.totals["billed"]


async def test_a_request_whose_content_is_refused_is_never_submitted_again(workers: Workers) -> None:
    workers.loova.fail("content_refused")
    with pytest.raises(InputRefusedError, match="sensitive information") as first:
        await submit(workers, REQUEST)
    assert (first.value.credits_spent, first.value.trace_id is not None) == ("no", True)
    with pytest.raises(InputRefusedError, match="not bought again: change the prompt") as second:
        await submit(workers, REQUEST, max_paid_attempts=9)
    assert isinstance(second.value, RejectedError)
    assert second.value.trace_id == first.value.trace_id
    assert totals(workers) == (1, 0)
    assert not [key for key in workers.keys if key.startswith("loova/_open/")]


async def test_a_video_whose_content_is_refused_is_not_bought_again_under_max_paid_attempts(workers: Workers) -> None:
    workers.loova.fail("content_refused_output")
    submission = await submit(workers, REQUEST, max_paid_attempts=9)
    with pytest.raises(OutputRefusedError) as refused:
        await wait(workers, submission)
    assert isinstance(refused.value, TaskFailedError)
    assert (refused.value.task_id, refused.value.credits_spent) == (submission.task_id, "maybe")
    with pytest.raises(OutputRefusedError, match="content of the video"):
        await submit(workers, REQUEST, max_paid_attempts=9)
    assert totals(workers) == (1, 1)


async def test_another_failure_is_bought_again_as_before(workers: Workers) -> None:
    workers.loova.fail("generation_failed")
    with pytest.raises(TaskFailedError) as failed:
        await wait(workers, await submit(workers, REQUEST, max_paid_attempts=2))
    assert not isinstance(failed.value, ContentRefusedError)
    await submit(workers, REQUEST, max_paid_attempts=2)
    assert totals(workers) == (2, 2)


async def test_the_fallback_prompt_is_a_request_of_its_own_and_is_bought_once(workers: Workers) -> None:
    assert WITH_FALLBACK.key == REQUEST.key
    workers.loova.fail("content_refused")
    bought = await submit(workers, WITH_FALLBACK)
    assert (bought.prompt, bought.key) == ("a label", VideoRequest(prompt="a label", duration=4).key)
    again = await submit(workers, WITH_FALLBACK)
    assert (again.task_id, again.reused) == (bought.task_id, True)
    assert totals(workers) == (2, 1)


async def test_after_a_refused_video_the_next_submit_takes_the_fallback_prompt(workers: Workers) -> None:
    workers.loova.fail("content_refused_output")
    with pytest.raises(OutputRefusedError):
        await wait(workers, await submit(workers, WITH_FALLBACK))
    assert (await submit(workers, WITH_FALLBACK)).prompt == "a label"
    assert totals(workers) == (2, 2)


async def test_if_both_are_refused_the_error_is_about_the_fallback_prompt(workers: Workers) -> None:
    workers.loova.fail("content_refused", times=2)
    for _ in range(2):
        with pytest.raises(InputRefusedError):
            await submit(workers, WITH_FALLBACK)
    assert totals(workers) == (2, 0)


async def test_a_collector_buys_the_fallback_prompt_of_a_queued_request(workers: Workers) -> None:
    workers.loova.fail("content_refused")
    async with workers.worker(workers.bucket.client) as jobs:
        await enqueue(jobs, [WITH_FALLBACK])
        (bought,) = (await collect(jobs, slots=6)).submitted
    assert bought.prompt == "a label"
    assert totals(workers) == (2, 1)


async def test_a_collector_lists_a_lost_answer_to_the_fallback_prompt_in_the_same_pass(workers: Workers) -> None:
    workers.loova.fail("content_refused")
    workers.loova.fail("lost_reply")
    async with workers.worker(workers.bucket.client) as jobs:
        await enqueue(jobs, [WITH_FALLBACK])
        found = await collect(jobs, slots=6)
    assert [job.prompt for job in found.in_doubt] == ["a label"]
    assert (found.running, found.queued, totals(workers)) == (1, 0, (2, 1))


async def test_a_collector_lists_refused_content_apart_from_failures(workers: Workers) -> None:
    workers.loova.fail("content_refused_output")
    submission = await submit(workers, REQUEST)
    async with workers.worker(workers.bucket.client) as jobs:
        found = await collect(jobs, slots=6)
    assert ([key for key, _ in found.content_refused], found.failed) == ([submission.key], [])
    assert "1 content refused" in found.summary


async def test_a_users_phrase_marks_a_refusal_of_content(workers: Workers) -> None:
    workers.loova.fail(on="submit", apply=False, envelope=USERS_WORDS)
    loova = LoovaClient(workers.loova.api_key, workers.loova.base_url, content_phrases=["breaks rule"])
    async with loova, workers.worker() as jobs:
        jobs.loova = loova
        for _ in range(2):
            with pytest.raises(InputRefusedError):
                await submit_video(jobs, REQUEST, max_wait=5)
    assert totals(workers) == (1, 0)


async def test_both_kinds_of_refusals_are_events(workers: Workers) -> None:
    workers.loova.fail("content_refused")
    events: list[str] = []
    async with workers.worker(notify=lambda event, _record, _number: events.append(event)) as jobs:
        with pytest.raises(InputRefusedError):
            await submit_video(jobs, REQUEST, max_wait=5)
        workers.loova.fail("content_refused_output")
        submission = await submit_video(jobs, VideoRequest(prompt="another brand", duration=4), max_wait=5)
        with pytest.raises(OutputRefusedError):
            await wait_for_video(jobs, submission, max_wait=5, poll_seconds=0.05)
    assert events == ["content_refused", "submitted", "failed", "content_refused"]
