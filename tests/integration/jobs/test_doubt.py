"""A lost answer, and what a person decides: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_loova.errors import (
    AbandonedError,
    InDoubtError,
    InvalidRequestError,
    InvalidTransitionError,
    StorageError,
    TaskNotFoundError,
)
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.context import JobTimes
from prefect_loova.jobs.doubt import find_doubts, job_in_doubt
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import JobInDoubt
from tests.integration.jobs.workers import (
    AT_ONCE,
    KEY,
    OPEN,
    PATIENT,
    RECORD,
    REQUEST,
    TIMES,
    VIDEO,
    Workers,
    in_doubt,
    through,
    until,
)
from tests.support.proxy import Proxy


async def test_a_job_in_doubt_stays_in_doubt_on_asking_again(workers: Workers) -> None:
    await in_doubt(workers)
    for _ in range(2):
        with pytest.raises(InDoubtError):
            await workers.submit(times=AT_ONCE, max_paid_attempts=9)
    assert workers.totals["posted"] == 1
    assert OPEN in workers.keys


async def test_an_adopted_task_is_waited_for_and_saved(workers: Workers) -> None:
    await in_doubt(workers)
    record = await workers.decide("adopt", workers.task_ids[0])
    assert record.current.decision is not None
    assert record.current.decision.who == "a person"
    submission = await workers.submit()
    assert (submission.reused, submission.task_id) == (True, workers.task_ids[0])
    await workers.wait(submission)
    await workers.save(submission)
    assert workers.keys == {RECORD, VIDEO}
    assert workers.totals["posted"] == 1


async def test_to_submit_again_buys_one_more_attempt(workers: Workers) -> None:
    await in_doubt(workers)
    await workers.decide("submit-again")
    submission = await workers.submit(times=AT_ONCE)
    assert (submission.attempt, submission.reused, submission.task_id) == (2, False, workers.task_ids[1])
    assert (await workers.submit()).reused
    await workers.wait(submission)
    assert (await workers.save(submission)).video.endswith(VIDEO)
    assert workers.totals["posted"] == 2
    assert workers.keys == {RECORD, VIDEO}


async def test_to_give_up_ends_the_job_and_takes_it_out_of_the_index(workers: Workers) -> None:
    await in_doubt(workers)
    await workers.decide("give-up")
    assert workers.keys == {RECORD}
    with pytest.raises(AbandonedError, match="another take"):
        await workers.submit(times=AT_ONCE)
    assert workers.totals["posted"] == 1


async def test_only_a_job_in_doubt_is_decided(workers: Workers) -> None:
    await workers.submit()
    for what, task_id in (("adopt", "another"), ("submit-again", None), ("give-up", None)):
        with pytest.raises(InvalidTransitionError):
            await workers.decide(what, task_id)
    for what, task_id in (("adopt", None), ("give-up", "a-task")):
        with pytest.raises(InvalidRequestError, match="a task id goes with `adopt`"):
            await workers.decide(what, task_id)
    assert workers.states == ["submitted"]


async def test_a_decision_about_one_attempt_never_counts_for_a_later_one(workers: Workers) -> None:
    await in_doubt(workers)
    await workers.decide("submit-again", attempt=1)
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError, match="--attempt 2"):
        await workers.submit()
    for what, task_id in (("submit-again", None), ("give-up", None), ("adopt", workers.task_ids[0])):
        with pytest.raises(InvalidTransitionError, match="attempt 2 is in doubt, and attempt 1 was decided about"):
            await workers.decide(what, task_id, attempt=1)
    assert workers.states == ["in_doubt", "in_doubt"]
    assert (await workers.decide("adopt", workers.task_ids[1], attempt=2)).state == "submitted"
    assert workers.totals["posted"] == 2


@pytest.mark.parametrize("what", ["submit-again", "give-up"])
async def test_a_decision_is_refused_if_another_person_decided_about_its_attempt_meanwhile(
    workers: Workers, proxy: Proxy, what: str
) -> None:
    await in_doubt(workers)
    looks = 0
    is_late, was_decided = threading.Event(), threading.Event()

    def hold_second_look(line: str) -> None:
        nonlocal looks
        if line.startswith("GET ") and "record.json" in line:
            looks += 1
            if looks == 2:  # the decision was accepted at the first look, and is written over what this one shows
                is_late.set()
                was_decided.wait(30)

    proxy.watch = hold_second_look
    try:
        late = asyncio.create_task(workers.decide(what, attempt=1, s3=through(proxy, workers.bucket)))
        await until(is_late.is_set)
        await workers.decide("submit-again", attempt=1)
        workers.loova.fail("lost_reply")
        with pytest.raises(InDoubtError, match="--attempt 2"):
            await workers.submit()
        before = workers.record
        was_decided.set()
        with pytest.raises(InvalidTransitionError, match="attempt 2 is in doubt, and attempt 1 was decided about"):
            await late
    finally:
        was_decided.set()
        proxy.watch = None
    assert workers.record == before
    assert workers.states == ["in_doubt", "in_doubt"]


async def overdue(workers: Workers) -> None:
    """Another worker finds the POST overdue, while its answer is on its way."""
    await workers.until_posted()
    await workers.change(lambda record: record.move("begin", post_timeout_seconds=0))
    with pytest.raises(InDoubtError):
        await workers.submit(times=AT_ONCE)


async def test_a_late_answer_puts_its_task_into_a_job_in_doubt(workers: Workers) -> None:
    workers.loova.fail("slow_reply", delay_seconds=0.7)
    late = asyncio.create_task(workers.submit())
    await overdue(workers)
    assert workers.states == ["in_doubt"]
    submission = await late
    assert (submission.state, submission.task_id) == ("submitted", workers.task_ids[0])
    assert workers.states == ["submitted"]
    assert workers.totals["posted"] == 1


async def test_a_late_answer_wins_over_giving_up(workers: Workers) -> None:
    workers.loova.fail("slow_reply", delay_seconds=0.7)
    late = asyncio.create_task(workers.submit())
    await overdue(workers)
    await workers.decide("give-up")
    assert (await late).task_id == workers.task_ids[0]
    assert workers.states == ["submitted"]
    await workers.wait(await workers.submit())
    await workers.save(await workers.submit())


async def test_a_late_answer_after_giving_up_is_in_the_index_again_and_collected(workers: Workers) -> None:
    """The interleaving of docs/decisions/0018: giving up took the job out of the index, and the purchase came later."""
    workers.loova.fail("slow_reply", delay_seconds=0.7)
    late = asyncio.create_task(workers.submit())
    await overdue(workers)
    await workers.decide("give-up")
    assert OPEN not in workers.keys
    await late
    assert OPEN in workers.keys
    async with workers.worker(workers.bucket.client) as jobs:
        assert [saved.task_id for saved in (await collect(jobs)).saved] == workers.task_ids


async def test_a_late_answer_beside_a_second_purchase_is_kept_and_both_are_saved(workers: Workers) -> None:
    workers.loova.fail("slow_reply", delay_seconds=1)
    late = asyncio.create_task(workers.submit())
    await overdue(workers)
    await workers.decide("submit-again")
    second = await workers.submit(times=AT_ONCE)
    await late
    first_id, second_id = workers.task_ids
    assert [attempt.task_id for attempt in workers.record.attempts] == [first_id, second_id]
    first = second.model_copy(update={"attempt": 1, "task_id": first_id})
    saved = [await workers.save(submission) for submission in (second, first)]
    assert [one.video.rpartition("/")[2] for one in saved] == ["video.mp4", "video-attempt-1.mp4"]
    assert [one.sha256 for one in saved] == [workers.loova.sha256(second_id), workers.loova.sha256(first_id)]
    assert workers.states == ["saved", "saved"]
    assert OPEN not in workers.keys


async def test_a_second_task_never_replaces_the_video_of_the_first(workers: Workers) -> None:
    """The first is saved while it is the one that counts; then an answer names another task, which counts from now."""
    first = await workers.finished()
    saved = await workers.save(first)
    other = (await buy_beside(workers)).task_id
    await workers.change(lambda record: record.move("late_purchase", 1, task_id=other))
    second = await workers.submit()
    assert (second.attempt, second.task_id) == (2, other)
    again = await workers.save(second)
    assert again.video != saved.video
    assert workers.bytes_of() and (await workers.save(first)) == saved
    assert workers.states == ["saved", "saved"]
    assert (await workers.save(second)) == again


async def test_two_tasks_saved_at_once_do_not_disturb_each_other(workers: Workers) -> None:
    first = await workers.finished()
    other = (await buy_beside(workers)).task_id
    workers.loova.fail(on="video", task_id=first.task_id, delay_seconds=0.7)
    saving = asyncio.create_task(workers.save(first))
    await until(lambda: workers.record.attempts[0].saving is not None)
    await workers.change(lambda record: record.move("late_purchase", 1, task_id=other))
    second = await workers.save(await workers.submit())
    saved = await saving
    assert saved.video != second.video
    assert {RECORD, *(one.video.partition(f"{workers.bucket}/")[2] for one in (saved, second))} == workers.keys
    for one in (saved, second):
        assert one.sha256 == workers.loova.sha256(one.task_id)


async def buy_beside(workers: Workers) -> Any:
    async with workers.worker() as jobs:
        return await jobs.loova.submit_video(REQUEST)


async def test_an_answer_that_is_lost_after_a_decision_is_reported_for_its_attempt(workers: Workers) -> None:
    workers.loova.fail(on="submit", delay_seconds=1, drop=True)
    late = asyncio.create_task(workers.submit())
    await overdue(workers)
    await workers.decide("submit-again")
    with pytest.raises(InDoubtError) as told:
        await late
    assert told.value.attempt == 1
    assert workers.states == ["in_doubt", "claimed"]
    assert (await workers.submit(times=AT_ONCE)).attempt == 2


# -- what is known, and the list of those that wait for a person -------------------------------------------------------


async def doubt_about(workers: Workers, fault: str) -> InDoubtError:
    workers.loova.fail(fault)
    with pytest.raises(InDoubtError) as caught:
        await workers.submit()
    return caught.value


async def test_the_error_has_the_time_the_balance_and_the_commands(workers: Workers) -> None:
    error = await doubt_about(workers, "lost_reply")
    attempt = workers.record.current
    assert (attempt.credits_before, attempt.credits_after) == (10_000, 9_940)
    told = str(error)
    assert f"submitted at {attempt.times['submitting']:%Y-%m-%d %H:%M:%S} UTC" in told
    assert (
        "10,000 credits before the submit and 9,940 after it. The difference of 60 is the price of this video" in told
    )
    assert "so it was probably billed; other clients of the account spend too" in told
    place = f"--attempt 1 --bucket {workers.bucket} --prefix loova"
    for decision in ("adopt TASK_ID", "submit-again", "give-up"):
        assert f"prefect-loova resolve {KEY} {decision} {place}" in told
    assert (error.key, error.attempt) == (KEY, 1)


async def test_a_submit_that_was_not_billed_is_in_doubt_too(workers: Workers) -> None:
    assert "so it was probably not billed" in str(await doubt_about(workers, "lost_request"))
    assert workers.totals["billed"] == 0
    with pytest.raises(InDoubtError, match="so it was probably not billed"):
        await workers.submit()
    assert workers.totals["posted"] == 1


async def test_a_later_run_reports_the_balance_of_the_submit_and_of_now(workers: Workers) -> None:
    await doubt_about(workers, "lost_reply")
    async with workers.worker() as jobs:
        await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
    with pytest.raises(InDoubtError, match=r"9,940 after it.*it has 9,880 now"):
        await workers.submit()


@pytest.mark.parametrize(
    ("fault", "conclusion"),
    [
        ("lost_reply", "The difference of 60 is the price of this video, so it was probably billed"),
        ("lost_request", "Nothing was charged for this video by then, so it was probably not billed"),
    ],
)
async def test_the_list_subtracts_what_other_jobs_spent_between_the_balances(
    workers: Workers, fault: str, conclusion: str
) -> None:
    workers.loova.fail(on="credits", status=500, skip=1)  # so that the balance of now is the one after the submit
    await doubt_about(workers, fault)
    async with workers.worker(workers.bucket.client) as jobs:
        await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
        await submit_video(jobs, REQUEST.model_copy(update={"take": 2, "duration": 5}))
        (job,) = (await find_doubts(jobs)).in_doubt
    assert (job.other_jobs, job.other_credits) == (2, 135)
    assert "2 other tasks of these job records cost 135 of it." in job.evidence
    assert conclusion in job.evidence


async def test_without_the_right_to_list_other_jobs_are_not_counted(workers: Workers) -> None:
    await doubt_about(workers, "lost_reply")
    async with workers.worker() as jobs:
        job = await job_in_doubt(jobs, KEY)
    assert job.other_jobs is None
    assert "is the price of this video, so it was probably billed" in job.evidence


@pytest.mark.parametrize(
    ("after", "others", "evidence"),
    [
        (88, 0, "These job records have no other task of that time. The difference of 12 is not the price"),
        (100, 60, "The account has 60 more than these tasks leave, so the balance shows nothing"),
        (5_100, 0, "The account has 5,000 more than these tasks leave, so the balance shows nothing"),
    ],
)
def test_a_difference_that_fits_nothing_shows_nothing(after: float, others: float, evidence: str) -> None:
    job = JobInDoubt(
        key=KEY,
        attempt=1,
        record="s3://b/r",
        place="",
        prompt="p",
        model="m",
        submitted_at=datetime.now(UTC),
        credits_estimate=60,
        credits_before=100,
        credits_after=after,
        other_jobs=int(others > 0),
        other_credits=others,
    )
    assert evidence in job.evidence
    assert "probably" not in job.evidence


async def test_a_submit_does_not_need_the_balance(workers: Workers) -> None:
    workers.loova.fail(on="credits", status=500, times=None)
    assert "not both known" in str(await doubt_about(workers, "lost_reply"))
    workers.loova.clear_faults()
    await workers.decide("adopt", workers.task_ids[0])
    assert (await workers.submit()).state == "submitted"


async def listed(workers: Workers, times: JobTimes = TIMES) -> list[JobInDoubt]:
    async with workers.worker(s3=workers.bucket.client, times=times) as jobs:
        return (await find_doubts(jobs)).in_doubt


async def test_all_jobs_in_doubt_are_listed_and_no_other(workers: Workers) -> None:
    assert await listed(workers) == []
    await in_doubt(workers)
    async with workers.worker() as jobs:
        await submit_video(jobs, REQUEST.model_copy(update={"take": 1}))
    workers.bucket.client.put_object(Bucket=workers.bucket, Key="loova/_open/notes.txt", Body=b"somebody's")
    (job,) = await listed(workers)
    assert (job.key, job.attempt, job.prompt, job.credits_estimate) == (KEY, 1, "a job", 60)
    assert (job.credits_before, job.credits_after, job.credits_now) == (10_000, 9_940, 9_880)
    await workers.decide("give-up")
    assert await listed(workers) == []


async def test_a_submit_whose_worker_is_gone_is_listed_as_soon_as_it_is_overdue(workers: Workers) -> None:
    await workers.leave("begin", post_timeout_seconds=0)
    assert await listed(workers, PATIENT) == []
    assert workers.states == ["submitting"]
    (job,) = await listed(workers, AT_ONCE)
    assert "the worker that submitted it has died" in (job.reason or "")
    assert workers.states == ["in_doubt"]


async def test_a_submit_whose_worker_is_gone_is_decided_as_soon_as_it_is_overdue(workers: Workers) -> None:
    await workers.leave("begin", post_timeout_seconds=0)
    with pytest.raises(InvalidTransitionError, match="is submitting, not in doubt"):
        await workers.decide("give-up", times=PATIENT)
    assert (await workers.decide("give-up", times=AT_ONCE)).state == "abandoned"


async def test_another_apis_record_among_them_does_not_hide_the_rest(workers: Workers) -> None:
    await in_doubt(workers)
    other = REQUEST.model_copy(update={"take": 1})
    record = JobRecord.claimed(other, "https://another.test", {})
    workers.bucket.client.put_object(
        Bucket=workers.bucket, Key=f"loova/{other.key}/record.json", Body=record.model_dump_json().encode()
    )
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=f"loova/_open/{other.key}", Body=b"{}")
    assert [job.key for job in await listed(workers)] == [KEY]


async def test_where_listing_is_not_permitted_the_error_says_so_and_a_whole_key_works(workers: Workers) -> None:
    await in_doubt(workers)
    async with workers.worker() as jobs:
        with pytest.raises(StorageError, match="s3:ListBucket"):
            await find_doubts(jobs)
        assert (await job_in_doubt(jobs, KEY)).key == KEY


async def test_a_key_may_be_shortened_to_what_one_open_job_has(workers: Workers) -> None:
    await in_doubt(workers)
    async with workers.worker(s3=workers.bucket.client) as jobs:
        assert (await job_in_doubt(jobs, KEY[:8].upper())).key == KEY
        for beginning, says in (("x", "no open job begins so"), ("", "no open job begins so")):
            with pytest.raises(InvalidRequestError, match=says):
                await job_in_doubt(jobs, beginning)
        await jobs.records.index(
            JobRecord.claimed(REQUEST, jobs.loova.origin, {}).model_copy(update={"key": KEY[:8] + "0" * 56})
        )
        with pytest.raises(InvalidRequestError, match="2 open jobs begin so"):
            await job_in_doubt(jobs, KEY[:8])


async def test_a_task_that_loova_does_not_know_is_not_adopted(workers: Workers) -> None:
    await in_doubt(workers)
    with pytest.raises(TaskNotFoundError):
        await workers.decide("adopt", "sim_mistyped")
    assert workers.states == ["in_doubt"]
    await workers.decide("adopt", workers.task_ids[0])
    assert workers.states == ["submitted"]


async def test_a_task_that_the_job_has_already_is_not_adopted(workers: Workers) -> None:
    await in_doubt(workers)
    await workers.change(lambda record: record.move("late_purchase", task_id="sim_known"))
    with pytest.raises(InvalidRequestError, match="has that task already"):
        await workers.decide("adopt", "sim_known")
    assert workers.states == ["in_doubt", "submitted"]
