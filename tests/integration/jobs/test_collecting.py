"""What a collector finishes, submits and leaves alone: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import socket

import pytest

from prefect_loova.errors import AuthenticationError, InDoubtError, InvalidRequestError, StorageError
from prefect_loova.jobs.collect import CollectedVideos, collect, queue
from prefect_loova.models.job_record import Lease
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.budget import Spending
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, PATIENT, RECORD, REQUEST, VIDEO, Shop


def requests(count: int) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"video {number}", duration=4) for number in range(count)]


async def collected(shop: Shop, key: str = "", places: int = 6, **settings) -> CollectedVideos:
    async with shop.worker(s3=shop.bucket.client, **settings) as jobs:
        return await collect(jobs, key=key, places=places)


async def queued(shop: Shop, count: int) -> None:
    async with shop.worker() as jobs:
        await queue(jobs, requests(count))


@pytest.fixture
def slow():
    """A Loova whose videos take an hour of its clock."""
    with LoovaSimulator(generation_seconds=3600, short_side=64) as simulator:
        yield simulator


async def test_it_saves_what_is_made_and_ends(shop: Shop) -> None:
    await shop.submit()
    found = await collected(shop)
    assert [saved.key for saved in found.saved] == [KEY]
    assert shop.keys == {RECORD, VIDEO}
    assert shop.states == ["saved"]
    assert (await collected(shop)).summary == "nothing to do"


async def test_it_looks_once_at_what_still_runs(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    await shop.submit()
    found = await collected(shop)
    assert (found.running, found.saved) == (1, [])
    assert slow.ledger["tasks"][0]["polls"] == 1
    assert OPEN in shop.keys


async def test_it_marks_what_failed(shop: Shop) -> None:
    shop.loova.fail("generation_failed")
    await shop.submit()
    found = await collected(shop)
    assert [key for key, _ in found.failed] == [KEY]
    assert shop.states == ["failed"]
    assert OPEN not in shop.keys


async def test_it_reports_what_is_in_doubt_and_what_a_dead_worker_left(shop: Shop) -> None:
    await shop.leave("begin", post_timeout_seconds=0)
    found = await collected(shop, times=AT_ONCE)
    assert [job.key for job in found.in_doubt] == [KEY]
    assert shop.states == ["in_doubt"]
    assert shop.totals["posted"] == 0


async def test_it_leaves_a_claim_alone_because_only_who_asked_may_buy(shop: Shop) -> None:
    await shop.leave()
    found = await collected(shop, times=AT_ONCE)
    assert (found.submitted, found.problems, shop.totals["posted"]) == ([], [], 0)
    assert shop.states == ["claimed"]


async def test_it_saves_both_videos_where_a_late_answer_bought_a_second_one(shop: Shop) -> None:
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await shop.submit()
    await shop.decide("submit-again")
    await shop.submit(times=AT_ONCE)
    first = shop.task_ids[0]
    await shop.change(lambda record: record.move("bought", 1, task_id=first))
    found = await collected(shop)
    assert {saved.task_id for saved in found.saved} == set(shop.task_ids)
    assert OPEN not in shop.keys


async def test_it_submits_what_is_queued_as_places_come_free(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    await queued(shop, 15)
    found = await collected(shop)
    assert (len(found.submitted), found.queued, found.running) == (6, 9, 6)
    found = await collected(shop)
    assert (found.submitted, found.queued, found.running) == ([], 9, 6)
    slow.advance(3601)
    found = await collected(shop)
    assert (len(found.saved), len(found.submitted), found.queued) == (6, 6, 3)
    slow.advance(3601)
    await collected(shop)
    slow.advance(3601)
    assert (await collected(shop)).queued == 0
    totals = slow.ledger["totals"]
    assert (totals["posted"], totals["billed"]) == (15, 15)
    assert len([key for key in shop.keys if key.endswith("video.mp4")]) == 15
    assert not [key for key in shop.keys if "_open" in key]


async def test_who_was_queued_first_is_submitted_first(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    async with shop.worker() as jobs:
        for request in requests(3):
            await queue(jobs, [request])
            await asyncio.sleep(1.1)  # S3 tells when it wrote an object to the second
    found = await collected(shop, places=2)
    assert [one.prompt for one in found.submitted] == ["video 0", "video 1"]


async def test_several_collectors_at_once_buy_each_once(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    await queued(shop, 12)
    await asyncio.gather(*(collected(shop) for _ in range(4)))
    await collected(shop)
    assert slow.ledger["totals"]["billed"] == slow.ledger["totals"]["posted"] == 6
    slow.advance(3601)
    found = await asyncio.gather(*(collected(shop) for _ in range(4)))
    assert len({saved.key for one in found for saved in one.saved}) == 6
    assert slow.ledger["totals"]["billed"] == 12


async def test_a_quota_refusal_leaves_the_rest_queued(bucket) -> None:
    with LoovaSimulator(generation_seconds=3600, short_side=64, max_running=2) as loova:
        shop = Shop(bucket, loova)
        await queued(shop, 5)
        found = await collected(shop)
        assert (len(found.submitted), found.queued) == (2, 3)
        assert loova.ledger["totals"]["billed"] == 2
        loova.advance(3601)
        assert len((await collected(shop)).submitted) == 2


async def test_over_the_budget_of_the_day_the_rest_stays_queued(shop: Shop) -> None:
    await queued(shop, 3)
    found = await collected(shop, max_credits_per_day=70)
    assert (len(found.submitted), found.queued, shop.totals["billed"]) == (1, 2, 1)


@pytest.mark.parametrize("fault", ["refused_by_code", "refused_as_success", "prompt_refused"])
async def test_of_twenty_queued_eight_that_are_refused_are_told_and_the_other_twelve_are_bought(
    shop: Shop, fault: str
) -> None:
    for number in range(0, 16, 2):
        shop.loova.fail(fault, prompt=f"video {number} ", times=None)
    async with shop.worker() as jobs:
        await queue(jobs, [VideoRequest(prompt=f"video {number} of 20", duration=4) for number in range(20)])
    saved, reasons = set(), []
    for _ in range(6):
        found = await collected(shop)
        saved |= {video.key for video in found.saved}
        reasons += [reason for _, reason in found.failed]
        assert (found.in_doubt, found.problems) == ([], [])
    assert (shop.totals["billed"], shop.totals["posted"], len(saved)) == (12, 20, 12)
    assert len(reasons) == 8
    assert all("Loova says: The prompt" in reason for reason in reasons)
    assert found.queued == 0


@pytest.mark.parametrize(
    "fault", ["delayed_by_the_limit", "delayed_by_the_limit_with_429", "accepted_without_data", "accepted_in_chinese"]
)
async def test_a_queued_job_that_may_have_been_taken_is_posted_once_in_five_passes(shop: Shop, fault: str) -> None:
    shop.loova.fail(fault)
    await queued(shop, 1)
    for _ in range(5):
        assert len((await collected(shop)).in_doubt) == 1
    assert (shop.totals["posted"], shop.totals["billed"]) == (1, 1)


async def test_a_queued_job_whose_request_is_refused_is_told_and_queued_no_more(shop: Shop) -> None:
    await queued(shop, 2)
    shop.loova.fail("prompt_refused")
    found = await collected(shop)
    assert (len(found.failed), len(found.submitted), found.queued) == (1, 1, 0)


async def test_a_lost_answer_takes_a_place_and_ends_the_submits_of_this_pass(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    await queued(shop, 9)
    slow.fail("bad_gateway_after_billing", times=20)
    for doubts in (1, 2):
        found = await collected(shop)
        assert (len(found.in_doubt), found.running, found.queued, found.failed) == (doubts, doubts, 9 - doubts, [])
    slow.clear_faults()
    found = await collected(shop)
    assert (len(found.submitted), found.running, found.queued) == (4, 6, 3)


async def test_a_submit_that_a_killed_collector_left_is_told_once_and_ends_no_pass(bucket, slow) -> None:
    shop = Shop(bucket, slow)
    after_it = [request for request in requests(20) if request.key > KEY][:2]
    async with shop.worker() as jobs:
        await queue(jobs, [REQUEST, *after_it])
    await shop.leave("begin", post_timeout_seconds=0)
    found = await collected(shop, places=3, times=AT_ONCE)
    assert ([job.key for job in found.in_doubt], len(found.submitted), found.queued) == ([KEY], 2, 0)
    assert slow.ledger["totals"]["posted"] == 2


@pytest.mark.parametrize("fault", ["unavailable", "submit_redirect", "authentication_failed"])
async def test_what_says_nothing_about_the_request_leaves_it_queued(shop: Shop, fault: str) -> None:
    await queued(shop, 3)
    shop.loova.fail(fault)
    found = await collected(shop)
    assert (found.failed, found.submitted) == ([], [])
    assert found.queued + len(found.in_doubt) == 3
    assert shop.totals["posted"] == 1


async def test_where_loova_cannot_be_reached_the_queue_stays(shop: Shop) -> None:
    await queued(shop, 3)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = await collected(shop, base_url=f"http://127.0.0.1:{port}/api")
    assert (found.queued, found.failed, shop.totals["posted"]) == (3, [], 0)


async def test_a_wrong_key_fails_the_pass(shop: Shop) -> None:
    await shop.submit()
    shop.loova.fail(on="poll", status=401, envelope={"code": 401, "message": "Authentication failed", "data": None})
    with pytest.raises(AuthenticationError):
        await collected(shop)
    assert shop.states == ["submitted"]


async def test_a_task_that_loova_forgot_holds_no_place(shop: Shop) -> None:
    await shop.submit()
    shop.loova.fail("task_forgotten", times=None)
    found = await collected(shop)
    assert (found.running, [key for key, _ in found.problems]) == (0, [KEY])


async def test_one_job_is_rescued_by_its_key_or_task(shop: Shop) -> None:
    submission = await shop.submit()
    async with shop.worker() as jobs:
        await queue(jobs, requests(1))
    found = await collected(shop, key=submission.task_id)
    assert [saved.key for saved in found.saved] == [KEY]
    assert found.submitted == []
    assert (await collected(shop, key=KEY)).problems == []
    for name, says in ((KEY[:8], "no open job has such a key or Loova task"), ("0" * 64, "no job has such a key")):
        with pytest.raises(InvalidRequestError, match=says):
            await collected(shop, key=name)


async def test_what_cannot_be_saved_this_time_is_told_and_stays_open(shop: Shop) -> None:
    await shop.submit()
    shop.loova.fail("video_404", times=None)
    found = await collected(shop)
    assert [key for key, _ in found.problems] == [KEY]
    assert OPEN in shop.keys


async def test_a_video_that_another_worker_saves_is_left_to_it(shop: Shop) -> None:
    await shop.finished()
    lease = Lease(holder="another", seconds=1000, object_key=VIDEO)
    await shop.change(lambda record: record.move("lease", 1, saving=lease))
    found = await collected(shop, times=PATIENT)
    assert (found.saved, found.problems) == ([], [])


async def test_a_prompt_that_was_queued_before_control_characters_were_refused_is_bought(shop: Shop) -> None:
    async with shop.worker(s3=shop.bucket.client) as jobs:
        await queue(jobs, [VideoRequest.model_validate({"prompt": "a\x0bcat", "duration": 4}, context=STORED)])
        found = await collect(jobs)
    assert [one.prompt for one in found.submitted] == ["a\x0bcat"]
    assert shop.totals["posted"] == 1


async def test_a_url_that_may_be_signed_is_not_queued(shop: Shop) -> None:
    signed = VideoRequest(prompt="a", image_urls=["https://x.example/a.png?X-Amz-Signature=secret"])
    async with shop.worker() as jobs:
        with pytest.raises(InvalidRequestError, match="is not queued") as caught:
            await queue(jobs, [*requests(2), signed])
    assert "secret" not in str(caught.value)
    assert shop.keys == set()


async def test_without_the_right_to_list_it_says_what_is_missing(shop: Shop) -> None:
    async with shop.worker() as jobs:
        with pytest.raises(StorageError, match="s3:ListBucket"):
            await collect(jobs)
        with pytest.raises(StorageError, match="s3:ListBucket"):
            await Spending(jobs.records, 100).admit(KEY, 1, 0, REQUEST.estimate_credits())
