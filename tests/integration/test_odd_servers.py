"""S3 servers that differ from AWS, over the wire: a missing feature is detected and named before anything is paid.

`tests/support/odd_s3.py` behaves as their users and documentation say. None of the real ones could be reached.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import InDoubtError, StorageError, WaitTimeoutError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.age import ObjectAges
from prefect_loova.store.bucket_check import check_bucket
from prefect_loova.store.records import JobRecords
from tests.support.docs_blocks import GUIDES, example
from tests.support.logs import logged
from tests.support.odd_s3 import B2_400, GCS_403, R2_401, R2_501, SCALITY_400, STORJ_411, Odd, OddS3, without

REQUEST = VideoRequest(prompt="a server of its own kind", duration=4)
CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
NO_KMS = (403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:key")
DENIED = (403, "AccessDenied", "Access Denied")
LATER = (503, "SlowDown", "Please reduce your request rate.")
ONE_TRY = {"retries": {"total_max_attempts": 1}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddS3]:
    with OddS3(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def s3(running: OddS3) -> OddS3:
    running.odd = Odd()
    running.objects.clear()
    running.uploads.clear()
    running.asked.clear()
    return running


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(generation_seconds=0.1, short_side=64) as simulator:
        yield simulator


async def quick(_: float) -> None:
    await asyncio.sleep(0)


async def submitted(loova: LoovaSimulator, client: Any, bucket: str) -> Any:
    async with LoovaClient(loova.api_key, loova.base_url) as api:
        records = JobRecords(client, bucket, "loova", api.origin, sleep=quick)
        return await submit_video(VideoJobs(api, records, sleep=quick), REQUEST, max_wait=0)


@dataclass(frozen=True)
class Row:
    """An oddity, what the error says, and at which operation it is met."""

    odd: Odd
    says: str
    operation: str
    transient: bool = False
    requests: int = 12


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def words(refusal: tuple[int, str, str]) -> str:
    return re.escape(f"{refusal[1]}: {refusal[2]}")


TABLE = {
    "R2, 501 to trailers": Row(
        R2_501, f"{CHECKSUMS}.*STREAMING-UNSIGNED-PAYLOAD-TRAILER|TRAILER.*{CHECKSUMS}", "PutObject"
    ),
    "R2, 401 without a word of checksums": Row(R2_401, f"{CHECKSUMS}.*Unauthorized: Unauthorized", "PutObject"),
    "B2, 400 to checksum headers": Row(B2_400, f"Unsupported header 'x-amz-.*{CHECKSUMS}", "PutObject"),
    "Storj, 411 to a body without length": Row(STORJ_411, f"MissingContentLength: .*{CHECKSUMS}", "PutObject"),
    "Scality, 400 to trailers": Row(SCALITY_400, f"trailing checksum is not supported.*{CHECKSUMS}", "PutObject"),
    "Google, 403 to trailers": Row(GCS_403, f"{CHECKSUMS}.*SignatureDoesNotMatch: Invalid argument", "PutObject"),
    "a proxy that makes ETags weak": Row(
        Odd(etag="W/{}"), "refuses If-Match with the ETag that it returned.*W/.*proxy", "PutObject"
    ),
    "If-Match only unquoted": Row(
        Odd(unquoted=True), "refuses If-Match with the ETag that it returned.*unquoted", "PutObject"
    ),
    "If-None-Match ignored": Row(Odd(ignores=frozenset({"if-none-match"})), "ignores IfNoneMatch", "PutObject"),
    "If-Match ignored": Row(Odd(ignores=frozenset({"if-match"})), "ignores IfMatch", "PutObject"),
    "501 to If-None-Match": Row(
        Odd(refuses=lambda asked: (501, "NotImplemented", "A header is") if "if-none-match" in asked else None),
        "does not support this .501 NotImplemented: A header is.*conditional writes.*IfNoneMatch",
        "PutObject",
    ),
    "501 to If-Match": Row(
        Odd(refuses=lambda asked: (501, "NotImplemented", "A header is") if "if-match" in asked else None),
        "does not support this .501 NotImplemented: A header is.*conditional writes.*IfMatch",
        "PutObject",
    ),
    "may write, but not read": Row(without("GET", DENIED), f"{words(DENIED)}.*s3:GetObject", "GetObject"),
    "KMS without decrypt": Row(without("GET", NO_KMS), f"{words(NO_KMS)}.*kms:Decrypt", "GetObject"),
    "may not delete": Row(without("DELETE", DENIED), f"{words(DENIED)}.*s3:DeleteObject below _open/", "DeleteObject"),
    "no uploads in parts": Row(
        without("POST uploads", (501, "NotImplemented", "No multipart here")),
        "does not support this .501 NotImplemented: No multipart here",
        "CreateMultipartUpload",
    ),
    "503 for ever": Row(
        Odd(refuses=lambda _: LATER), f"S3 responded with 503 {words(LATER)}", "PutObject", transient=True
    ),
}


@pytest.mark.parametrize("name", TABLE)
async def test_a_missing_feature_is_named_with_the_servers_message_before_anything_is_paid(
    s3: OddS3, loova: LoovaSimulator, name: str
) -> None:
    row = TABLE[name]
    s3.odd = row.odd
    with pytest.raises(StorageError, match=row.says) as refused:
        await submitted(loova, s3.client(**ONE_TRY), f"bucket-{abs(hash(name))}")
    assert f"({row.operation} at {s3.host})" in refused.value.message
    assert (refused.value.credits_spent, refused.value.transient) == ("no", row.transient)
    assert loova.ledger["totals"]["posted"] == 0
    assert len(s3.asked) <= row.requests, s3.asked
    assert "AKIA" not in str(refused.value) and str(refused.value).isprintable()
    if name != "may not delete":
        assert not s3.objects, "the probe left its object behind"
    assert not s3.uploads


def test_501_is_blamed_on_conditional_writes_only_where_the_request_was_one(s3: OddS3) -> None:
    row = TABLE["no uploads in parts"]
    s3.odd = row.odd
    with pytest.raises(StorageError) as refused:
        asyncio.run(check_bucket(s3.client(**ONE_TRY), "blamed", "loova/_open/_probe"))
    assert "conditional" not in refused.value.message


@pytest.mark.parametrize(
    "odd", [R2_501, R2_401, B2_400, STORJ_411, SCALITY_400], ids=["501", "401", "B2", "411", "400"]
)
@pytest.mark.parametrize("video_bytes", [None, 9 * 1024**2], ids=["in one piece", "in parts"])
async def test_with_the_setting_that_the_error_names_a_video_is_bought_and_saved(
    s3: OddS3, odd: Odd, video_bytes: int | None
) -> None:
    s3.odd = odd
    client = s3.client(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    with LoovaSimulator(generation_seconds=0.1, short_side=64, video_bytes=video_bytes) as loova:
        async with LoovaClient(loova.api_key, loova.base_url) as api:
            jobs = VideoJobs(api, JobRecords(client, f"b-{video_bytes}-{id(odd)}", "loova", api.origin, sleep=quick))
            bought = await submit_video(jobs, REQUEST, max_wait=0)
            await wait_for_video(jobs, bought, max_wait=20, poll_seconds=0.05)
            saved, _ = await save_video(jobs, bought)
        assert saved.sha256 == loova.sha256(bought.task_id)
    assert s3.objects[f"loova/{REQUEST.key}/video.mp4"][0]
    assert (loova.ledger["totals"]["posted"], s3.uploads) == (1, {})


async def test_both_ways_of_the_guide_to_turn_off_checksums_work(s3: OddS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.odd = B2_400
    settings = example("bucket.md")["parameters"].get_params_override()["config"]
    names = ("request_checksum_calculation", "response_checksum_validation")
    await check_bucket(s3.client(**{name: getattr(settings, name) for name in names}), "by-the-block", "probes")
    for name, value in re.findall(r"export (\w+)=(\w+)", GUIDES["bucket.md"]):
        monkeypatch.setenv(name, value)
    await check_bucket(s3.client(), "by-the-environment", "probes")
    assert len(s3.asked) == 18


async def test_a_server_that_refuses_the_checksum_mode_of_a_read_is_detected_by_the_probe(s3: OddS3) -> None:
    s3.odd = B2_400
    with pytest.raises(StorageError, match=rf"x-amz-checksum-mode.*{CHECKSUMS}.*AWS_RESPONSE_CHECKSUM_VAL") as refused:
        await check_bucket(s3.client(request_checksum_calculation="when_required", **ONE_TRY), "half-set", "probes")
    assert f"(GetObject at {s3.host})" in refused.value.message


async def test_a_refusal_of_checksums_is_also_named_without_a_probe(s3: OddS3) -> None:
    records = JobRecords(s3.client(**ONE_TRY), "no-probe", "loova", "https://api.loova.test", sleep=quick)
    s3.odd = B2_400
    with pytest.raises(StorageError, match=CHECKSUMS) as refused:
        await records.put_json("loova/x", {})
    assert f"(PutObject at {s3.host})" in refused.value.message


async def test_a_missing_permission_to_abort_uploads_is_only_a_warning(
    s3: OddS3, caplog: pytest.LogCaptureFixture
) -> None:
    s3.odd = without("DELETE uploadId", DENIED)
    await check_bucket(s3.client(**ONE_TRY), "no-abort", "loova/_open/_probe")
    assert "s3:AbortMultipartUpload" in caplog.text
    assert not s3.objects


async def test_a_silent_server_is_an_error_in_time_that_names_operation_and_host(
    s3: OddS3, loova: LoovaSimulator
) -> None:
    s3.odd = Odd(silent=True)
    started = time.monotonic()
    # With boto3's own timeouts and repeats: some five minutes.
    with pytest.raises(StorageError, match="no response from S3 within 15 s") as late:
        await submitted(loova, s3.client(), "silent")
    assert time.monotonic() - started < 17
    assert f"(PutObject at {s3.host})" in late.value.message
    assert (late.value.credits_spent, late.value.transient) == ("no", True)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_port_where_nobody_listens_is_an_error_in_time_that_names_operation_and_host(tmp_path: Path) -> None:
    with OddS3() as gone:
        client, host = gone.client(), gone.host
    started = time.monotonic()
    with pytest.raises(StorageError, match="no response from S3") as late:
        await check_bucket(client, "gone", "loova/_open/_probe", response_seconds=3)
    assert time.monotonic() - started < 5
    assert f"(PutObject at {host})" in late.value.message


async def test_a_failed_probe_is_repeated_by_the_next_submit(s3: OddS3) -> None:
    client = s3.client(**ONE_TRY)
    s3.odd = without("GET", DENIED)
    for _ in range(2):
        with pytest.raises(StorageError, match="Access Denied"):
            await check_bucket(client, "mended", "loova/_open/_probe")
    s3.odd = Odd()
    await check_bucket(client, "mended", "loova/_open/_probe")
    asked = len(s3.asked)
    await check_bucket(client, "mended", "loova/_open/_probe")
    assert len(s3.asked) == asked


async def test_submits_of_a_process_share_one_probe_and_processes_use_different_keys(s3: OddS3) -> None:
    client = s3.client(**ONE_TRY)
    await asyncio.gather(*(check_bucket(client, "shared", "loova/_open/_probe") for _ in range(50)))
    names = {asked.split()[-1] for asked in s3.asked}
    assert (len(s3.asked), len(names)) == (9, 1)
    s3.asked.clear()
    await asyncio.gather(*(check_bucket(client, f"bucket-{n}", "loova/_open/_probe") for n in range(5)))
    assert len({asked.split()[-1] for asked in s3.asked}) == 5


async def test_a_cancelled_submit_leaves_no_object_of_the_probe(s3: OddS3) -> None:
    client = s3.client(**ONE_TRY)
    asking = asyncio.create_task(check_bucket(client, "cancelled", "loova/_open/_probe"))
    while not s3.asked:
        await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    until = time.monotonic() + 10
    while s3.objects or "DELETE" not in s3.asked[-1]:
        assert time.monotonic() < until, s3.asked
        await asyncio.sleep(0.01)


# -- how old a job is ---------------------------------------------------------------------------------------------

NO_USABLE_DATE = {
    "no Date": Odd(date=None),
    "a Date that is none": Odd(date="soon"),
    "a Date that stands still": Odd(date="Thu, 01 Jan 1970 00:00:00 GMT"),
    "no Last-Modified": Odd(tells_when=False),
    "neither": Odd(date=None, tells_when=False),
}


@pytest.mark.parametrize("name", NO_USABLE_DATE)
async def test_without_a_usable_date_a_dead_workers_claim_is_taken_over_in_time_but_not_earlier(
    s3: OddS3, loova: LoovaSimulator, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    s3.odd = NO_USABLE_DATE[name]
    clock = Clock()
    async with LoovaClient(loova.api_key, loova.base_url) as api:
        records = JobRecords(s3.client(), f"ageless-{abs(hash(name))}", "loova", api.origin, ages=ObjectAges(clock))
        jobs = VideoJobs(api, records, sleep=clock.sleep, clock=clock)
        await records.create(JobRecord.claimed(REQUEST, api.origin, {"host": "a dead one"}))
        with pytest.raises(WaitTimeoutError):
            await submit_video(jobs, REQUEST, max_wait=25)
        assert (loova.ledger["totals"]["posted"], clock.now) == (0, 25)
        assert not (await submit_video(jobs, REQUEST, max_wait=25)).reused
    assert (loova.ledger["totals"]["posted"], clock.now) == (1, pytest.approx(31, abs=2))
    is_told = name != "a Date that stands still"  # it can be read, and is merely never later
    assert ("no usable" in caplog.text) == is_told
    assert sum("no usable" in record.getMessage() for record in logged(caplog)) <= 1


async def test_without_a_usable_date_an_overdue_submit_is_in_doubt_and_never_sent_again(
    s3: OddS3, loova: LoovaSimulator
) -> None:
    s3.odd = Odd(date=None)
    clock = Clock()
    async with LoovaClient(loova.api_key, loova.base_url) as api:
        records = JobRecords(s3.client(), "ageless", "loova", api.origin, ages=ObjectAges(clock))
        jobs = VideoJobs(api, records, sleep=clock.sleep, clock=clock)
        stored = await records.create(JobRecord.claimed(REQUEST, api.origin, {"host": "a dead one"}))
        await records.advance(stored, stored.record.move("begin", post_timeout_seconds=60))
        with pytest.raises(InDoubtError):
            await submit_video(jobs, REQUEST, max_wait=200)
    assert loova.ledger["totals"]["posted"] == 0
    assert clock.now == pytest.approx(91, abs=2)


async def test_each_version_of_a_record_has_its_own_age(s3: OddS3) -> None:
    s3.odd = Odd(date=None)
    clock = Clock()
    records = JobRecords(s3.client(), "versions", "loova", "https://api.loova.test", ages=ObjectAges(clock))
    stored = await records.create(JobRecord.claimed(REQUEST, records.api_origin, {}))
    assert (await records.expect(REQUEST.key)).age == 0
    clock.now = 40
    assert (await records.expect(REQUEST.key)).age == 40
    await records.advance(stored, stored.record)
    assert (await records.expect(REQUEST.key)).age == 0
