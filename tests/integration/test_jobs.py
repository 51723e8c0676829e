"""Jobs on real S3 servers against a simulated Loova: bought once, waited for, saved whole, decided by a person."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.doubt import decide
from prefect_loova.errors import (
    AbandonedError,
    AuthenticationError,
    InDoubtError,
    InsufficientCreditsError,
    InvalidRequestError,
    LoovaError,
    MissingVideoUrlError,
    MoveRefusedError,
    NotWholeVideoError,
    RejectedError,
    StorageError,
    TaskFailedError,
    TaskNotFoundError,
    TooManyRunningTasksError,
    TransferError,
    VideoUrlRefusedError,
    WaitTimeoutError,
)
from prefect_loova.jobs import JobTimes, VideoJobs
from prefect_loova.models import SavedVideo, Submission, VideoRequest
from prefect_loova.records import JobRecords
from prefect_loova.saving import save_video
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.states import Decision, JobRecord, Lease
from prefect_loova.submitting import submit_video
from prefect_loova.waiting import wait_for_video
from tests.proxy import Harm, Proxy
from tests.s3_servers import Bucket, S3Server

MIB = 1024**2
TIMES = JobTimes(take_over_after=1, doubt_after=1, lease=2, look_again=0.05)
AT_ONCE = JobTimes(take_over_after=0, doubt_after=0, lease=2, look_again=0.05)
PATIENT = JobTimes(take_over_after=1000, doubt_after=1000, lease=1000, look_again=0.05)
REQUEST = VideoRequest(prompt="a job", duration=4)
KEY = REQUEST.key
RECORD, VIDEO, OPEN = f"loova/{KEY}/record.json", f"loova/{KEY}/video.mp4", f"loova/_open/{KEY}"
PUT_RECORD = r"^PUT .*record\.json"
FOR_EVER = 10**6


class Clock:
    """Time that passes only while somebody sleeps; the simulator's passes with it."""

    def __init__(self, loova: LoovaSimulator | None = None) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._loova = loova

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        if self._loova:
            self._loova.advance(seconds)
        await asyncio.sleep(0)


async def until(is_so: Callable[[], Any]) -> None:
    """Look again until it is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def record_writes(proxy: Proxy) -> int:
    return sum(seen.method == "PUT" and "record.json" in seen.path for seen in proxy.seen)


class Shop:
    """A bucket and a simulated Loova, and workers at them."""

    def __init__(self, bucket: Bucket, loova: LoovaSimulator) -> None:
        self.bucket = bucket
        self.loova = loova

    @asynccontextmanager
    async def worker(
        self,
        s3: Any = None,
        times: JobTimes = TIMES,
        submit_timeout: float = 5,
        base_url: str | None = None,
        **settings: Any,
    ) -> AsyncIterator[VideoJobs]:
        pauses = Clock().sleep
        loova = LoovaClient(
            self.loova.api_key, base_url or self.loova.base_url, timeout=3, submit_timeout=submit_timeout, sleep=pauses
        )
        loova.origin = self.loova.origin
        async with loova:
            records = JobRecords(s3 or self.bucket.limited_client, self.bucket, "loova", loova.origin, sleep=pauses)
            yield VideoJobs(loova, records, times=times, by={"host": "a test"}, **settings)

    async def submit(self, max_wait: float = 5, max_paid_attempts: int = 1, **settings: Any) -> Submission:
        async with self.worker(**settings) as jobs:
            return await submit_video(jobs, REQUEST, max_wait=max_wait, max_paid_attempts=max_paid_attempts)

    async def wait(self, submission: Submission, max_wait: float = 5, **settings: Any) -> Any:
        async with self.worker(**settings) as jobs:
            return await wait_for_video(jobs, submission, max_wait=max_wait, poll_seconds=0.05)

    async def save(self, submission: Submission, **settings: Any) -> SavedVideo:
        names = ("upload_options", "max_bytes", "max_wait")
        given = {name: settings.pop(name) for name in names if name in settings}
        clock = Clock()
        async with self.worker(**({"sleep": clock.sleep} | settings)) as jobs:
            return await save_video(jobs, submission, **({"max_wait": 0} | given))

    async def finished(self) -> Submission:
        """A submission whose video is made, and noted as made."""
        submission = await self.submit()
        await self.wait(submission)
        return submission

    async def decide(self, what: Any, task_id: str | None = None) -> JobRecord:
        decision = Decision(what=what, who="a person", when=datetime.now(UTC), why="looked in the dashboard")
        async with self.worker() as jobs:
            return await decide(jobs, KEY, decision, task_id)

    async def change(self, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        async with self.worker() as jobs:
            return (await jobs.records.change(KEY, change)).record

    async def leave(self, *moves: str, **facts: Any) -> None:
        """Leave a record behind, as a worker that died would."""
        async with self.worker() as jobs:
            record = JobRecord.claimed(REQUEST, self.loova.origin, {"host": "a dead one"})
            await jobs.records.note_open(record)
            for move in moves:
                record = record.move(move, **facts)  # type: ignore[arg-type]
            await jobs.records.create(record)

    @property
    def record(self) -> JobRecord:
        return JobRecord.model_validate_json(
            self.bucket.client.get_object(Bucket=self.bucket, Key=RECORD)["Body"].read()
        )

    @property
    def states(self) -> list[str]:
        return [attempt.state for attempt in self.record.attempts]

    @property
    def keys(self) -> set[str]:
        found = self.bucket.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {one["Key"] for one in found} - {"loova/_probe"}

    @property
    def uploads(self) -> list[str]:
        found = self.bucket.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [one["UploadId"] for one in found]

    @property
    def totals(self) -> dict[str, int]:
        return self.loova.ledger["totals"]

    @property
    def task_ids(self) -> list[str]:
        return [task["task_id"] for task in self.loova.ledger["tasks"]]

    def bytes_of(self, key: str = VIDEO) -> bytes:
        return self.bucket.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    async def until_posted(self) -> None:
        await until(lambda: self.totals["posted"] > 0)


@pytest.fixture
def shop(bucket: Bucket, loova: LoovaSimulator) -> Shop:
    return Shop(bucket, loova)


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0, short_side=64) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fresh(s3_server: S3Server) -> Iterator[Bucket]:
    made = s3_server.make_bucket()
    yield made
    made.remove()


@pytest.fixture
def bucket(fresh: Bucket) -> Iterator[Bucket]:
    """One bucket for all tests, emptied after each: to make it, with its user and clients, takes half a second."""
    yield fresh
    for found in fresh.client.list_multipart_uploads(Bucket=fresh).get("Uploads", []):
        fresh.client.abort_multipart_upload(Bucket=fresh, Key=found["Key"], UploadId=found["UploadId"])
    for found in fresh.client.list_objects_v2(Bucket=fresh).get("Contents", []):
        fresh.client.delete_object(Bucket=fresh, Key=found["Key"])


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(int(s3_server.endpoint_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.heal()
    running_proxy.seen.clear()
    return running_proxy


@cache
def through(proxy: Proxy, bucket: Bucket) -> Any:
    server = replace(bucket.server, endpoint_url=proxy.url)
    return server.client_of(*bucket.limited_keys, retries={"total_max_attempts": 1}, read_timeout=5)


# -- bought once -------------------------------------------------------------------------------------------------------


async def test_asked_twice_it_is_bought_once(shop: Shop) -> None:
    first, second = await shop.submit(), await shop.submit()
    assert (first.reused, second.reused) == (False, True)
    assert first.task_id == second.task_id == shop.task_ids[0]
    assert second.model_copy(update={"reused": False}) == first
    assert first.record == f"s3://{shop.bucket}/{RECORD}"
    assert first.credits_cost == shop.loova.ledger["tasks"][0]["credits_cost"]
    assert shop.totals["posted"] == 1
    assert shop.keys == {RECORD, OPEN}


async def test_asked_where_a_missing_key_answers_403_it_is_bought_once_and_saved(shop: Shop) -> None:
    s3 = shop.bucket.client_as_on_aws
    submission = await shop.submit(s3=s3)
    await shop.wait(submission, s3=s3)
    saved = await shop.save(submission, s3=s3)
    shop.bucket.client.delete_object(Bucket=shop.bucket, Key=VIDEO)
    assert (await shop.save(submission, s3=s3)).sha256 == saved.sha256
    assert (await shop.submit(s3=s3)).reused
    assert shop.totals["posted"] == 1


async def test_asked_by_ten_at_once_it_is_bought_once(shop: Shop) -> None:
    submissions = await asyncio.gather(*(shop.submit(max_wait=20, times=PATIENT) for _ in range(10)))
    assert {submission.task_id for submission in submissions} == set(shop.task_ids)
    assert [submission.reused for submission in submissions].count(False) == 1
    assert shop.totals["posted"] == 1


PROCESS = """
import asyncio, json, sys
from prefect_loova.client import LoovaClient
from prefect_loova.jobs import VideoJobs
from prefect_loova.models import VideoRequest
from prefect_loova.records import JobRecords
from prefect_loova.simulator.s3 import s3_client
from prefect_loova.submitting import submit_video

async def main(base_url, api_key, bucket, *s3):
    async with LoovaClient(api_key, base_url) as loova:
        records = JobRecords(s3_client(*s3), bucket, "loova", loova.origin)
        print("ready", flush=True)
        sys.stdin.readline()
        request = VideoRequest(prompt="a job", duration=4)
        print((await submit_video(VideoJobs(loova, records), request, max_wait=20)).model_dump_json())

asyncio.run(main(*sys.argv[1:]))
"""


def test_asked_by_four_processes_at_once_it_is_bought_once(shop: Shop) -> None:
    shop.loova.fail(on="submit", delay_seconds=0.5)
    where = [shop.loova.base_url, shop.loova.api_key, shop.bucket, shop.bucket.endpoint_url, *shop.bucket.limited_keys]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *where], stdin=-1, stdout=-1, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    submissions = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert {submission["task_id"] for submission in submissions} == set(shop.task_ids)
    assert [submission["reused"] for submission in submissions].count(False) == 1
    assert shop.totals["posted"] == 1


async def test_another_take_is_another_video(shop: Shop) -> None:
    first = await shop.submit()
    async with shop.worker() as jobs:
        second = await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
    assert first.task_id != second.task_id
    assert shop.totals["billed"] == 2


# -- what others left behind -------------------------------------------------------------------------------------------


async def test_a_claim_left_behind_is_taken_over_when_it_is_old(shop: Shop) -> None:
    await shop.leave()
    with pytest.raises(WaitTimeoutError, match="another worker is submitting"):
        await shop.submit(max_wait=0.3, times=PATIENT)
    assert shop.totals["posted"] == 0
    started = asyncio.get_running_loop().time()
    await shop.submit(max_wait=20, times=TIMES.model_copy(update={"take_over_after": 2}))
    assert asyncio.get_running_loop().time() - started < 4
    assert shop.states == ["submitted"]
    assert shop.record.current.by == {"host": "a test"}
    assert shop.totals["posted"] == 1


async def test_a_claim_is_not_taken_over_before_its_time(shop: Shop) -> None:
    started = asyncio.get_running_loop().time()
    await shop.leave()
    await shop.submit(max_wait=20, times=TIMES.model_copy(update={"take_over_after": 2}))
    # S3 tells times in whole seconds.
    assert asyncio.get_running_loop().time() - started > 1


async def test_the_owner_of_a_claim_that_was_taken_over_does_not_post(shop: Shop, proxy: Proxy) -> None:
    proxy.harm(Harm(what="delay", at=1, seconds=0.7, matching=PUT_RECORD))
    slow = asyncio.create_task(shop.submit(s3=through(proxy, shop.bucket), max_wait=10))
    await until(lambda: record_writes(proxy) == 2)
    taker = await shop.submit(times=AT_ONCE)
    assert not taker.reused
    assert (await slow).reused
    assert shop.totals["posted"] == 1


async def test_a_submit_left_behind_is_in_doubt_when_it_is_overdue_and_never_posted_again(shop: Shop) -> None:
    await shop.leave("begin", post_timeout_seconds=1)
    with pytest.raises(WaitTimeoutError):
        await shop.submit(max_wait=0.2, times=PATIENT)
    assert shop.states == ["submitting"]
    started = asyncio.get_running_loop().time()
    with pytest.raises(InDoubtError, match=r"(?s)adopt TASK_ID.*submit-again.*give-up") as doubt:
        await shop.submit(max_wait=20)
    assert asyncio.get_running_loop().time() - started > 0.5
    assert (doubt.value.credits_spent, shop.states) == ("maybe", ["in_doubt"])
    for times in (TIMES, AT_ONCE):
        with pytest.raises(InDoubtError):
            await shop.submit(times=times)
    assert shop.totals["posted"] == 0
    assert shop.keys == {RECORD, OPEN}


async def test_a_submit_left_behind_is_not_in_doubt_before_its_timeout(shop: Shop) -> None:
    await shop.leave("begin", post_timeout_seconds=1000)
    with pytest.raises(WaitTimeoutError):
        await shop.submit(max_wait=0.3, times=AT_ONCE)
    assert shop.states == ["submitting"]


# -- a lost answer, and what a person decides --------------------------------------------------------------------------


async def in_doubt(shop: Shop) -> None:
    shop.loova.fail("lost_reply")
    with pytest.raises(InDoubtError, match=r"Up to .* credits may be spent"):
        await shop.submit()
    assert shop.states == ["in_doubt"]
    assert shop.totals["billed"] == 1


async def test_a_job_in_doubt_stays_in_doubt_on_asking_again(shop: Shop) -> None:
    await in_doubt(shop)
    for _ in range(2):
        with pytest.raises(InDoubtError):
            await shop.submit(times=AT_ONCE, max_paid_attempts=9)
    assert shop.totals["posted"] == 1
    assert OPEN in shop.keys


async def test_an_adopted_task_is_waited_for_and_saved(shop: Shop) -> None:
    await in_doubt(shop)
    record = await shop.decide("adopt", shop.task_ids[0])
    assert record.current.decision is not None
    assert record.current.decision.who == "a person"
    submission = await shop.submit()
    assert (submission.reused, submission.task_id) == (True, shop.task_ids[0])
    await shop.wait(submission)
    await shop.save(submission)
    assert shop.keys == {RECORD, VIDEO}
    assert shop.totals["posted"] == 1


async def test_to_submit_again_buys_one_more_attempt(shop: Shop) -> None:
    await in_doubt(shop)
    await shop.decide("submit-again")
    submission = await shop.submit(times=AT_ONCE)
    assert (submission.attempt, submission.reused, submission.task_id) == (2, False, shop.task_ids[1])
    assert (await shop.submit()).reused
    await shop.wait(submission)
    assert (await shop.save(submission)).video.endswith(VIDEO)
    assert shop.totals["posted"] == 2
    assert shop.keys == {RECORD, VIDEO}


async def test_to_give_up_ends_the_job_and_takes_it_out_of_the_index(shop: Shop) -> None:
    await in_doubt(shop)
    await shop.decide("give-up")
    assert shop.keys == {RECORD}
    with pytest.raises(AbandonedError, match="another take"):
        await shop.submit(times=AT_ONCE)
    assert shop.totals["posted"] == 1


async def test_only_a_job_in_doubt_is_decided(shop: Shop) -> None:
    await shop.submit()
    for what, task_id in (("adopt", "another"), ("submit-again", None), ("give-up", None)):
        with pytest.raises(MoveRefusedError):
            await shop.decide(what, task_id)
    for what, task_id in (("adopt", None), ("give-up", "a-task")):
        with pytest.raises(InvalidRequestError, match="a task id goes with `adopt`"):
            await shop.decide(what, task_id)
    assert shop.states == ["submitted"]


async def overdue(shop: Shop) -> None:
    """Another worker finds the POST overdue, while its answer is on its way."""
    await shop.until_posted()
    await shop.change(lambda record: record.move("begin", post_timeout_seconds=0))
    with pytest.raises(InDoubtError):
        await shop.submit(times=AT_ONCE)


async def test_a_late_answer_puts_its_task_into_a_job_in_doubt(shop: Shop) -> None:
    shop.loova.fail("slow_reply", delay_seconds=0.7)
    late = asyncio.create_task(shop.submit())
    await overdue(shop)
    assert shop.states == ["in_doubt"]
    submission = await late
    assert (submission.state, submission.task_id) == ("submitted", shop.task_ids[0])
    assert shop.states == ["submitted"]
    assert shop.totals["posted"] == 1


async def test_a_late_answer_wins_over_giving_up(shop: Shop) -> None:
    shop.loova.fail("slow_reply", delay_seconds=0.7)
    late = asyncio.create_task(shop.submit())
    await overdue(shop)
    await shop.decide("give-up")
    assert (await late).task_id == shop.task_ids[0]
    assert shop.states == ["submitted"]
    await shop.wait(await shop.submit())
    await shop.save(await shop.submit())


async def test_a_late_answer_beside_a_second_purchase_is_kept_and_both_are_saved(shop: Shop) -> None:
    shop.loova.fail("slow_reply", delay_seconds=1)
    late = asyncio.create_task(shop.submit())
    await overdue(shop)
    await shop.decide("submit-again")
    second = await shop.submit(times=AT_ONCE)
    await late
    first_id, second_id = shop.task_ids
    assert [attempt.task_id for attempt in shop.record.attempts] == [first_id, second_id]
    first = second.model_copy(update={"attempt": 1, "task_id": first_id})
    saved = [await shop.save(submission) for submission in (second, first)]
    assert [one.video.rpartition("/")[2] for one in saved] == ["video.mp4", "video-attempt-1.mp4"]
    assert [one.sha256 for one in saved] == [shop.loova.sha256(second_id), shop.loova.sha256(first_id)]
    assert shop.states == ["saved", "saved"]
    assert OPEN not in shop.keys


async def test_a_second_task_never_replaces_the_video_of_the_first(shop: Shop) -> None:
    """The first is saved while it is the one that counts; then an answer names another task, which counts from now."""
    first = await shop.finished()
    saved = await shop.save(first)
    other = (await buy_beside(shop)).task_id
    await shop.change(lambda record: record.move("late_purchase", 1, task_id=other))
    second = await shop.submit()
    assert (second.attempt, second.task_id) == (2, other)
    again = await shop.save(second)
    assert again.video != saved.video
    assert shop.bytes_of() and (await shop.save(first)) == saved
    assert shop.states == ["saved", "saved"]
    assert (await shop.save(second)) == again


async def test_two_tasks_saved_at_once_do_not_disturb_each_other(shop: Shop) -> None:
    first = await shop.finished()
    other = (await buy_beside(shop)).task_id
    shop.loova.fail(on="video", task_id=first.task_id, delay_seconds=0.7)
    saving = asyncio.create_task(shop.save(first))
    await until(lambda: shop.record.attempts[0].saving is not None)
    await shop.change(lambda record: record.move("late_purchase", 1, task_id=other))
    second = await shop.save(await shop.submit())
    saved = await saving
    assert saved.video != second.video
    assert {RECORD, *(one.video.partition(f"{shop.bucket}/")[2] for one in (saved, second))} == shop.keys
    for one in (saved, second):
        assert one.sha256 == shop.loova.sha256(one.task_id)


async def buy_beside(shop: Shop) -> Any:
    async with shop.worker() as jobs:
        return await jobs.loova.submit_video(REQUEST)


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_a_cancellation_during_the_post_waits_for_the_answer_and_writes_it(shop: Shop) -> None:
    shop.loova.fail("slow_reply", delay_seconds=0.5)
    submitting = asyncio.create_task(shop.submit())
    await shop.until_posted()
    for _ in range(3):
        submitting.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert [attempt.task_id for attempt in shop.record.attempts] == shop.task_ids
    assert (await shop.submit()).reused
    assert shop.totals["posted"] == 1


async def test_a_cancellation_before_the_post_buys_nothing(shop: Shop, proxy: Proxy) -> None:
    proxy.harm(Harm(what="delay", at=1, seconds=0.4, matching=PUT_RECORD))
    submitting = asyncio.create_task(shop.submit(s3=through(proxy, shop.bucket)))
    await until(lambda: record_writes(proxy) == 2)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert (shop.totals["posted"], shop.states) == (0, ["rejected"])
    assert not (await shop.submit()).reused
    assert shop.totals["posted"] == 1


# -- S3 after the purchase ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["S3 is gone", "S3 is read-only"])
async def test_if_s3_stays_down_after_the_purchase_error_and_log_tell_the_task_id(
    shop: Shop, proxy: Proxy, reads: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="prefect_loova")
    proxy.harm(Harm(what="drop", at=2, times=FOR_EVER, matching=PUT_RECORD))
    if reads == "S3 is gone":
        proxy.harm(Harm(what="drop", at=1, times=FOR_EVER, matching=r"^GET .*record\.json"))
    clock = Clock()
    with pytest.raises(StorageError) as failed:
        await shop.submit(s3=through(proxy, shop.bucket), clock=clock, sleep=clock.sleep)
    task_id = shop.task_ids[0]
    assert (failed.value.task_id, failed.value.credits_spent, failed.value.transient) == (task_id, "yes", False)
    assert f"adopt {task_id}" in str(failed.value)
    assert any(record.levelno >= logging.ERROR and f"adopt {task_id}" in record.message for record in caplog.records)
    for secret in (shop.loova.api_key, shop.bucket.limited_secret_key, "ignature="):
        assert secret not in caplog.text + str(failed.value) + repr(failed.value)
    assert shop.states == ["submitting"]
    with pytest.raises(InDoubtError):
        await shop.change(lambda record: record.move("begin", post_timeout_seconds=0))
        await shop.submit(times=AT_ONCE)
    await shop.decide("adopt", task_id)
    await shop.save(await shop.submit())
    assert shop.totals["posted"] == 1


async def test_if_s3_comes_back_after_the_purchase_the_task_id_is_written(shop: Shop, proxy: Proxy) -> None:
    proxy.harm(Harm(what="drop", at=2, times=15, matching=PUT_RECORD))
    clock = Clock()
    submission = await shop.submit(s3=through(proxy, shop.bucket), clock=clock, sleep=clock.sleep)
    assert shop.record.current.task_id == submission.task_id == shop.task_ids[0]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("prompt_refused", RejectedError),
        ("insufficient_credits", InsufficientCreditsError),
        ("insufficient_credits_as_success", InsufficientCreditsError),
        ("authentication_failed", AuthenticationError),
        ("submit_redirect", RejectedError),
    ],
)
async def test_a_refusal_buys_nothing_and_may_be_tried_again(shop: Shop, fault: str, error: type[LoovaError]) -> None:
    shop.loova.fail(fault)
    with pytest.raises(error) as refused:
        await shop.submit()
    assert refused.value.credits_spent == "no"
    assert (shop.states, shop.keys) == (["rejected"], {RECORD})
    submission = await shop.submit()
    assert (submission.attempt, submission.reused) == (1, False)
    assert shop.record.current.refusals == 1
    assert shop.keys == {RECORD, OPEN}
    assert (shop.totals["posted"], shop.totals["billed"]) == (2, 1)


@pytest.mark.parametrize("fault", ["too_many_running_tasks", "too_many_running_tasks_as_success"])
async def test_a_full_house_is_waited_for_until_the_time_is_over(shop: Shop, fault: str) -> None:
    shop.loova.fail(fault, times=None)
    clock = Clock()
    with pytest.raises(TooManyRunningTasksError):
        await shop.submit(max_wait=600, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(600)
    assert shop.totals["billed"] == 0
    assert 10 <= shop.totals["posted"] <= 40
    assert (shop.states, shop.keys) == (["rejected"], {RECORD})
    assert shop.record.current.refusals == shop.totals["posted"]
    shop.loova.clear_faults()
    assert not (await shop.submit()).reused


async def test_a_full_house_that_empties_is_a_purchase(shop: Shop) -> None:
    shop.loova.fail("too_many_running_tasks", times=3)
    clock = Clock()
    submission = await shop.submit(max_wait=600, clock=clock, sleep=clock.sleep)
    assert (submission.attempt, shop.states) == (1, ["submitted"])
    assert (shop.totals["posted"], shop.totals["billed"]) == (4, 1)
    assert OPEN in shop.keys


async def test_what_was_not_sent_may_be_tried_again(shop: Shop) -> None:
    with pytest.raises(LoovaError, match="could not connect") as failed:
        await shop.submit(base_url="http://127.0.0.1:9/api")
    assert failed.value.credits_spent == "no"
    assert (shop.states, shop.keys) == (["rejected"], {RECORD})
    await shop.submit()
    assert shop.totals["posted"] == 1


# -- `submitting` is fresh when the POST leaves ------------------------------------------------------------------------


class SlowWrites:
    """A clock on which the first so many writes of `submitting` take `seconds`; on no other clock."""

    def __init__(self, s3: Any, count: int, seconds: float) -> None:
        self.now, self.writes = 0.0, 0
        self._count, self._seconds = count, seconds
        s3.meta.events.register("provide-client-params.s3.PutObject", self._written)

    def __call__(self) -> float:
        return self.now

    def _written(self, params: dict[str, Any], **_: Any) -> None:
        if params["Key"] == RECORD:
            self.writes += 1
            # The first one is the claim.
            if 1 < self.writes <= 1 + self._count:
                self.now += self._seconds


@pytest.mark.parametrize("which", ["clock", "wall"])
@pytest.mark.parametrize(("slow", "seconds", "written"), [(0, 9, 1), (1, 4, 1), (1, 9, 2), (7, 9, 8)])
async def test_a_submitting_that_is_no_longer_fresh_is_written_again_before_the_post(
    shop: Shop, which: str, slow: int, seconds: float, written: int
) -> None:
    s3 = shop.bucket.make_limited_client()
    clock = SlowWrites(s3, slow, seconds)
    await shop.submit(s3=s3, max_wait=1000, **{which: clock})
    assert clock.writes == 1 + written + 1
    assert shop.totals["posted"] == 1


@pytest.mark.parametrize("which", ["clock", "wall"])
async def test_an_s3_that_stays_slow_is_given_up_without_a_post(shop: Shop, which: str) -> None:
    s3 = shop.bucket.make_limited_client()
    clock = SlowWrites(s3, 8, 9)
    with pytest.raises(StorageError, match="too slow to submit safely") as failed:
        await shop.submit(s3=s3, max_wait=1000, **{which: clock})
    assert (failed.value.transient, failed.value.credits_spent) == (True, "no")
    assert (clock.writes, shop.totals["posted"], shop.states) == (1 + 8 + 1, 0, ["rejected"])
    await shop.submit()
    assert shop.totals["posted"] == 1


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_three_hours_are_waited_with_a_hundred_polls(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=3 * 3600, short_side=64) as loova:
        shop, clock = Shop(bucket, loova), Clock(loova)
        submission = await shop.submit()
        async with shop.worker(clock=clock, sleep=clock.sleep) as jobs:
            task = await wait_for_video(jobs, submission)
        assert task.state == "succeeded"
        assert 80 <= loova.ledger["tasks"][0]["polls"] <= 120
        assert 3 * 3600 <= clock.now <= 3.3 * 3600
        assert shop.states == ["succeeded"]


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
async def test_a_poll_that_fails_is_not_a_failed_video(shop: Shop, fault: str, fields: dict[str, Any]) -> None:
    submission = await shop.submit()
    shop.loova.fail(fault, **fields)
    assert (await shop.wait(submission, max_wait=20)).state == "succeeded"
    assert shop.states == ["succeeded"]


@pytest.mark.parametrize(
    ("fault", "error"), [("task_forgotten", TaskNotFoundError), ("success_without_url", MissingVideoUrlError)]
)
async def test_a_task_without_a_video_to_show_is_reported_and_stays_open(
    shop: Shop, fault: str, error: type[LoovaError]
) -> None:
    submission = await shop.submit()
    shop.loova.fail(fault, times=None)
    for call in (shop.wait, shop.save):
        with pytest.raises(error) as reported:
            await call(submission)
        assert reported.value.task_id == submission.task_id
        assert shop.states == ["submitted"]
    assert (await shop.submit(times=AT_ONCE, max_paid_attempts=9)).reused
    shop.loova.clear_faults()
    await shop.wait(submission)
    assert (shop.states, shop.totals["posted"]) == (["succeeded"], 1)


async def test_when_waiting_ends_the_job_stays_and_asking_again_goes_on(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=1000, short_side=64) as loova:
        shop = Shop(bucket, loova)
        submission = await shop.submit()
        with pytest.raises(WaitTimeoutError, match="ask for the same request again") as timeout:
            await shop.wait(submission, max_wait=0.1)
        assert (timeout.value.task_id, timeout.value.credits_spent) == (submission.task_id, "yes")
        with pytest.raises(WaitTimeoutError, match="wait for it first"):
            await shop.save(submission)
        assert shop.states == ["submitted"]
        loova.advance(1000)
        await shop.wait(await shop.submit())
        assert (shop.states, shop.totals["posted"]) == (["succeeded"], 1)


async def test_a_failed_generation_ends_the_job_and_is_bought_again_only_if_allowed(shop: Shop) -> None:
    shop.loova.fail("generation_failed")
    submission = await shop.submit()
    with pytest.raises(TaskFailedError, match="max_paid_attempts=2") as failed:
        await shop.wait(submission)
    assert failed.value.task_id == submission.task_id
    assert (shop.states, shop.keys) == (["failed"], {RECORD})
    with pytest.raises(TaskFailedError):
        await shop.submit()
    with pytest.raises(TaskFailedError):
        await shop.save(submission)
    assert shop.totals["posted"] == 1
    second = await shop.submit(max_paid_attempts=2)
    assert OPEN in shop.keys
    await shop.wait(second)
    assert (await shop.save(second)).video.endswith(VIDEO)
    assert (shop.states, shop.keys) == (["failed", "saved"], {RECORD, VIDEO})


# -- saving ------------------------------------------------------------------------------------------------------------


async def test_a_saved_video_is_whole_and_says_where_it_is_from(shop: Shop) -> None:
    submission = await shop.finished()
    saved = await shop.save(submission)
    content = shop.bytes_of()
    assert (saved.size_bytes, saved.sha256) == (len(content), shop.loova.sha256(submission.task_id))
    assert (saved.task_id, saved.record, saved.video) == (
        submission.task_id,
        f"s3://{shop.bucket}/{RECORD}",
        f"s3://{shop.bucket}/{VIDEO}",
    )
    head = shop.bucket.client.head_object(Bucket=shop.bucket, Key=VIDEO)
    assert head["ContentType"] == "video/mp4"
    told = {"task-id": submission.task_id, "request-key": KEY, "model": REQUEST.model}
    assert {name: head["Metadata"][name] for name in told} == told
    video = shop.record.current.video
    assert video is not None
    assert (video.object_key, video.size_bytes, video.sha256) == (VIDEO, saved.size_bytes, saved.sha256)
    assert shop.record.current.saving is None
    assert (shop.states, shop.keys) == (["saved"], {RECORD, VIDEO})
    assert shop.totals["video_requests_with_key"] == 0
    requests = shop.totals["video_requests"]
    assert await shop.save(submission) == saved
    assert (await shop.submit()).state == "saved"
    assert shop.totals["video_requests"] == requests


async def test_saving_alone_notes_the_end_of_the_task_too(shop: Shop) -> None:
    await shop.save(await shop.submit())
    assert list(shop.record.current.times) == ["claimed", "submitting", "submitted", "succeeded", "saved"]


async def test_upload_options_are_passed_on(shop: Shop) -> None:
    options = {"StorageClass": "STANDARD_IA", "Metadata": {"team": "films"}, "CacheControl": "no-cache"}
    await shop.save(await shop.finished(), upload_options=options)
    head = shop.bucket.client.head_object(Bucket=shop.bucket, Key=VIDEO)
    assert (head["StorageClass"], head["CacheControl"], head["ContentType"]) == ("STANDARD_IA", "no-cache", "video/mp4")
    assert (head["Metadata"]["team"], head["Metadata"]["request-key"]) == ("films", KEY)


@pytest.mark.parametrize("fault", ["video_403", "video_404"])
async def test_an_expired_url_is_asked_for_once_more(shop: Shop, fault: str) -> None:
    submission = await shop.finished()
    polls = shop.totals["polls"]
    shop.loova.fail(fault)
    await shop.save(submission)
    assert shop.totals["polls"] == polls + 2


async def test_a_job_that_is_taken_out_of_the_index_just_before_its_claim_is_in_it_again(
    shop: Shop,
) -> None:
    """The interleaving of docs/decisions/0002: the other one looked before the claim, so it does not restore it."""
    await shop.leave("begin", "refused")
    s3 = shop.bucket.make_limited_client()
    taken_out = []

    def take_out(model: Any, params: dict[str, Any], **_: Any) -> None:
        if params["url_path"].endswith("record.json") and not taken_out:
            taken_out.append(shop.bucket.client.delete_object(Bucket=shop.bucket, Key=OPEN))

    s3.meta.events.register("before-call.s3.PutObject", take_out)
    submission = await shop.submit(s3=s3)
    assert taken_out
    assert (submission.state, OPEN in shop.keys) == ("submitted", True)


async def test_a_url_that_expires_at_once_is_refused_after_two_looks(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=0, short_side=64, url_lifetime=-10) as loova:
        shop = Shop(bucket, loova)
        submission = await shop.finished()
        polls = shop.totals["polls"]
        with pytest.raises(VideoUrlRefusedError) as refused:
            await shop.save(submission)
        assert "signature=" not in str(refused.value)
        assert shop.totals["polls"] == polls + 2


BAD_VIDEOS: dict[str, tuple[dict[str, Any], type[LoovaError]]] = {
    "404 for ever": ({"fault": "video_404", "times": None}, VideoUrlRefusedError),
    "403 for ever": ({"fault": "video_403", "times": None}, VideoUrlRefusedError),
    "500 for ever": ({"fault": "video_500", "times": None}, TransferError),
    "HTML": ({"fault": "video_html", "times": None}, NotWholeVideoError),
    "empty": ({"fault": "video_empty", "times": None}, NotWholeVideoError),
    "short": ({"fault": "video_short", "times": None}, NotWholeVideoError),
    "cut": ({"fault": "video_cut", "cut_at": 100, "times": None}, TransferError),
    "lost": ({"fault": "video_lost", "times": None}, TransferError),
    "no moov": ({"fault": "video_without_moov", "times": None}, NotWholeVideoError),
    "redirects": ({"fault": "redirect_for_ever"}, VideoUrlRefusedError),
}


def assert_lease_is_over(shop: Shop) -> None:
    lease = shop.record.current.saving
    assert lease is None or lease.seconds == 0


async def assert_unsaved_and_then_saved(
    shop: Shop, submission: Submission, error: type[LoovaError], **how: Any
) -> None:
    with pytest.raises(error) as failed:
        await shop.save(submission, **how)
    assert (failed.value.task_id, failed.value.credits_spent) == (submission.task_id, "yes")
    assert "signature=" not in str(failed.value)
    assert (shop.states, shop.keys, shop.uploads) == (["succeeded"], {RECORD, OPEN}, [])
    assert_lease_is_over(shop)
    shop.loova.clear_faults()
    saved = await shop.save(submission)
    assert saved.sha256 == shop.loova.sha256(submission.task_id)
    assert shop.totals["posted"] == 1


@pytest.mark.parametrize("case", BAD_VIDEOS)
async def test_a_bad_video_leaves_no_object_and_may_be_saved_later(shop: Shop, case: str) -> None:
    fields, error = BAD_VIDEOS[case]
    submission = await shop.finished()
    shop.loova.fail(**fields)
    await assert_unsaved_and_then_saved(shop, submission, error)


async def test_a_video_over_the_bound_leaves_no_object(shop: Shop) -> None:
    await assert_unsaved_and_then_saved(shop, await shop.finished(), NotWholeVideoError, max_bytes=1000)


@pytest.fixture
def large(bucket: Bucket) -> Iterator[Shop]:
    with LoovaSimulator(generation_seconds=0, short_side=64, video_bytes=12 * MIB) as loova:
        yield Shop(bucket, loova)


async def test_a_large_video_that_breaks_off_leaves_no_upload(large: Shop) -> None:
    submission = await large.finished()
    large.loova.fail("video_without_moov", times=None)
    await assert_unsaved_and_then_saved(large, submission, NotWholeVideoError)


async def test_a_cancelled_save_leaves_no_upload_and_no_lease(large: Shop, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.harm(Harm(what="delay", matching="^PUT .*partNumber", seconds=0.5, times=9))
    saving = asyncio.create_task(large.save(submission, s3=through(proxy, large.bucket), times=PATIENT))
    await until(lambda: large.uploads)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert (large.uploads, large.keys) == ([], {RECORD, OPEN})
    assert_lease_is_over(large)
    await large.save(submission, times=PATIENT)


async def test_an_upload_that_could_not_be_aborted_is_aborted_by_the_next_who_saves(large: Shop, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.harm(
        Harm(what="answer", status=400, matching="^PUT .*partNumber", times=9),
        Harm(what="answer", status=500, matching="^DELETE .*uploadId", times=9),
    )
    with pytest.raises(StorageError):
        await large.save(submission, s3=through(proxy, large.bucket), times=PATIENT)
    assert len(large.uploads) == 1
    await large.save(submission, times=PATIENT)
    assert (large.uploads, large.keys) == ([], {RECORD, VIDEO})


async def test_two_who_save_at_once_make_one_upload(shop: Shop) -> None:
    submission = await shop.finished()
    shop.loova.fail(on="video", delay_seconds=0.5)
    savers = [shop.save(submission, max_wait=10, sleep=asyncio.sleep, times=PATIENT) for _ in range(2)]
    saved = await asyncio.gather(*savers)
    assert saved[0] == saved[1]
    assert shop.totals["video_requests"] == 1


async def leftover(shop: Shop, seconds: float) -> str:
    """An upload in parts and its lease, as a collector that died leaves them."""
    begun = shop.bucket.limited_client.create_multipart_upload(Bucket=shop.bucket, Key=VIDEO)["UploadId"]
    shop.bucket.limited_client.upload_part(
        Bucket=shop.bucket, Key=VIDEO, UploadId=begun, PartNumber=1, Body=b"x" * 5 * MIB
    )
    lease = Lease(holder="a dead one", seconds=seconds, upload_id=begun)
    await shop.change(lambda record: record.move("lease", saving=lease))
    return begun


async def test_a_lease_that_ran_out_is_taken_over_and_its_upload_aborted(large: Shop) -> None:
    submission = await large.finished()
    await leftover(large, seconds=1)
    saved = await large.save(submission, max_wait=10, sleep=asyncio.sleep)
    assert large.uploads == []
    assert saved.sha256 == large.loova.sha256(submission.task_id)
    assert large.keys == {RECORD, VIDEO}


async def test_a_lease_that_runs_is_respected(shop: Shop) -> None:
    submission = await shop.finished()
    upload = await leftover(shop, seconds=1000)
    with pytest.raises(WaitTimeoutError, match="another worker is still saving") as timeout:
        await shop.save(submission, max_wait=0.2, sleep=asyncio.sleep)
    assert (timeout.value.task_id, timeout.value.credits_spent) == (submission.task_id, "yes")
    assert (shop.uploads, shop.states) == ([upload], ["succeeded"])
    assert shop.totals["video_requests"] == 0


async def test_whose_lease_was_taken_over_does_not_abort_or_save_over_the_other(large: Shop, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.harm(Harm(what="delay", matching="^PUT .*partNumber", seconds=1.5))
    slow = asyncio.create_task(large.save(submission, s3=through(proxy, large.bucket)))
    await until(lambda: (saving := large.record.current.saving) and saving.upload_id)

    def taken_over(record: JobRecord) -> JobRecord:
        return record.move("lease", saving=Lease(holder="another", seconds=1000))

    await large.change(taken_over)
    with pytest.raises(TransferError, match="another worker took over") as lost:
        await slow
    assert (lost.value.task_id, lost.value.credits_spent) == (submission.task_id, "yes")
    saving = large.record.current.saving
    assert saving is not None
    assert (saving.holder, large.states) == ("another", ["succeeded"])


async def test_a_saved_video_that_was_deleted_is_brought_again_and_not_bought(shop: Shop) -> None:
    submission = await shop.finished()
    saved = await shop.save(submission)
    shop.bucket.client.delete_object(Bucket=shop.bucket, Key=VIDEO)
    again = await shop.save(await shop.submit())
    assert again == saved.model_copy(update={"reused": True})
    assert shop.keys == {RECORD, VIDEO}
    assert shop.totals["posted"] == 1


async def test_if_loova_forgot_a_deleted_video_it_is_reported_and_not_bought(shop: Shop) -> None:
    submission = await shop.finished()
    await shop.save(submission)
    shop.bucket.client.delete_object(Bucket=shop.bucket, Key=VIDEO)
    shop.loova.fail("task_forgotten", times=None)
    with pytest.raises(TaskNotFoundError) as gone:
        await shop.save(submission)
    assert (gone.value.task_id, gone.value.credits_spent) == (submission.task_id, "yes")
    assert shop.states == ["succeeded"]
    assert (await shop.submit(max_paid_attempts=9)).reused
    assert shop.totals["posted"] == 1
