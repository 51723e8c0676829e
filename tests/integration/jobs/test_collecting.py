"""What a collector finishes, submits and leaves alone: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import socket

import pytest

from prefect_loova.errors import AuthenticationError, InDoubtError, InvalidRequestError, StorageError, TaskFailedError
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.models.attempts import Lease
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.models.results import Submission
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.budget import DailyBudget
from tests.integration.jobs.workers import AT_ONCE, KEY, OPEN, PATIENT, RECORD, REQUEST, VIDEO, Workers, through
from tests.support.proxy import Proxy


def requests(count: int) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"video {number}", duration=4) for number in range(count)]


async def collected(workers: Workers, key: str = "", slots: int = 6, **settings) -> CollectedVideos:
    async with workers.worker(s3=workers.bucket.client, **settings) as jobs:
        return await collect(jobs, key=key, slots=slots)


async def queued(workers: Workers, count: int) -> None:
    async with workers.worker() as jobs:
        await enqueue(jobs, requests(count))


@pytest.fixture
def slow():
    """A Loova whose videos take an hour of its clock."""
    with LoovaSimulator(generation_seconds=3600, short_side=64) as simulator:
        yield simulator


async def test_it_saves_finished_videos_and_ends(workers: Workers) -> None:
    await workers.submit()
    found = await collected(workers)
    assert [saved.key for saved in found.saved] == [KEY]
    assert workers.keys == {RECORD, VIDEO}
    assert workers.states == ["saved"]
    assert (await collected(workers)).summary == "nothing to do"


async def test_it_polls_a_running_task_once(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    await workers.submit()
    found = await collected(workers)
    assert (found.running, found.saved) == (1, [])
    assert slow.ledger["tasks"][0]["polls"] == 1
    assert OPEN in workers.keys


async def test_an_index_entry_without_a_record_is_removed_once_it_is_old(workers: Workers) -> None:
    async with workers.worker() as jobs:
        await jobs.records.index(JobRecord.claimed(REQUEST, workers.loova.origin, {}))
    await collected(workers, times=AT_ONCE)
    assert workers.keys == {OPEN}
    await collected(workers, times=AT_ONCE.model_copy(update={"forget_after": 0.0}))
    assert workers.keys == set()


async def test_an_index_entry_of_a_job_that_ended_is_removed(workers: Workers) -> None:
    await workers.submit()
    await collected(workers)
    async with workers.worker() as jobs:
        await jobs.records.index((await jobs.records.expect(KEY)).record)
    assert workers.keys == {RECORD, VIDEO, OPEN}
    await collected(workers)
    assert workers.keys == {RECORD, VIDEO}


async def test_it_records_failed_tasks(workers: Workers) -> None:
    workers.loova.fail("generation_failed")
    await workers.submit()
    found = await collected(workers)
    assert [key for key, _ in found.failed] == [KEY]
    assert workers.states == ["failed"]
    assert OPEN not in workers.keys


async def test_it_reports_jobs_in_doubt_and_submits_of_dead_workers(workers: Workers) -> None:
    await workers.leave("begin", post_timeout_seconds=0)
    found = await collected(workers, times=AT_ONCE)
    assert [job.key for job in found.in_doubt] == [KEY]
    assert workers.states == ["in_doubt"]
    assert workers.totals["posted"] == 0


async def test_it_does_not_take_over_a_claim(workers: Workers) -> None:
    await workers.leave()
    found = await collected(workers, times=AT_ONCE)
    assert (found.submitted, found.problems, workers.totals["posted"]) == ([], [], 0)
    assert workers.states == ["claimed"]


def deletions_of_the_entry(proxy: Proxy) -> int:
    return sum(seen.method == "DELETE" and seen.path.endswith(OPEN) for seen in proxy.seen)


async def bought_twice(workers: Workers, *faults: str) -> Submission:
    """Leave a job with two Loova tasks, because the answer to the first submit came late. Return the second one."""
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await workers.submit()
    await workers.decide("submit-again")
    for fault in faults:
        workers.loova.fail(fault)
    submission = await workers.submit(times=AT_ONCE)
    first = workers.task_ids[0]
    await workers.change(lambda record: record.move("bought", 1, task_id=first))
    return submission


async def test_it_saves_both_videos_where_a_late_answer_bought_a_second_one(workers: Workers) -> None:
    await bought_twice(workers)
    found = await collected(workers)
    assert {saved.task_id for saved in found.saved} == set(workers.task_ids)
    assert OPEN not in workers.keys


async def test_of_two_saves_of_one_job_the_last_one_alone_removes_the_entry(workers: Workers, proxy: Proxy) -> None:
    # To remove it and write it again would lose it in a crash in between, and leave it if the other save ends then.
    await bought_twice(workers)
    server = workers.bucket.server
    async with workers.worker(s3=through(proxy, workers.bucket, server.access_key, server.secret_key)) as jobs:
        await collect(jobs)
    assert deletions_of_the_entry(proxy) == 1
    assert workers.states == ["saved", "saved"]
    assert OPEN not in workers.keys


async def test_a_task_that_failed_leaves_the_entry_to_the_other_task_of_its_job(workers: Workers, proxy: Proxy) -> None:
    submission = await bought_twice(workers, "generation_failed")
    with pytest.raises(TaskFailedError):
        await workers.wait(submission, s3=through(proxy, workers.bucket))
    assert workers.states == ["submitted", "failed"]
    assert deletions_of_the_entry(proxy) == 0
    await collected(workers)
    assert workers.states == ["saved", "failed"]
    assert OPEN not in workers.keys


async def test_it_submits_queued_requests_as_slots_become_free(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    await queued(workers, 15)
    found = await collected(workers)
    assert (len(found.submitted), found.queued, found.running) == (6, 9, 6)
    found = await collected(workers)
    assert (found.submitted, found.queued, found.running) == ([], 9, 6)
    slow.advance(3601)
    found = await collected(workers)
    assert (len(found.saved), len(found.submitted), found.queued) == (6, 6, 3)
    slow.advance(3601)
    await collected(workers)
    slow.advance(3601)
    assert (await collected(workers)).queued == 0
    totals = slow.ledger["totals"]
    assert (totals["posted"], totals["billed"]) == (15, 15)
    assert len([key for key in workers.keys if key.endswith("video.mp4")]) == 15
    assert not [key for key in workers.keys if "_open" in key]


async def test_the_oldest_queued_request_is_submitted_first(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    async with workers.worker() as jobs:
        for request in requests(3):
            await enqueue(jobs, [request])
            await asyncio.sleep(1.1)  # S3 tells when it wrote an object to the second
    found = await collected(workers, slots=2)
    assert [one.prompt for one in found.submitted] == ["video 0", "video 1"]


async def test_several_collectors_at_once_buy_each_once(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    await queued(workers, 12)
    await asyncio.gather(*(collected(workers) for _ in range(4)))
    await collected(workers)
    assert slow.ledger["totals"]["billed"] == slow.ledger["totals"]["posted"] == 6
    slow.advance(3601)
    found = await asyncio.gather(*(collected(workers) for _ in range(4)))
    assert len({saved.key for one in found for saved in one.saved}) == 6
    assert slow.ledger["totals"]["billed"] == 12


async def test_a_quota_refusal_leaves_the_rest_queued(bucket) -> None:
    with LoovaSimulator(generation_seconds=3600, short_side=64, max_running=2) as loova:
        workers = Workers(bucket, loova)
        await queued(workers, 5)
        found = await collected(workers)
        assert (len(found.submitted), found.queued) == (2, 3)
        assert loova.ledger["totals"]["billed"] == 2
        loova.advance(3601)
        assert len((await collected(workers)).submitted) == 2


async def test_over_the_budget_of_the_day_the_rest_stays_queued(workers: Workers) -> None:
    await queued(workers, 3)
    found = await collected(workers, max_credits_per_day=70)
    assert (len(found.submitted), found.queued, workers.totals["billed"]) == (1, 2, 1)


@pytest.mark.parametrize("fault", ["refused_by_code", "refused_as_success", "prompt_refused"])
async def test_of_twenty_queued_requests_eight_are_refused_and_reported_and_twelve_are_bought(
    workers: Workers, fault: str
) -> None:
    for number in range(0, 16, 2):
        workers.loova.fail(fault, prompt=f"video {number} ", times=None)
    async with workers.worker() as jobs:
        await enqueue(jobs, [VideoRequest(prompt=f"video {number} of 20", duration=4) for number in range(20)])
    saved, reasons = set(), []
    for _ in range(6):
        found = await collected(workers)
        saved |= {video.key for video in found.saved}
        reasons += [reason for _, reason in found.content_refused]
        assert (found.in_doubt, found.problems) == ([], [])
    assert (workers.totals["billed"], workers.totals["posted"], len(saved)) == (12, 20, 12)
    assert len(reasons) == 8
    assert all("Loova says: The prompt" in reason for reason in reasons)
    assert found.queued == 0


@pytest.mark.parametrize(
    "fault", ["delayed_by_the_limit", "delayed_by_the_limit_with_429", "accepted_without_data", "accepted_in_chinese"]
)
async def test_a_queued_job_that_may_have_been_taken_is_posted_once_in_five_passes(
    workers: Workers, fault: str
) -> None:
    workers.loova.fail(fault)
    await queued(workers, 1)
    for _ in range(5):
        assert len((await collected(workers)).in_doubt) == 1
    assert (workers.totals["posted"], workers.totals["billed"]) == (1, 1)


async def test_a_queued_request_that_is_refused_is_reported_and_leaves_the_queue(workers: Workers) -> None:
    await queued(workers, 2)
    workers.loova.fail("prompt_refused")
    found = await collected(workers)
    assert (len(found.content_refused), len(found.submitted), found.queued) == (1, 1, 0)


async def test_a_lost_answer_takes_a_slot_and_ends_the_submits_of_the_pass(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    await queued(workers, 9)
    slow.fail("bad_gateway_after_billing", times=20)
    for doubts in (1, 2):
        found = await collected(workers)
        assert (len(found.in_doubt), found.running, found.queued, found.failed) == (doubts, doubts, 9 - doubts, [])
    slow.clear_faults()
    found = await collected(workers)
    assert (len(found.submitted), found.running, found.queued) == (4, 6, 3)


async def test_a_submit_of_a_killed_collector_is_reported_once_and_ends_no_pass(bucket, slow) -> None:
    workers = Workers(bucket, slow)
    after_it = [request for request in requests(20) if request.key > KEY][:2]
    async with workers.worker() as jobs:
        await enqueue(jobs, [REQUEST, *after_it])
    await workers.leave("begin", post_timeout_seconds=0)
    found = await collected(workers, slots=3, times=AT_ONCE)
    assert ([job.key for job in found.in_doubt], len(found.submitted), found.queued) == ([KEY], 2, 0)
    assert slow.ledger["totals"]["posted"] == 2


@pytest.mark.parametrize("fault", ["unavailable", "submit_redirect", "authentication_failed"])
async def test_an_error_that_is_not_about_the_request_leaves_it_queued(workers: Workers, fault: str) -> None:
    await queued(workers, 3)
    workers.loova.fail(fault)
    found = await collected(workers)
    assert (found.failed, found.submitted) == ([], [])
    assert found.queued + len(found.in_doubt) == 3
    assert workers.totals["posted"] == 1


async def test_where_loova_cannot_be_reached_the_queue_stays(workers: Workers) -> None:
    await queued(workers, 3)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = await collected(workers, base_url=f"http://127.0.0.1:{port}/api")
    assert (found.queued, found.failed, workers.totals["posted"]) == (3, [], 0)


async def test_a_wrong_key_fails_the_pass(workers: Workers) -> None:
    await workers.submit()
    workers.loova.fail(on="poll", status=401, envelope={"code": 401, "message": "Authentication failed", "data": None})
    with pytest.raises(AuthenticationError):
        await collected(workers)
    assert workers.states == ["submitted"]


async def test_a_task_that_loova_forgot_holds_no_slot(workers: Workers) -> None:
    await workers.submit()
    workers.loova.fail("task_forgotten", times=None)
    found = await collected(workers)
    assert (found.running, [key for key, _ in found.problems]) == (0, [KEY])


async def test_one_job_is_rescued_by_its_key_or_task(workers: Workers) -> None:
    submission = await workers.submit()
    async with workers.worker() as jobs:
        await enqueue(jobs, requests(1))
    found = await collected(workers, key=submission.task_id)
    assert [saved.key for saved in found.saved] == [KEY]
    assert found.submitted == []
    assert (await collected(workers, key=KEY)).problems == []
    for name, says in ((KEY[:8], "no open job has such a key or Loova task"), ("0" * 64, "no job has such a key")):
        with pytest.raises(InvalidRequestError, match=says):
            await collected(workers, key=name)


async def test_a_video_that_cannot_be_saved_is_reported_and_stays_open(workers: Workers) -> None:
    await workers.submit()
    workers.loova.fail("video_404", times=None)
    found = await collected(workers)
    assert [key for key, _ in found.problems] == [KEY]
    assert OPEN in workers.keys


async def test_a_video_that_another_worker_saves_is_left_to_it(workers: Workers) -> None:
    await workers.finished()
    lease = Lease(holder="another", seconds=1000, object_key=VIDEO)
    await workers.change(lambda record: record.move("lease", 1, saving=lease))
    found = await collected(workers, times=PATIENT)
    assert (found.saved, found.problems) == ([], [])


async def test_a_prompt_that_was_queued_before_control_characters_were_refused_is_bought(workers: Workers) -> None:
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await enqueue(jobs, [VideoRequest.model_validate({"prompt": "a\x0bcat", "duration": 4}, context=STORED)])
        found = await collect(jobs)
    assert [one.prompt for one in found.submitted] == ["a\x0bcat"]
    assert workers.totals["posted"] == 1


async def test_a_url_that_may_be_signed_is_not_queued(workers: Workers) -> None:
    signed = VideoRequest(prompt="a", image_urls=["https://x.example/a.png?X-Amz-Signature=secret"])
    async with workers.worker() as jobs:
        with pytest.raises(InvalidRequestError, match="is not queued") as caught:
            await enqueue(jobs, [*requests(2), signed])
    assert "secret" not in str(caught.value)
    assert workers.keys == set()


async def test_without_the_permission_to_list_the_error_names_it(workers: Workers) -> None:
    async with workers.worker() as jobs:
        with pytest.raises(StorageError, match="s3:ListBucket"):
            await collect(jobs)
        with pytest.raises(StorageError, match="s3:ListBucket"):
            await DailyBudget(jobs.records, 100).reserve(KEY, 1, 0, REQUEST.estimate_credits())
