"""A task that a person adopts is checked, held by one job only, and can be taken back: on real S3 servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_loova.batches.credits import credits_report
from prefect_loova.errors import InDoubtError, InvalidRequestError, InvalidTransitionError, LoovaError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, REQUEST, TIMES, VIDEO, Workers, in_doubt, until

OTHER = VideoRequest(prompt="another job", duration=5)
SAME_PRICE = VideoRequest(prompt="another job", duration=4)
PRICE = REQUEST.estimate_credits()


async def buy(workers: Workers, request: VideoRequest) -> Submission:
    async with workers.worker() as jobs:
        return await submit_video(jobs, request)


def record_of(workers: Workers, request: VideoRequest) -> JobRecord:
    body = workers.bytes_of(f"loova/{request.key}/record.json")
    return JobRecord.model_validate_json(body)


async def spent(workers: Workers) -> float:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        return sum(day.credits for day in (await credits_report(jobs, days=1, low_below=0)).days)


async def doubts(workers: Workers) -> list[tuple[str, int]]:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        return [(job.key, job.attempt) for job in (await find_doubts(jobs)).in_doubt]


# -- whose task it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["running", "saved", "failed", "unreadable", "of an earlier version"])
async def test_a_task_that_another_job_holds_is_refused_and_the_job_is_named(workers: Workers, how: str) -> None:
    if how == "failed":
        workers.loova.fail("generation_failed")
    other = await buy(workers, SAME_PRICE)
    if how == "failed":
        with pytest.raises(LoovaError):
            await workers.wait(other)
    elif how == "saved":
        await workers.wait(other)
        await workers.save(other)
    elif how in ("unreadable", "of an earlier version"):
        name = f"loova/{SAME_PRICE.key}/record.json"
        body = workers.bytes_of(name)
        changed = body[: body.rindex(b"}")] if how == "unreadable" else body.replace(b'"budget_day"', b'"unknown"')
        workers.bucket.client.put_object(Bucket=workers.bucket, Key=name, Body=changed)
    workers.loova.clear_faults()
    await in_doubt_beside(workers)
    for force in (False, True):
        with pytest.raises(InvalidRequestError, match=f"job {SAME_PRICE.key} has that task"):
            await workers.decide("adopt", other.task_id, force=force)
    assert workers.states == ["in_doubt"]


async def in_doubt_beside(workers: Workers) -> None:
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await workers.submit()


async def test_the_task_of_a_longer_video_is_refused_and_its_video_is_charged_once(workers: Workers) -> None:
    other = await buy(workers, OTHER)
    await in_doubt_beside(workers)
    with pytest.raises(InvalidRequestError, match=OTHER.key):
        await workers.decide("adopt", other.task_id)
    await workers.decide("adopt", workers.task_ids[1])
    assert await spent(workers) == 75 + 60 == workers.loova.ledger["credits"]["spent"]


async def test_two_jobs_that_adopt_one_task_at_the_same_time_do_not_both_keep_it(workers: Workers) -> None:
    await in_doubt(workers)
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await buy(workers, SAME_PRICE)
    task_id = workers.task_ids[0]
    decided = [workers.decide("adopt", task_id, key=key) for key in (KEY, SAME_PRICE.key)]
    await asyncio.gather(*decided, return_exceptions=True)
    records = [record_of(workers, request) for request in (REQUEST, SAME_PRICE)]
    holders = [record for record in records if record.current.task_id == task_id]
    assert len(holders) <= 1
    for record in records:
        assert record.state == ("submitted" if record in holders else "in_doubt")
        assert record.is_open
    assert len(await doubts(workers)) == 2 - len(holders)


async def test_where_records_may_not_be_listed_only_force_adopts_and_the_record_says_so(workers: Workers) -> None:
    await in_doubt(workers)
    limited, task_id = workers.bucket.limited_client, workers.task_ids[0]
    with pytest.raises(InvalidRequestError, match="cannot be known without listing the records"):
        await workers.decide("adopt", task_id, s3=limited)
    with pytest.raises(InvalidRequestError, match="needs a reason"):
        await workers.decide("adopt", task_id, s3=limited, force=True, why=" ")
    assert workers.states == ["in_doubt"]
    decision = (await workers.decide("adopt", task_id, s3=limited, force=True)).current.decision
    assert decision is not None
    assert decision.why == "looked in the dashboard"
    assert ["without listing" in told for told in decision.overruled or ()] == [True]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"model": "seedance_2_0_fast"}, "model: the task is of seedance_2_0_fast, and seedance_2_0 was asked for"),
        ({"created_at": "2024-01-01T12:00:00Z"}, "created_at: the task was made at 2024-01-01 12:00:00 UTC"),
        ({"credits_cost": 75}, "credits_cost: Loova charged 75 credits for the task, and the price was 60"),
    ],
)
async def test_a_task_that_contradicts_the_submit_is_refused_unless_it_is_forced(
    workers: Workers, data: dict[str, Any], says: str
) -> None:
    await in_doubt(workers)
    workers.loova.fail(on="poll", times=None, envelope={"data": data})
    with pytest.raises(InvalidRequestError, match=says):
        await workers.decide("adopt", workers.task_ids[0])
    assert workers.states == ["in_doubt"]
    decision = (await workers.decide("adopt", workers.task_ids[0], force=True)).current.decision
    assert decision is not None
    assert [told[:5] for told in decision.overruled or ()] == [says[:5]]


# -- taking back -------------------------------------------------------------------------------------------------------


async def wrongly_adopted(workers: Workers, state: str) -> str:
    """A job in doubt adopts a task that somebody made in the dashboard; returns that task."""
    await in_doubt(workers)
    async with workers.worker() as jobs:
        wrong = (await jobs.loova.submit_video(SAME_PRICE)).task_id
    if state == "failed":
        workers.loova.fail(on="poll", task_id=wrong, envelope=failed_envelope(), skip=1)
    await workers.decide("adopt", wrong)
    submission = await workers.submit()
    assert submission.task_id == wrong
    if state == "failed":
        with pytest.raises(LoovaError):
            await workers.wait(submission)
    elif state != "submitted":
        await workers.wait(submission)
        if state == "saved":
            await workers.save(submission)
    assert workers.states == [state]
    return wrong


def failed_envelope() -> dict[str, Any]:
    return {"data": {"status": "failed", "result": {"status": "failed", "video_url": None, "error_message": "no"}}}


@pytest.mark.parametrize("state", ["submitted", "succeeded", "saved", "failed"])
async def test_a_wrong_adoption_is_taken_back_and_the_right_task_is_saved(workers: Workers, state: str) -> None:
    wrong = await wrongly_adopted(workers, state)
    stale = await workers.submit() if state != "failed" else None
    record = await workers.decide("take-back", why="it is somebody else's")
    assert (record.state, record.current.task_id) == ("in_doubt", None)
    (kept,) = record.current.taken_back or ()
    assert (kept.task_id, kept.state, kept.decision.why) == (wrong, state, "it is somebody else's")
    assert await doubts(workers) == [(KEY, 1)]
    assert OPEN in workers.keys
    assert await spent(workers) == PRICE
    with pytest.raises(InDoubtError):
        await workers.submit()
    if stale is not None:
        with pytest.raises(InvalidTransitionError, match="its adoption was taken back"):
            await workers.save(stale)
    if state == "submitted":
        assert stale is not None
        with pytest.raises(InvalidTransitionError, match="its adoption was taken back"):
            await workers.wait(stale)
    right = workers.task_ids[0]
    await workers.decide("adopt", right)
    submission = await workers.submit()
    await workers.wait(submission)
    saved = await workers.save(submission)
    assert (saved.task_id, saved.sha256) == (right, workers.loova.sha256(right))
    if state == "saved":
        assert kept.video is not None
        assert saved.video.endswith("/video-attempt-1.mp4")
        assert workers.bytes_of(kept.video.object_key) != workers.bytes_of(
            saved.video.partition(f"{workers.bucket}/")[2]
        )
    else:
        assert saved.video.endswith("/video.mp4")
    assert OPEN not in workers.keys
    assert workers.totals["posted"] == 2  # one of them in the dashboard


async def test_each_video_that_was_taken_back_keeps_its_object(workers: Workers) -> None:
    await wrongly_adopted(workers, "saved")
    for _ in range(2):
        await workers.decide("take-back")
        async with workers.worker() as jobs:
            wrong = (await jobs.loova.submit_video(SAME_PRICE)).task_id
        await workers.decide("adopt", wrong)
        submission = await workers.submit()
        await workers.wait(submission)
        await workers.save(submission)
    names = sorted(key.rpartition("/")[2] for key in workers.keys if key.endswith(".mp4"))
    assert names == ["video-attempt-1-2.mp4", "video-attempt-1.mp4", "video.mp4"]


async def test_after_taking_back_a_person_may_submit_again_or_give_up(workers: Workers) -> None:
    await wrongly_adopted(workers, "saved")
    await workers.decide("take-back")
    await workers.decide("submit-again")
    submission = await workers.submit(times=AT_ONCE)
    assert (submission.attempt, submission.reused) == (2, False)
    await workers.wait(submission)
    assert (await workers.save(submission)).video.endswith("/video-attempt-2.mp4")
    with pytest.raises(InvalidTransitionError, match="nothing to take back"):
        await workers.decide("take-back")


async def test_a_video_that_is_being_saved_when_its_adoption_is_taken_back_is_not_the_jobs_video(
    workers: Workers,
) -> None:
    wrong = await wrongly_adopted(workers, "succeeded")
    submission = await workers.submit()
    workers.loova.fail(on="video", task_id=wrong, delay_seconds=1.5)
    saving = asyncio.create_task(workers.save(submission))
    await until(lambda: workers.record.current.saving is not None)
    await workers.decide("take-back")
    right = workers.task_ids[0]
    await workers.decide("adopt", right)
    await workers.wait(await workers.submit())
    with pytest.raises(LoovaError):
        await saving
    saved = await workers.save(await workers.submit())
    assert (saved.task_id, saved.sha256) == (right, workers.loova.sha256(right))
    assert not saved.video.endswith(VIDEO)  # the other one may be there
    assert workers.states == ["saved"]


async def test_a_job_that_took_a_task_wrongly_gives_it_to_its_owner(workers: Workers) -> None:
    await in_doubt(workers)
    mine = workers.task_ids[0]
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await buy(workers, SAME_PRICE)
    await workers.decide("adopt", mine, key=SAME_PRICE.key)
    with pytest.raises(InvalidRequestError, match=f"resolve {SAME_PRICE.key} take-back"):
        await workers.decide("adopt", mine)
    await workers.decide("take-back", key=SAME_PRICE.key)
    assert (await workers.decide("adopt", mine)).current.task_id == mine
    assert (await workers.decide("adopt", workers.task_ids[1], key=SAME_PRICE.key)).current.task_id == workers.task_ids[
        1
    ]


async def test_a_saved_video_that_differs_from_the_request_says_so(workers: Workers) -> None:
    await in_doubt(workers)
    async with workers.worker() as jobs:
        portrait = VideoRequest(prompt="another", duration=5, ratio="9:16")
        wrong = (await jobs.loova.submit_video(portrait)).task_id
    await workers.decide("adopt", wrong, force=True)
    async with workers.worker(s3=workers.bucket.client, times=TIMES) as jobs:
        (saved,) = (await collect(jobs)).saved
    assert "it plays 5.0 s, and 4 s were asked for" in saved.differs
    assert "and 16:9 was asked for" in saved.differs


async def test_a_saved_video_that_matches_the_request_has_no_difference(workers: Workers) -> None:
    assert (await workers.save(await workers.finished())).differs == ""
