"""Bought once: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    RejectedError,
    StorageError,
    SuspendedError,
    TaskFailedError,
    TooManyRunningTasksError,
    WaitTimeoutError,
)
from prefect_loova.jobs.context import JobTimes
from prefect_loova.jobs.submit import submit_video
from prefect_loova.simulator.faults import Fault
from tests.integration.jobs.workers import (
    AT_ONCE,
    FOR_EVER,
    OPEN,
    PATIENT,
    PUT_RECORD,
    RECORD,
    REQUEST,
    TIMES,
    VIDEO,
    Clock,
    Workers,
    record_writes,
    through,
    until,
)
from tests.support.proxy import NetworkFault, Proxy

# -- bought once -------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_submitted_twice_is_bought_once(workers: Workers) -> None:
    first, second = await workers.submit(), await workers.submit()
    assert (first.reused, second.reused) == (False, True)
    assert first.task_id == second.task_id == workers.task_ids[0]
    assert second.model_copy(update={"reused": False}) == first
    assert first.record == f"s3://{workers.bucket}/{RECORD}"
    assert first.credits_cost == workers.loova.ledger["tasks"][0]["credits_cost"]
    assert workers.totals["posted"] == 1
    assert workers.keys == {RECORD, OPEN}


async def test_where_s3_answers_403_for_a_missing_key_a_request_is_bought_once_and_saved(workers: Workers) -> None:
    s3 = workers.bucket.client_as_on_aws
    submission = await workers.submit(s3=s3)
    await workers.wait(submission, s3=s3)
    saved = await workers.save(submission, s3=s3)
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key=VIDEO)
    requests = workers.totals["video_requests"]
    with pytest.raises(
        StorageError, match=r"the object may exist; allow s3:GetObject on it or s3:ListBucket"
    ) as unknown:
        await workers.save(submission, s3=s3)  # 403 is never taken for gone
    assert (unknown.value.task_id, workers.totals["video_requests"]) == (submission.task_id, requests)
    assert (await workers.save(submission)).sha256 == saved.sha256
    assert (await workers.submit(s3=s3)).reused
    assert workers.totals["posted"] == 1


async def test_a_request_of_ten_workers_at_once_is_bought_once(workers: Workers) -> None:
    submissions = await asyncio.gather(*(workers.submit(max_wait=20, times=PATIENT) for _ in range(10)))
    assert {submission.task_id for submission in submissions} == set(workers.task_ids)
    assert [submission.reused for submission in submissions].count(False) == 1
    assert workers.totals["posted"] == 1


PROCESS = """
import asyncio, json, sys
from prefect_loova.client import LoovaClient
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.records import JobRecords
from prefect_loova.simulator.s3 import s3_client
from prefect_loova.jobs.submit import submit_video

async def main(base_url, api_key, bucket, *s3):
    async with LoovaClient(api_key, base_url) as loova:
        records = JobRecords(s3_client(*s3), bucket, "loova", loova.origin)
        print("ready", flush=True)
        sys.stdin.readline()
        request = VideoRequest(prompt="a job", duration=4)
        print((await submit_video(VideoJobs(loova, records), request, max_wait=20)).model_dump_json())

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_request_of_four_processes_at_once_is_bought_once(workers: Workers) -> None:
    workers.loova.fail(on="submit", delay_seconds=0.5)
    where = [
        workers.loova.base_url,
        workers.loova.api_key,
        workers.bucket,
        workers.bucket.endpoint_url,
        *workers.bucket.limited_keys,
    ]
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
    assert {submission["task_id"] for submission in submissions} == set(workers.task_ids)
    assert [submission["reused"] for submission in submissions].count(False) == 1
    assert workers.totals["posted"] == 1


async def test_another_take_is_another_video(workers: Workers) -> None:
    first = await workers.submit()
    async with workers.worker() as jobs:
        second = await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
    assert first.task_id != second.task_id
    assert workers.totals["billed"] == 2


# -- what others left behind -------------------------------------------------------------------------------------------


async def test_a_claim_left_behind_is_taken_over_when_it_is_old(workers: Workers) -> None:
    await workers.leave()
    with pytest.raises(WaitTimeoutError, match="another worker is submitting"):
        await workers.submit(max_wait=0.3, times=PATIENT)
    assert workers.totals["posted"] == 0
    started = asyncio.get_running_loop().time()
    await workers.submit(max_wait=20, times=TIMES.model_copy(update={"take_over_after": 2}))
    assert asyncio.get_running_loop().time() - started < 4
    assert workers.states == ["submitted"]
    assert workers.record.current.by == {"host": "a test"}
    assert workers.totals["posted"] == 1


async def test_a_claim_is_not_taken_over_before_its_time(workers: Workers) -> None:
    started = asyncio.get_running_loop().time()
    await workers.leave()
    await workers.submit(max_wait=20, times=TIMES.model_copy(update={"take_over_after": 2}))
    # S3 tells times in whole seconds.
    assert asyncio.get_running_loop().time() - started > 1


async def test_the_owner_of_a_claim_that_was_taken_over_does_not_post(workers: Workers, proxy: Proxy) -> None:
    await workers.leave()
    proxy.inject(NetworkFault(what="delay", at=1, seconds=0.7, matching=PUT_RECORD))
    slow = asyncio.create_task(workers.submit(s3=through(proxy, workers.bucket), max_wait=10, times=AT_ONCE))
    await until(lambda: record_writes(proxy) == 2)
    taker = await workers.submit(times=AT_ONCE)
    assert not taker.reused
    assert (await slow).reused
    assert workers.totals["posted"] == 1


async def test_a_refusal_that_is_noted_already_is_not_noted_again_over_another_workers_try(
    workers: Workers, proxy: Proxy
) -> None:
    """The interleaving of docs/decisions/0018: the reply to the note is lost, and another worker claims and submits."""
    s3, seen = workers.bucket.client, []

    def another_submits(line: str) -> None:
        if record_writes(proxy) == 2 and line.startswith("GET") and "record.json" in line and not seen:
            seen.append(line)
            record = workers.record.move("claim_again").move("begin", post_timeout_seconds=60)
            body = record.model_copy(update={"write_id": "another worker's"}).model_dump_json()
            s3.put_object(Bucket=workers.bucket, Key=RECORD, Body=body.encode())

    workers.loova.fail("too_many_running_tasks")
    proxy.inject(NetworkFault(what="drop", when="after", at=1, matching=PUT_RECORD))
    proxy.watch = another_submits
    clock = Clock()
    try:
        with pytest.raises(WaitTimeoutError):
            away = through(proxy, workers.bucket)
            await workers.submit(s3=away, max_wait=0.5, times=PATIENT, clock=clock, sleep=clock.sleep)
    finally:
        proxy.watch = None
    assert seen
    assert workers.states == ["submitting"]
    assert workers.totals["posted"] == 1


async def test_a_submit_left_behind_is_in_doubt_when_it_is_overdue_and_never_posted_again(workers: Workers) -> None:
    await workers.leave("begin", post_timeout_seconds=1)
    with pytest.raises(WaitTimeoutError):
        await workers.submit(max_wait=0.2, times=PATIENT)
    assert workers.states == ["submitting"]
    started = asyncio.get_running_loop().time()
    with pytest.raises(InDoubtError, match=r"(?s)adopt TASK_ID.*submit-again.*give-up") as doubt:
        await workers.submit(max_wait=20)
    assert asyncio.get_running_loop().time() - started > 0.5
    assert (doubt.value.credits_spent, workers.states) == ("maybe", ["in_doubt"])
    for times in (TIMES, AT_ONCE):
        with pytest.raises(InDoubtError):
            await workers.submit(times=times)
    assert workers.totals["posted"] == 0
    assert workers.keys == {RECORD, OPEN}


async def test_a_submit_left_behind_is_not_in_doubt_before_its_timeout(workers: Workers) -> None:
    await workers.leave("begin", post_timeout_seconds=1000)
    with pytest.raises(WaitTimeoutError):
        await workers.submit(max_wait=0.3, times=AT_ONCE)
    assert workers.states == ["submitting"]


# -- conflicts that never end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_wait", [0, 600])
async def test_a_server_that_refuses_its_own_etags_ends_the_submit_with_an_error_that_says_so(
    workers: Workers, proxy: Proxy, max_wait: float
) -> None:
    await workers.submit()  # the probe is over
    await workers.change(lambda record: record.move("fail"))
    proxy.inject(NetworkFault(what="answer", status=412, matching=PUT_RECORD, times=FOR_EVER))
    proxy.seen.clear()
    clock = Clock()
    with pytest.raises(StorageError, match="refuses PutObject with If-Match and the ETag that it returned") as failed:
        await workers.submit(
            s3=through(proxy, workers.bucket), max_wait=max_wait, max_paid_attempts=2, clock=clock, sleep=clock.sleep
        )
    assert failed.value.credits_spent == "no"
    assert len(proxy.seen) < 30
    assert workers.totals["posted"] == 1


async def test_others_who_write_the_record_all_the_time_end_the_submit_at_its_deadline(
    workers: Workers, proxy: Proxy
) -> None:
    """The record moves between each read and the write after it."""
    await workers.leave("begin", post_timeout_seconds=0)
    writers = workers.bucket.client

    def moves(line: str) -> None:
        if line.startswith("PUT") and "record.json" in line:
            raw = json.loads(writers.get_object(Bucket=workers.bucket, Key=RECORD)["Body"].read())
            raw["write_id"] = secrets.token_hex(16)
            writers.put_object(Bucket=workers.bucket, Key=RECORD, Body=json.dumps(raw).encode())

    proxy.watch = moves
    clock = Clock()
    try:
        with pytest.raises(StorageError, match="another worker changed the record each time"):
            await workers.submit(
                s3=through(proxy, workers.bucket), times=AT_ONCE, max_wait=300, clock=clock, sleep=clock.sleep
            )
    finally:
        proxy.watch = None
    assert clock.now == pytest.approx(300, abs=5)
    assert len(proxy.seen) < 150
    assert workers.totals["posted"] == 0


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_a_cancellation_during_the_post_waits_for_the_answer_and_writes_it(workers: Workers) -> None:
    workers.loova.fail("slow_reply", delay_seconds=0.5)
    submitting = asyncio.create_task(workers.submit())
    await workers.until_posted()
    for _ in range(3):
        submitting.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert [attempt.task_id for attempt in workers.record.attempts] == workers.task_ids
    assert (await workers.submit()).reused
    assert workers.totals["posted"] == 1


async def test_a_timeout_of_prefects_kind_waits_for_the_answer_without_using_the_processor(workers: Workers) -> None:
    await workers.submit()  # what is loaded once is not what is measured
    workers.loova.fail("slow_reply", delay_seconds=2)
    started = time.process_time()
    async with workers.worker() as jobs:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.5):
                await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
    assert time.process_time() - started < 0.5
    assert (workers.totals["posted"], workers.totals["billed"]) == (2, 2)
    async with workers.worker() as jobs:
        assert (await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))).reused


async def test_a_cancellation_before_the_post_buys_nothing(workers: Workers, proxy: Proxy) -> None:
    proxy.inject(NetworkFault(what="delay", seconds=0.4, matching=PUT_RECORD))
    submitting = asyncio.create_task(workers.submit(s3=through(proxy, workers.bucket)))
    await until(lambda: record_writes(proxy) == 1)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert (workers.totals["posted"], workers.states) == (0, ["rejected"])
    assert not (await workers.submit()).reused
    assert workers.totals["posted"] == 1


# -- S3 after the purchase ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["S3 is gone", "S3 is read-only"])
async def test_if_s3_stays_down_after_the_purchase_error_and_log_tell_the_task_id(
    workers: Workers, proxy: Proxy, reads: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="prefect_loova")
    proxy.inject(NetworkFault(what="drop", at=1, times=FOR_EVER, matching=PUT_RECORD))
    if reads == "S3 is gone":
        proxy.inject(NetworkFault(what="drop", at=1, times=FOR_EVER, matching=r"^GET .*record\.json"))
    clock = Clock()
    with pytest.raises(StorageError) as failed:
        await workers.submit(s3=through(proxy, workers.bucket), clock=clock, sleep=clock.sleep)
    task_id = workers.task_ids[0]
    assert (failed.value.task_id, failed.value.credits_spent, failed.value.transient) == (task_id, "yes", False)
    assert f"adopt {task_id}" in str(failed.value)
    assert any(record.levelno >= logging.ERROR and f"adopt {task_id}" in record.message for record in caplog.records)
    for secret in (workers.loova.api_key, workers.bucket.limited_secret_key, "ignature="):
        assert secret not in caplog.text + str(failed.value) + repr(failed.value)
    assert workers.states == ["submitting"]
    with pytest.raises(InDoubtError):
        await workers.change(lambda record: record.move("begin", post_timeout_seconds=0))
        await workers.submit(times=AT_ONCE)
    await workers.decide("adopt", task_id)
    await workers.save(await workers.submit())
    assert workers.totals["posted"] == 1


async def test_if_s3_comes_back_after_the_purchase_the_task_id_is_written(workers: Workers, proxy: Proxy) -> None:
    proxy.inject(NetworkFault(what="drop", at=2, times=15, matching=PUT_RECORD))
    clock = Clock()
    submission = await workers.submit(s3=through(proxy, workers.bucket), clock=clock, sleep=clock.sleep)
    assert workers.record.current.task_id == submission.task_id == workers.task_ids[0]


# -- refusals ----------------------------------------------------------------------------------------------------------

INVALID = Fault(on="submit", apply=False, status=400, envelope={"message": "Invalid parameters", "data": None})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (INVALID, RejectedError),
        ("insufficient_credits", InsufficientCreditsError),
        ("insufficient_credits_as_success", InsufficientCreditsError),
        ("authentication_failed", AuthenticationError),
        ("submit_redirect", RejectedError),
    ],
)
async def test_a_refusal_buys_nothing_and_may_be_retried(
    workers: Workers, fault: str | Fault, error: type[LoovaError]
) -> None:
    workers.loova.fail(fault)
    with pytest.raises(error) as refused:
        await workers.submit()
    assert refused.value.credits_spent == "no"
    assert (workers.states, workers.keys) == (["rejected"], {RECORD})
    submission = await workers.submit()
    assert (submission.attempt, submission.reused) == (1, False)
    assert workers.record.current.refusals == 1
    assert workers.keys == {RECORD, OPEN}
    assert (workers.totals["posted"], workers.totals["billed"]) == (2, 1)


@pytest.mark.parametrize("fault", ["too_many_running_tasks", "too_many_running_tasks_as_success"])
async def test_a_submit_waits_for_a_free_slot_until_its_deadline(workers: Workers, fault: str) -> None:
    workers.loova.fail(fault, times=None)
    clock = Clock()
    with pytest.raises(TooManyRunningTasksError):
        await workers.submit(max_wait=600, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(600)
    assert workers.totals["billed"] == 0
    assert 10 <= workers.totals["posted"] <= 40
    assert (workers.states, workers.keys) == (["rejected"], {RECORD})
    assert workers.record.current.refusals == workers.totals["posted"]
    workers.loova.clear_faults()
    assert not (await workers.submit()).reused


async def test_a_submit_buys_when_a_slot_becomes_free(workers: Workers) -> None:
    workers.loova.fail("too_many_running_tasks", times=3)
    clock = Clock()
    submission = await workers.submit(max_wait=600, clock=clock, sleep=clock.sleep)
    assert (submission.attempt, workers.states) == (1, ["submitted"])
    assert (workers.totals["posted"], workers.totals["billed"]) == (4, 1)
    assert OPEN in workers.keys


async def test_a_submit_that_was_not_sent_may_be_retried(workers: Workers) -> None:
    with pytest.raises(LoovaError, match="could not connect") as failed:
        await workers.submit(base_url="http://127.0.0.1:9/api")
    assert failed.value.credits_spent == "no"
    assert (workers.states, workers.keys) == (["rejected"], {RECORD})
    await workers.submit()
    assert workers.totals["posted"] == 1


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
            if self.writes <= self._count:
                self.now += self._seconds


@pytest.mark.parametrize("which", ["clock", "wall"])
@pytest.mark.parametrize(("slow", "seconds", "written"), [(0, 9, 1), (1, 4, 1), (1, 9, 2), (7, 9, 8)])
async def test_a_submitting_that_is_no_longer_fresh_is_written_again_before_the_post(
    workers: Workers, which: str, slow: int, seconds: float, written: int
) -> None:
    s3 = workers.bucket.make_limited_client()
    clock = SlowWrites(s3, slow, seconds)
    await workers.submit(s3=s3, max_wait=1000, **{which: clock})
    assert clock.writes == written + 1
    assert workers.totals["posted"] == 1


@pytest.mark.parametrize("which", ["clock", "wall"])
async def test_an_s3_that_stays_slow_is_given_up_without_a_post(workers: Workers, which: str) -> None:
    s3 = workers.bucket.make_limited_client()
    clock = SlowWrites(s3, 8, 9)
    with pytest.raises(StorageError, match="too slow to submit safely") as failed:
        await workers.submit(s3=s3, max_wait=1000, **{which: clock})
    assert (failed.value.transient, failed.value.credits_spent) == (True, "no")
    assert (clock.writes, workers.totals["posted"], workers.states) == (8 + 1, 0, ["rejected"])
    await workers.submit()
    assert workers.totals["posted"] == 1


# -- what Loova sends is bounded ---------------------------------------------------------------------------------------


async def test_texts_of_megabytes_from_loova_leave_a_small_record(workers: Workers) -> None:
    long = "x" * 700_000
    workers.loova.fail(
        on="submit", envelope={"trace_id": long, "message": long, "data": {"status": long, "model": long}}
    )
    submission = await workers.submit()
    result = {"status": "failed", "error_message": long, "finished_at": long}
    workers.loova.fail(on="poll", envelope={"trace_id": long, "data": {"status": long, "result": result}}, times=None)
    with pytest.raises(TaskFailedError) as caught:
        await workers.wait(submission)
    assert len(str(caught.value)) < 2_000
    assert len(workers.bytes_of(RECORD)) < 10_000
    assert sum(len(workers.bytes_of(key)) for key in workers.keys) < 20_000


@pytest.mark.parametrize(
    "envelope",
    [{"code": 400, "message": "x" * 700_000, "data": None}, {"code": 200, "data": {"task_id": "t" * 700_000}}],
    ids=["a refusal", "a task id that is too long"],
)
async def test_texts_of_megabytes_in_a_refusal_or_a_doubt_leave_a_small_record(
    workers: Workers, envelope: dict[str, Any]
) -> None:
    workers.loova.fail(on="submit", apply=False, envelope=envelope | {"trace_id": "x" * 700_000})
    with pytest.raises((RejectedError, InDoubtError)):
        await workers.submit()
    assert len(workers.bytes_of(RECORD)) < 10_000
    if workers.states == ["in_doubt"]:
        assert "data.task_id: 'tttt" in (workers.record.current.reason or "")
        assert "700,000 characters, SHA-256" in (workers.record.current.reason or "")


async def test_deeply_nested_json_is_an_answer_like_any_other(workers: Workers) -> None:
    workers.loova.fail(on="submit", body='{"data":' + "[" * 200_000)
    with pytest.raises(InDoubtError):
        await workers.submit()
    assert (workers.states, workers.totals["posted"]) == (["in_doubt"], 1)


# -- a machine that sleeps between the record and the POST -------------------------------------------------------------


class Sleepy:
    """A wall clock; `asleep` is called at its second look after a write of the record, just before the body leaves."""

    def __init__(self, proxy: Proxy, asleep: Callable[[int], float]) -> None:
        self._proxy, self._asleep = proxy, asleep
        self._writes, self._slept = -1, 0.0

    def __call__(self) -> float:
        writes = record_writes(self._proxy)
        if writes == self._writes:
            self._slept += self._asleep(writes)
        self._writes = writes
        return time.time() + self._slept


async def test_a_machine_that_was_suspended_before_its_post_retries_and_buys_once(
    workers: Workers, proxy: Proxy
) -> None:
    wall = Sleepy(proxy, lambda writes: 86_400 if writes == 1 else 0)
    submission = await workers.submit(s3=through(proxy, workers.bucket), wall=wall)
    assert not submission.reused
    assert workers.states == ["submitted"]
    assert workers.record.current.refusals == 1
    assert workers.totals["billed"] == 1


async def test_a_video_that_a_person_bought_again_while_the_first_worker_was_suspended_is_bought_once(
    workers: Workers, proxy: Proxy
) -> None:
    async def meanwhile() -> None:
        with pytest.raises(InDoubtError):
            await workers.submit(times=AT_ONCE, max_wait=20)
        await workers.decide("submit-again", attempt=1)
        assert not (await workers.submit()).reused

    def asleep(writes: int) -> float:
        if writes == 1:
            other = threading.Thread(target=asyncio.run, args=(meanwhile(),))
            other.start()
            other.join()
        return 0

    submission = await workers.submit(s3=through(proxy, workers.bucket), submit_timeout=1, wall=Sleepy(proxy, asleep))
    assert (submission.attempt, submission.reused) == (2, True)
    assert workers.states == ["rejected", "submitted"]
    assert workers.totals["billed"] == 1


async def test_a_submit_that_is_never_sent_ends_at_its_deadline(workers: Workers, proxy: Proxy) -> None:
    clock = Clock()
    wall = Sleepy(proxy, lambda _: 86_400)
    with pytest.raises(SuspendedError, match="nothing was bought"):
        await workers.submit(
            s3=through(proxy, workers.bucket), max_wait=20, wall=wall, clock=clock, sleep=clock.sleep, times=JobTimes()
        )
    assert workers.totals["billed"] == 0
    assert workers.states == ["rejected"]
    assert 5 < len(clock.slept) < 15
    assert workers.keys == {RECORD}
