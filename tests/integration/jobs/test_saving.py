"""Saved whole, once, under a lease: on real S3 servers against a simulated Loova."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_loova.errors import (
    IncompleteVideoError,
    LoovaError,
    StorageError,
    TaskNotFoundError,
    TransferError,
    VideoUrlRefusedError,
    WaitTimeoutError,
)
from prefect_loova.models.attempts import Lease
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.results import Submission
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import (
    FOR_EVER,
    KEY,
    MIB,
    OPEN,
    PATIENT,
    PUT_RECORD,
    RECORD,
    REQUEST,
    VIDEO,
    Workers,
    through,
    until,
)
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket
from tests.support.video_host import Reply, VideoHost, long_video, rendered


async def test_a_saved_video_is_whole_and_says_where_it_is_from(workers: Workers) -> None:
    submission = await workers.finished()
    saved = await workers.save(submission)
    content = workers.bytes_of()
    assert (saved.size_bytes, saved.sha256) == (len(content), workers.loova.sha256(submission.task_id))
    assert (saved.task_id, saved.record, saved.video) == (
        submission.task_id,
        f"s3://{workers.bucket}/{RECORD}",
        f"s3://{workers.bucket}/{VIDEO}",
    )
    head = workers.bucket.client.head_object(Bucket=workers.bucket, Key=VIDEO)
    assert head["ContentType"] == "video/mp4"
    told = {"task-id": submission.task_id, "request-key": KEY, "model": REQUEST.model}
    assert {name: head["Metadata"][name] for name in told} == told
    video = workers.record.current.video
    assert video is not None
    assert (video.object_key, video.size_bytes, video.sha256) == (VIDEO, saved.size_bytes, saved.sha256)
    assert workers.record.current.saving is None
    assert (workers.states, workers.keys) == (["saved"], {RECORD, VIDEO})
    assert workers.totals["video_requests_with_key"] == 0
    requests = workers.totals["video_requests"]
    assert await workers.save(submission) == saved
    assert (await workers.submit()).state == "saved"
    assert workers.totals["video_requests"] == requests


async def test_saving_also_records_the_end_of_the_task(workers: Workers) -> None:
    await workers.save(await workers.submit())
    assert list(workers.record.current.times) == ["claimed", "submitting", "submitted", "succeeded", "saved"]


async def test_upload_options_are_passed_on(workers: Workers) -> None:
    options = {"StorageClass": "STANDARD_IA", "Metadata": {"team": "films"}, "CacheControl": "no-cache"}
    await workers.save(await workers.finished(), upload_options=options)
    head = workers.bucket.client.head_object(Bucket=workers.bucket, Key=VIDEO)
    assert (head["StorageClass"], head["CacheControl"], head["ContentType"]) == ("STANDARD_IA", "no-cache", "video/mp4")
    assert (head["Metadata"]["team"], head["Metadata"]["request-key"]) == ("films", KEY)


@pytest.mark.parametrize("fault", ["video_403", "video_404"])
async def test_loova_is_asked_once_more_for_an_expired_url(workers: Workers, fault: str) -> None:
    submission = await workers.finished()
    polls = workers.totals["polls"]
    workers.loova.fail(fault)
    await workers.save(submission)
    assert workers.totals["polls"] == polls + 2


async def test_a_job_that_is_taken_out_of_the_index_just_before_its_claim_is_in_it_again(
    workers: Workers,
) -> None:
    """The interleaving of docs/decisions/0002: the other one looked before the claim, so it does not restore it."""
    await workers.leave("begin", "refused")
    s3 = workers.bucket.make_limited_client()
    taken_out = []

    def take_out(model: Any, params: dict[str, Any], **_: Any) -> None:
        if params["url_path"].endswith("record.json") and not taken_out:
            taken_out.append(workers.bucket.client.delete_object(Bucket=workers.bucket, Key=OPEN))

    s3.meta.events.register("before-call.s3.PutObject", take_out)
    submission = await workers.submit(s3=s3)
    assert taken_out
    assert (submission.state, OPEN in workers.keys) == ("submitted", True)


async def test_a_url_that_expires_at_once_is_refused_after_two_tries(bucket: Bucket) -> None:
    with LoovaSimulator(generation_seconds=0, short_side=64, url_lifetime=-10) as loova:
        workers = Workers(bucket, loova)
        submission = await workers.finished()
        polls = workers.totals["polls"]
        with pytest.raises(VideoUrlRefusedError) as refused:
            await workers.save(submission)
        assert "signature=" not in str(refused.value)
        assert workers.totals["polls"] == polls + 2


UNCHECKED = f"loova/{KEY}/video.unchecked"
KEPT = {"short", "no moov"}
"""What arrives whole, as far as its host says, and is no whole mp4."""

BAD_VIDEOS: dict[str, tuple[dict[str, Any], type[LoovaError]]] = {
    "404 for ever": ({"fault": "video_404", "times": None}, VideoUrlRefusedError),
    "403 for ever": ({"fault": "video_403", "times": None}, VideoUrlRefusedError),
    "500 for ever": ({"fault": "video_500", "times": None}, TransferError),
    "HTML": ({"fault": "video_html", "times": None}, IncompleteVideoError),
    "empty": ({"fault": "video_empty", "times": None}, IncompleteVideoError),
    "short": ({"fault": "video_short", "times": None}, IncompleteVideoError),
    "cut": ({"fault": "video_cut", "cut_at": 100, "times": None}, TransferError),
    "lost": ({"fault": "video_lost", "times": None}, TransferError),
    "no moov": ({"fault": "video_without_moov", "times": None}, IncompleteVideoError),
    "redirects": ({"fault": "redirect_for_ever"}, VideoUrlRefusedError),
}


def assert_lease_is_over(workers: Workers) -> None:
    lease = workers.record.current.saving
    assert lease is None or lease.seconds == 0


async def assert_unsaved_and_then_saved(
    workers: Workers, submission: Submission, error: type[LoovaError], kept: bool = False, **how: Any
) -> None:
    with pytest.raises(error) as failed:
        await workers.save(submission, **how)
    assert (failed.value.task_id, failed.value.credits_spent) == (submission.task_id, "yes")
    assert "signature=" not in str(failed.value)
    left = {RECORD, OPEN, UNCHECKED} if kept else {RECORD, OPEN}
    assert (workers.states, workers.keys, workers.uploads) == (["succeeded"], left, [])
    assert_lease_is_over(workers)
    workers.loova.clear_faults()
    saved = await workers.save(submission)
    assert saved.sha256 == workers.loova.sha256(submission.task_id)
    assert workers.totals["posted"] == 1


@pytest.mark.parametrize("case", BAD_VIDEOS)
async def test_a_bad_video_leaves_no_object_and_may_be_saved_later(workers: Workers, case: str) -> None:
    fields, error = BAD_VIDEOS[case]
    submission = await workers.finished()
    workers.loova.fail(**fields)
    await assert_unsaved_and_then_saved(workers, submission, error, kept=case in KEPT)


async def test_a_video_over_the_bound_leaves_no_object(workers: Workers) -> None:
    await assert_unsaved_and_then_saved(workers, await workers.finished(), IncompleteVideoError, max_bytes=1000)


async def test_a_save_ends_after_max_seconds_and_leaves_no_object(workers: Workers) -> None:
    submission = await workers.finished()
    workers.loova.fail(on="video", delay_seconds=3, times=None)
    await assert_unsaved_and_then_saved(workers, submission, TransferError, max_seconds=0.5)


@pytest.fixture
def large(bucket: Bucket) -> Iterator[Workers]:
    with LoovaSimulator(generation_seconds=0, short_side=64, video_bytes=12 * MIB) as loova:
        yield Workers(bucket, loova)


async def test_a_large_video_that_breaks_off_leaves_no_upload(large: Workers) -> None:
    submission = await large.finished()
    large.loova.fail("video_without_moov", times=None)
    await assert_unsaved_and_then_saved(large, submission, IncompleteVideoError, kept=True)


WEBM = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm" + bytes(range(256)) * 9


@pytest.mark.parametrize("size", [None, 12 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("chunked", [False, True], ids=["of known length", "chunked"])
async def test_content_that_is_not_an_mp4_is_kept_unchecked_and_never_counts_as_the_video(
    bucket: Bucket, size: int | None, chunked: bool
) -> None:
    content = WEBM + random.Random(3).randbytes(size) if size else WEBM
    async with VideoHost(Reply(content, chunked=chunked)) as host:
        with LoovaSimulator(generation_seconds=0, short_side=64, video_origin=host.url("")) as loova:
            workers = Workers(bucket, loova)
            submission = await workers.finished()
            for number in range(2):
                with pytest.raises(IncompleteVideoError, match="not a whole mp4") as caught:
                    await workers.save(submission)
                assert f"is kept, unchecked, at s3://{bucket}/{UNCHECKED} ({len(content)} bytes)" in str(caught.value)
                assert len(host.asked) == 2 + number  # kept once
            attempt = workers.record.current
            assert (attempt.state, attempt.video, workers.keys) == ("succeeded", None, {RECORD, OPEN, UNCHECKED})
            assert attempt.unchecked is not None
            assert (attempt.unchecked.object_key, attempt.unchecked.size_bytes) == (UNCHECKED, len(content))
            assert attempt.unchecked.sha256 == hashlib.sha256(content).hexdigest()
            assert (workers.bytes_of(UNCHECKED), workers.uploads) == (content, [])
            head = bucket.client.head_object(Bucket=bucket, Key=UNCHECKED)
            assert head["ContentType"] == "application/octet-stream"
            host.replies = [Reply(rendered())]
            saved = await workers.save(submission)
            assert workers.bytes_of() == rendered() and saved.size_bytes == len(rendered())


async def test_a_page_or_an_empty_answer_is_not_kept(workers: Workers) -> None:
    for fault in ("video_html", "video_empty"):
        submission = await workers.finished()
        workers.loova.fail(fault, times=None)
        with pytest.raises(IncompleteVideoError) as caught:
            await workers.save(submission)
        assert "unchecked" not in str(caught.value) and workers.keys == {RECORD, OPEN}
        workers.loova.clear_faults()


@pytest.mark.parametrize("chunked", [False, True], ids=["of known length", "chunked"])
async def test_a_video_over_the_bound_is_asked_for_once_and_again_only_under_a_larger_bound(
    bucket: Bucket, chunked: bool
) -> None:
    async with VideoHost(Reply(long_video(MIB), chunked=chunked)) as host:
        with LoovaSimulator(generation_seconds=0, short_side=64, video_origin=host.url("")) as loova:
            workers = Workers(bucket, loova)
            submission = await workers.finished()
            for max_bytes in (MIB // 2, MIB // 2, 1000):
                with pytest.raises(IncompleteVideoError, match=f"larger than the bound of {max_bytes} bytes") as caught:
                    await workers.save(submission, max_bytes=max_bytes)
                assert caught.value.task_id == submission.task_id
            assert len(host.asked) == 1
            assert (await workers.save(submission, max_bytes=MIB)).size_bytes == MIB


async def test_a_cancelled_save_leaves_no_upload_and_no_lease(large: Workers, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.inject(NetworkFault(what="delay", matching="^PUT .*partNumber", seconds=0.5, times=9))
    saving = asyncio.create_task(large.save(submission, s3=through(proxy, large.bucket), times=PATIENT))
    await until(lambda: large.uploads)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert (large.uploads, large.keys) == ([], {RECORD, OPEN})
    assert_lease_is_over(large)
    await large.save(submission, times=PATIENT)


async def test_an_upload_that_could_not_be_aborted_is_aborted_by_the_next_worker(large: Workers, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.inject(
        NetworkFault(what="answer", status=400, matching="^PUT .*partNumber", times=9),
        NetworkFault(what="answer", status=500, matching="^DELETE .*uploadId", times=9),
    )
    with pytest.raises(StorageError):
        await large.save(submission, s3=through(proxy, large.bucket), times=PATIENT)
    assert len(large.uploads) == 1
    await large.save(submission, times=PATIENT)
    assert (large.uploads, large.keys) == ([], {RECORD, VIDEO})


async def test_two_workers_that_save_at_once_make_one_upload(workers: Workers) -> None:
    submission = await workers.finished()
    workers.loova.fail(on="video", delay_seconds=0.5)
    savers = [workers.save(submission, max_wait=10, sleep=asyncio.sleep, times=PATIENT) for _ in range(2)]
    saved = await asyncio.gather(*savers)
    assert saved[0] == saved[1]
    assert workers.totals["video_requests"] == 1


async def leftover(workers: Workers, seconds: float) -> str:
    """An upload in parts and its lease, as a collector that died leaves them."""
    begun = workers.bucket.limited_client.create_multipart_upload(Bucket=workers.bucket, Key=VIDEO)["UploadId"]
    workers.bucket.limited_client.upload_part(
        Bucket=workers.bucket, Key=VIDEO, UploadId=begun, PartNumber=1, Body=b"x" * 5 * MIB
    )
    lease = Lease(holder="a dead one", seconds=seconds, upload_id=begun)
    await workers.change(lambda record: record.move("lease", saving=lease))
    return begun


async def test_a_lease_that_ran_out_is_taken_over_and_its_upload_aborted(large: Workers) -> None:
    submission = await large.finished()
    await leftover(large, seconds=1)
    saved = await large.save(submission, max_wait=10, sleep=asyncio.sleep)
    assert large.uploads == []
    assert saved.sha256 == large.loova.sha256(submission.task_id)
    assert large.keys == {RECORD, VIDEO}


async def test_a_lease_that_runs_is_respected(workers: Workers) -> None:
    submission = await workers.finished()
    upload = await leftover(workers, seconds=1000)
    with pytest.raises(WaitTimeoutError, match="another worker is still saving") as timeout:
        await workers.save(submission, max_wait=0.2, sleep=asyncio.sleep)
    assert (timeout.value.task_id, timeout.value.credits_spent) == (submission.task_id, "yes")
    assert (workers.uploads, workers.states) == ([upload], ["succeeded"])
    assert workers.totals["video_requests"] == 0


async def test_a_worker_that_lost_its_lease_does_not_abort_or_overwrite_the_other(large: Workers, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.inject(NetworkFault(what="delay", matching="^PUT .*partNumber", seconds=1.5))
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


async def test_a_lease_is_renewed_while_all_parts_are_stuck_on_a_slow_s3(large: Workers, proxy: Proxy) -> None:
    submission = await large.finished()
    proxy.inject(NetworkFault(what="delay", matching="^PUT .*partNumber", seconds=3.5, times=9))
    slow = asyncio.create_task(large.save(submission, s3=through(proxy, large.bucket)))
    await until(lambda: (saving := large.record.current.saving) and saving.upload_id)
    holder = large.record.current.saving
    assert holder is not None
    others = 0
    while not slow.done():
        if large.record.current.state == "succeeded":
            with contextlib.suppress(WaitTimeoutError):
                await large.save(submission)
            others += 1
            saving = large.record.current.saving
            assert saving is None or saving.holder == holder.holder
        await asyncio.sleep(0.3)
    assert (await slow).sha256 == large.loova.sha256(submission.task_id)
    assert others > 5 and large.totals["video_requests"] == 1 and large.uploads == []


async def test_a_saver_whose_lease_is_lost_stops_at_once(workers: Workers) -> None:
    submission = await workers.finished()
    workers.loova.fail(on="video", delay_seconds=20, times=None)
    slow = asyncio.create_task(workers.save(submission))
    await until(lambda: workers.record.current.saving)
    await workers.change(lambda record: record.move("lease", saving=Lease(holder="another", seconds=1000)))
    async with asyncio.timeout(5):
        with pytest.raises(TransferError, match="another worker took over"):
            await slow


async def test_a_saver_that_lost_its_lease_before_its_last_answer_does_not_record_its_video(
    workers: Workers, proxy: Proxy
) -> None:
    """Its successor may have replaced the object meanwhile: the record would have a wrong checksum."""
    submission = await workers.finished()
    proxy.inject(NetworkFault(what="delay", when="after", matching=r"^PUT .*video\.mp4", seconds=1.5))
    slow = asyncio.create_task(workers.save(submission, s3=through(proxy, workers.bucket), times=PATIENT))
    await until(lambda: VIDEO in workers.keys)
    await workers.change(lambda record: record.move("lease", saving=Lease(holder="another", seconds=1000)))
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=VIDEO, Body=b"the successor's")
    with pytest.raises(TransferError, match="another worker took over"):
        await slow
    saving = workers.record.current.saving
    assert saving is not None and saving.holder == "another"
    assert (workers.states, workers.bytes_of()) == (["succeeded"], b"the successor's")


@pytest.mark.parametrize("held", [b"", b"somebody's own object"], ids=["an empty object", "another object"])
async def test_an_object_that_no_record_names_is_replaced(workers: Workers, held: bytes) -> None:
    """A worker that died between its last request and the record left it there, or a person."""
    submission = await workers.finished()
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=VIDEO, Body=held)
    saved = await workers.save(submission)
    assert saved.sha256 == workers.loova.sha256(submission.task_id)
    assert workers.bytes_of() != held and len(workers.bytes_of()) == saved.size_bytes


async def test_uploads_that_may_not_be_aborted_do_not_keep_a_video_out_of_the_bucket(
    large: Workers, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    submission = await large.finished()
    left = await leftover(large, seconds=0)
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.inject(NetworkFault(what="answer", status=403, matching="^DELETE .*uploadId", body=body, times=FOR_EVER))
    saved = await large.save(submission, s3=through(proxy, large.bucket), times=PATIENT)
    assert saved.sha256 == large.loova.sha256(submission.task_id)
    assert large.uploads == [left] and "s3:AbortMultipartUpload" in caplog.text


async def test_a_deleted_video_is_indexed_before_its_record_says_that_it_is_to_be_saved_again(
    workers: Workers, proxy: Proxy
) -> None:
    submission = await workers.finished()
    await workers.save(submission)
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key=VIDEO)
    proxy.inject(NetworkFault(what="drop", when="after", times=FOR_EVER, matching=PUT_RECORD))
    proxy.inject(NetworkFault(what="drop", at=1, times=FOR_EVER, matching=r"^GET .*record\.json"))
    with pytest.raises(StorageError):  # as good as a crash: this worker learns nothing of its write
        await workers.save(submission, s3=through(proxy, workers.bucket))
    assert workers.states == ["succeeded"]
    assert OPEN in workers.keys


async def test_a_saved_video_that_was_deleted_is_downloaded_again_and_not_bought(workers: Workers) -> None:
    submission = await workers.finished()
    saved = await workers.save(submission)
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key=VIDEO)
    again = await workers.save(await workers.submit())
    assert again.times["saved"] > saved.times["saved"]
    assert again == saved.model_copy(update={"reused": True, "times": again.times})
    assert workers.keys == {RECORD, VIDEO}
    assert workers.totals["posted"] == 1


async def test_if_loova_forgot_a_deleted_video_it_is_reported_and_not_bought(workers: Workers) -> None:
    submission = await workers.finished()
    await workers.save(submission)
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key=VIDEO)
    workers.loova.fail("task_forgotten", times=None)
    with pytest.raises(TaskNotFoundError) as gone:
        await workers.save(submission)
    assert (gone.value.task_id, gone.value.credits_spent) == (submission.task_id, "yes")
    assert workers.states == ["succeeded"]
    assert (await workers.submit(max_paid_attempts=9)).reused
    assert workers.totals["posted"] == 1
