"""A task that a person adopts is checked, held by one job only, and can be taken back: on real S3 servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_loova.batches.credits import credits_report
from prefect_loova.errors import InDoubtError, InvalidRequestError, LoovaError, MoveRefusedError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.doubt import jobs_in_doubt
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import Submission, VideoRequest
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, REQUEST, TIMES, VIDEO, Shop, in_doubt, until

OTHER = VideoRequest(prompt="another job", duration=5)
SAME_PRICE = VideoRequest(prompt="another job", duration=4)
PRICE = REQUEST.estimate_credits()


async def buy(shop: Shop, request: VideoRequest) -> Submission:
    async with shop.worker() as jobs:
        return await submit_video(jobs, request)


def record_of(shop: Shop, request: VideoRequest) -> JobRecord:
    body = shop.bytes_of(f"loova/{request.key}/record.json")
    return JobRecord.model_validate_json(body)


async def spent(shop: Shop) -> float:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        return sum(day.credits for day in (await credits_report(jobs, days=1, low_below=0)).days)


async def doubts(shop: Shop) -> list[tuple[str, int]]:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        return [(job.key, job.attempt) for job in await jobs_in_doubt(jobs)]


# -- whose task it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["running", "saved", "failed", "unreadable", "of an earlier version"])
async def test_a_task_that_another_job_holds_is_refused_and_the_job_is_named(shop: Shop, how: str) -> None:
    if how == "failed":
        shop.loova.fail("generation_failed")
    other = await buy(shop, SAME_PRICE)
    if how == "failed":
        with pytest.raises(LoovaError):
            await shop.wait(other)
    elif how == "saved":
        await shop.wait(other)
        await shop.save(other)
    elif how in ("unreadable", "of an earlier version"):
        name = f"loova/{SAME_PRICE.key}/record.json"
        body = shop.bytes_of(name)
        changed = body[: body.rindex(b"}")] if how == "unreadable" else body.replace(b'"budget_day"', b'"unknown"')
        shop.bucket.client.put_object(Bucket=shop.bucket, Key=name, Body=changed)
    shop.loova.clear_faults()
    await in_doubt_beside(shop)
    for force in (False, True):
        with pytest.raises(InvalidRequestError, match=f"job {SAME_PRICE.key} has that task"):
            await shop.decide("adopt", other.task_id, force=force)
    assert shop.states == ["in_doubt"]


async def in_doubt_beside(shop: Shop) -> None:
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await shop.submit()


async def test_the_task_of_a_longer_video_is_refused_and_its_video_is_charged_to_nobody_twice(shop: Shop) -> None:
    other = await buy(shop, OTHER)
    await in_doubt_beside(shop)
    with pytest.raises(InvalidRequestError, match=OTHER.key):
        await shop.decide("adopt", other.task_id)
    await shop.decide("adopt", shop.task_ids[1])
    assert await spent(shop) == 75 + 60 == shop.loova.ledger["credits"]["spent"]


async def test_two_jobs_that_adopt_one_task_at_the_same_time_do_not_both_keep_it(shop: Shop) -> None:
    await in_doubt(shop)
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await buy(shop, SAME_PRICE)
    task_id = shop.task_ids[0]
    decided = [shop.decide("adopt", task_id, key=key) for key in (KEY, SAME_PRICE.key)]
    await asyncio.gather(*decided, return_exceptions=True)
    records = [record_of(shop, request) for request in (REQUEST, SAME_PRICE)]
    holders = [record for record in records if record.current.task_id == task_id]
    assert len(holders) <= 1
    for record in records:
        assert record.state == ("submitted" if record in holders else "in_doubt")
        assert record.is_open
    assert len(await doubts(shop)) == 2 - len(holders)


async def test_where_records_may_not_be_listed_only_force_adopts_and_the_record_says_so(shop: Shop) -> None:
    await in_doubt(shop)
    limited, task_id = shop.bucket.limited_client, shop.task_ids[0]
    with pytest.raises(InvalidRequestError, match="cannot be known without listing the records"):
        await shop.decide("adopt", task_id, s3=limited)
    with pytest.raises(InvalidRequestError, match="needs a reason"):
        await shop.decide("adopt", task_id, s3=limited, force=True, why=" ")
    assert shop.states == ["in_doubt"]
    decision = (await shop.decide("adopt", task_id, s3=limited, force=True)).current.decision
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
async def test_what_loova_says_of_a_task_and_contradicts_the_submit_is_refused_unless_it_is_forced(
    shop: Shop, data: dict[str, Any], says: str
) -> None:
    await in_doubt(shop)
    shop.loova.fail(on="poll", times=None, envelope={"data": data})
    with pytest.raises(InvalidRequestError, match=says):
        await shop.decide("adopt", shop.task_ids[0])
    assert shop.states == ["in_doubt"]
    decision = (await shop.decide("adopt", shop.task_ids[0], force=True)).current.decision
    assert decision is not None
    assert [told[:5] for told in decision.overruled or ()] == [says[:5]]


# -- taking back -------------------------------------------------------------------------------------------------------


async def wrongly_adopted(shop: Shop, state: str) -> str:
    """A job in doubt adopts a task that somebody made in the dashboard; returns that task."""
    await in_doubt(shop)
    async with shop.worker() as jobs:
        wrong = (await jobs.loova.submit_video(SAME_PRICE)).task_id
    if state == "failed":
        shop.loova.fail(on="poll", task_id=wrong, envelope=failed_envelope(), skip=1)
    await shop.decide("adopt", wrong)
    submission = await shop.submit()
    assert submission.task_id == wrong
    if state == "failed":
        with pytest.raises(LoovaError):
            await shop.wait(submission)
    elif state != "submitted":
        await shop.wait(submission)
        if state == "saved":
            await shop.save(submission)
    assert shop.states == [state]
    return wrong


def failed_envelope() -> dict[str, Any]:
    return {"data": {"status": "failed", "result": {"status": "failed", "video_url": None, "error_message": "no"}}}


@pytest.mark.parametrize("state", ["submitted", "succeeded", "saved", "failed"])
async def test_a_wrong_adoption_is_taken_back_and_the_right_task_is_saved(shop: Shop, state: str) -> None:
    wrong = await wrongly_adopted(shop, state)
    stale = await shop.submit() if state != "failed" else None
    record = await shop.decide("take-back", why="it is somebody else's")
    assert (record.state, record.current.task_id) == ("in_doubt", None)
    (kept,) = record.current.taken_back or ()
    assert (kept.task_id, kept.state, kept.decision.why) == (wrong, state, "it is somebody else's")
    assert await doubts(shop) == [(KEY, 1)]
    assert OPEN in shop.keys
    assert await spent(shop) == PRICE
    with pytest.raises(InDoubtError):
        await shop.submit()
    if stale is not None:
        with pytest.raises(MoveRefusedError, match="its adoption was taken back"):
            await shop.save(stale)
    if state == "submitted":
        assert stale is not None
        with pytest.raises(MoveRefusedError, match="its adoption was taken back"):
            await shop.wait(stale)
    right = shop.task_ids[0]
    await shop.decide("adopt", right)
    submission = await shop.submit()
    await shop.wait(submission)
    saved = await shop.save(submission)
    assert (saved.task_id, saved.sha256) == (right, shop.loova.sha256(right))
    if state == "saved":
        assert kept.video is not None
        assert saved.video.endswith("/video-attempt-1.mp4")
        assert shop.bytes_of(kept.video.object_key) != shop.bytes_of(saved.video.partition(f"{shop.bucket}/")[2])
    else:
        assert saved.video.endswith("/video.mp4")
    assert OPEN not in shop.keys
    assert shop.totals["posted"] == 2  # one of them in the dashboard


async def test_each_video_that_was_taken_back_keeps_its_object(shop: Shop) -> None:
    await wrongly_adopted(shop, "saved")
    for _ in range(2):
        await shop.decide("take-back")
        async with shop.worker() as jobs:
            wrong = (await jobs.loova.submit_video(SAME_PRICE)).task_id
        await shop.decide("adopt", wrong)
        submission = await shop.submit()
        await shop.wait(submission)
        await shop.save(submission)
    names = sorted(key.rpartition("/")[2] for key in shop.keys if key.endswith(".mp4"))
    assert names == ["video-attempt-1-2.mp4", "video-attempt-1.mp4", "video.mp4"]


async def test_after_taking_back_a_person_may_submit_again_or_give_up(shop: Shop) -> None:
    await wrongly_adopted(shop, "saved")
    await shop.decide("take-back")
    await shop.decide("submit-again")
    submission = await shop.submit(times=AT_ONCE)
    assert (submission.attempt, submission.reused) == (2, False)
    await shop.wait(submission)
    assert (await shop.save(submission)).video.endswith("/video-attempt-2.mp4")
    with pytest.raises(MoveRefusedError, match="nothing to take back"):
        await shop.decide("take-back")


async def test_a_video_that_is_being_saved_when_its_adoption_is_taken_back_is_not_the_jobs_video(shop: Shop) -> None:
    wrong = await wrongly_adopted(shop, "succeeded")
    submission = await shop.submit()
    shop.loova.fail(on="video", task_id=wrong, delay_seconds=1.5)
    saving = asyncio.create_task(shop.save(submission))
    await until(lambda: shop.record.current.saving is not None)
    await shop.decide("take-back")
    right = shop.task_ids[0]
    await shop.decide("adopt", right)
    await shop.wait(await shop.submit())
    with pytest.raises(LoovaError):
        await saving
    saved = await shop.save(await shop.submit())
    assert (saved.task_id, saved.sha256) == (right, shop.loova.sha256(right))
    assert not saved.video.endswith(VIDEO)  # the other one may be there
    assert shop.states == ["saved"]


async def test_a_job_that_took_a_task_wrongly_gives_it_to_its_owner(shop: Shop) -> None:
    await in_doubt(shop)
    mine = shop.task_ids[0]
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await buy(shop, SAME_PRICE)
    await shop.decide("adopt", mine, key=SAME_PRICE.key)
    with pytest.raises(InvalidRequestError, match=f"resolve {SAME_PRICE.key} take-back"):
        await shop.decide("adopt", mine)
    await shop.decide("take-back", key=SAME_PRICE.key)
    assert (await shop.decide("adopt", mine)).current.task_id == mine
    assert (await shop.decide("adopt", shop.task_ids[1], key=SAME_PRICE.key)).current.task_id == shop.task_ids[1]


async def test_a_saved_video_that_differs_from_the_request_says_so(shop: Shop) -> None:
    await in_doubt(shop)
    async with shop.worker() as jobs:
        portrait = VideoRequest(prompt="another", duration=5, ratio="9:16")
        wrong = (await jobs.loova.submit_video(portrait)).task_id
    await shop.decide("adopt", wrong, force=True)
    async with shop.worker(s3=shop.bucket.client, times=TIMES) as jobs:
        (saved,) = (await collect(jobs)).saved
    assert "it plays 5.0 s, and 4 s were asked for" in saved.differs
    assert "and 16:9 was asked for" in saved.differs


async def test_a_saved_video_as_it_was_asked_for_differs_in_nothing(shop: Shop) -> None:
    assert (await shop.save(await shop.finished())).differs == ""
