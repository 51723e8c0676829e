"""Job records on real S3 servers: compare-and-swap, lost responses, and checks before anything is paid."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from prefect_loova.client import LoovaClient
from prefect_loova.errors import InvalidRequestError, RecordMismatchError, StorageError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.calls import call_s3
from prefect_loova.store.prefix import validate_prefix
from prefect_loova.store.records import JobRecords, RecordConflictError
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket, S3Server, minimal_policy

ORIGIN = "https://api.loova.test"
REQUEST = VideoRequest(prompt="a record")
KEY = REQUEST.key
RECORD = f"loova/{KEY}/record.json"
OPEN = f"loova/_open/{KEY}"
PUT_RECORD = r"^PUT .*record\.json"
FOR_EVER = 10**6


async def quick(_: float) -> None:
    await asyncio.sleep(0)


def records_of(bucket: Bucket, s3: Any = None, origin: str = ORIGIN, **settings: Any) -> JobRecords:
    return JobRecords(s3 or bucket.limited_client, bucket, "loova", origin, **{"sleep": quick} | settings)


def claimed() -> JobRecord:
    return JobRecord.claimed(REQUEST, ORIGIN, {"host": "a test"})


def counted(record: JobRecord) -> JobRecord:
    """The record with one more refusal: a change that can be counted."""
    first = record.attempts[0]
    return record.model_copy(update={"attempts": (first.model_copy(update={"refusals": first.refusals + 1}),)})


def stored_json(bucket: Bucket, key: str = RECORD) -> Any:
    return json.loads(bucket.client.get_object(Bucket=bucket, Key=key)["Body"].read())


def keys(bucket: Bucket) -> set[str]:
    return {found["Key"] for found in bucket.client.list_objects_v2(Bucket=bucket).get("Contents", [])}


@cache
def through(proxy: Proxy, bucket: Bucket, tries: int = 1) -> Any:
    """A client under the minimal policy that sees the server through the proxy."""
    server = replace(bucket.server, endpoint_url=proxy.url)
    return server.client_of(*bucket.limited_keys, retries={"total_max_attempts": tries}, read_timeout=5)


@pytest.fixture(scope="module")
def fresh(s3_server: S3Server) -> Iterator[Bucket]:
    made = s3_server.make_bucket()
    yield made
    made.remove()


@pytest.fixture
def bucket(fresh: Bucket) -> Iterator[Bucket]:
    """One bucket for all tests, emptied after each: to make it, with its user and clients, takes half a second."""
    yield fresh
    for key in keys(fresh):
        fresh.client.delete_object(Bucket=fresh, Key=key)


@pytest.fixture
def new_bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """One that this process never probed."""
    made = s3_server.make_bucket()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(int(s3_server.endpoint_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.clear_faults()
    running_proxy.seen.clear()
    return running_proxy


@pytest.fixture(params=["limited_client", "client_as_on_aws"])
def records(bucket: Bucket, request: pytest.FixtureRequest) -> JobRecords:
    return records_of(bucket, getattr(bucket, request.param))


# -- compare and swap --------------------------------------------------------------------------------------------------


async def test_a_record_is_created_read_and_advanced(bucket: Bucket, records: JobRecords) -> None:
    assert await records.read(KEY) is None
    created = await records.create(claimed())
    read = await records.expect(KEY)
    assert (read.record, read.etag) == (created.record, created.etag)
    advanced = await records.advance(read, read.record.move("begin", post_timeout_seconds=60))
    read = await records.expect(KEY)
    assert (read.record, read.etag) == (advanced.record, advanced.etag)
    assert read.record.state == "submitting" == stored_json(bucket)["attempts"][0]["state"]
    assert created.record.write_id != advanced.record.write_id
    answer = bucket.client.get_object(Bucket=bucket, Key=RECORD)
    assert answer["ContentType"] == "application/json"


async def test_a_second_create_is_refused_and_changes_nothing(bucket: Bucket, records: JobRecords) -> None:
    first = await records.create(claimed())
    with pytest.raises(RecordConflictError):
        await records.create(claimed())
    assert stored_json(bucket)["write_id"] == first.record.write_id


async def test_an_advance_from_an_older_version_is_refused_and_changes_nothing(
    bucket: Bucket, records: JobRecords
) -> None:
    old = await records.create(claimed())
    new = await records.advance(old, counted(old.record))
    with pytest.raises(RecordConflictError):
        await records.advance(old, counted(old.record))
    assert stored_json(bucket)["write_id"] == new.record.write_id


async def test_an_advance_with_the_same_content_is_a_new_version(records: JobRecords) -> None:
    old = await records.create(claimed())
    await records.advance(old, old.record)
    with pytest.raises(RecordConflictError):
        await records.advance(old, old.record)


async def test_a_deleted_record_is_an_error_and_is_not_created_again(bucket: Bucket, records: JobRecords) -> None:
    old = await records.create(claimed())
    bucket.client.delete_object(Bucket=bucket, Key=RECORD)
    with pytest.raises(StorageError):
        await records.advance(old, counted(old.record))
    with pytest.raises(StorageError, match="missing or may not be read"):
        await records.change(KEY, counted)
    assert keys(bucket) == set()


def test_increments_by_eight_threads_and_two_processes_are_all_kept(bucket: Bucket) -> None:
    asyncio.run(records_of(bucket).create(claimed()))
    script = (
        "import asyncio, sys\n"
        "from tests.integration.test_records import increment\n"
        "increment(*sys.argv[1:5], int(sys.argv[5]))\n"
    )
    arguments = [bucket.endpoint_url, *bucket.limited_keys, str(bucket)]
    processes = [subprocess.Popen([sys.executable, "-c", script, *arguments, "5"]) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: increment(*arguments, 5), range(8)))
    assert [process.wait(60) for process in processes] == [0, 0]
    assert stored_json(bucket)["attempts"][0]["refusals"] == 10 * 5


def increment(endpoint_url: str, access_key: str, secret_key: str, bucket: str, times: int) -> None:
    from prefect_loova.simulator.s3 import s3_client

    async def work() -> None:
        records = JobRecords(s3_client(endpoint_url, access_key, secret_key), bucket, "loova", ORIGIN)
        for _ in range(times):
            await records.change(KEY, counted)

    asyncio.run(work())


# -- ETags in another form ---------------------------------------------------------------------------------------------


class Slept:
    """How long was slept, without sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __call__(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


async def test_etags_that_a_proxy_made_weak_are_compared_without_the_mark(bucket: Bucket, proxy: Proxy) -> None:
    proxy.inject(NetworkFault(what="weaken", when="after", times=FOR_EVER))
    records = records_of(bucket, through(proxy, bucket))
    stored = await records.create(claimed())
    stored = await records.advance(stored, counted(stored.record))
    stored = await records.advance(await records.expect(KEY), counted(stored.record))
    assert stored_json(bucket)["attempts"][0]["refusals"] == 2


@pytest.mark.parametrize("fault", ["refuses the right one", "gives another one each time"])
async def test_a_server_that_refuses_its_own_etag_is_named_after_few_requests(
    bucket: Bucket, proxy: Proxy, fault: str
) -> None:
    stored = await records_of(bucket).create(claimed())
    proxy.inject(
        NetworkFault(what="answer", status=412, matching=PUT_RECORD, times=FOR_EVER)
        if fault == "refuses the right one"
        else NetworkFault(what="wrong_etag", when="after", times=FOR_EVER)
    )
    slept = Slept()
    records = records_of(bucket, through(proxy, bucket), sleep=slept)
    with pytest.raises(StorageError, match="refuses PutObject with If-Match and the ETag that it returned") as failed:
        await records.change(KEY, counted)
    assert proxy.url in str(failed.value)
    assert len(proxy.seen) <= 15
    assert slept.seconds > 7
    assert stored_json(bucket)["write_id"] == stored.record.write_id


async def test_a_change_with_a_conflict_in_each_try_raises_an_error(bucket: Bucket) -> None:
    await records_of(bucket).create(claimed())
    other, slept = records_of(bucket), Slept()
    records = records_of(bucket, sleep=slept)

    def meanwhile(record: JobRecord) -> JobRecord:
        raw = stored_json(bucket) | {"write_id": secrets.token_hex(16)}
        bucket.client.put_object(Bucket=bucket, Key=RECORD, Body=json.dumps(raw).encode())
        return counted(record)

    with pytest.raises(StorageError, match="another worker changed the record each time"):
        await records.change(KEY, meanwhile)
    assert 20 < slept.seconds < 120
    assert (await other.expect(KEY)).record.attempts[0].refusals == 0


async def test_a_response_that_never_ends_times_out(bucket: Bucket, proxy: Proxy) -> None:
    s3, where = through(proxy, bucket), {"Bucket": bucket, "Key": RECORD}
    await call_s3(s3.put_object, **where, Body=b"{}")
    proxy.inject(NetworkFault(what="drip", status=200, times=FOR_EVER))
    body = (await call_s3(s3.get_object, **where))["Body"]
    started = asyncio.get_running_loop().time()
    for call in (partial(s3.put_object, **where, Body=b"{}"), body.read):
        with pytest.raises(ReadTimeoutError):
            await call_s3(call, seconds=1.5)
    assert asyncio.get_running_loop().time() - started < 6


# -- replies that are lost ---------------------------------------------------------------------------------------------

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation.</Message></Error>"
LOST = {
    "the request is lost": NetworkFault(what="drop", when="before"),
    "the request is reset": NetworkFault(what="reset", when="before"),
    "the reply is lost": NetworkFault(what="drop", when="after"),
    "the reply is reset": NetworkFault(what="reset", when="after"),
    "the reply is cut": NetworkFault(what="truncate", when="mid_reply"),
    "500 before": NetworkFault(what="answer", when="before", status=500),
    "500 after": NetworkFault(what="answer", when="after", status=500),
    "503 before": NetworkFault(what="answer", when="before", status=503, body=SLOW_DOWN),
    "503 after": NetworkFault(what="answer", when="after", status=503, body=SLOW_DOWN),
    "409 before": NetworkFault(what="answer", when="before", status=409, body=CONFLICT),
    "an answer that is no XML": NetworkFault(what="answer", when="after", status=500, body=b"<html>oops"),
}


@pytest.mark.parametrize("tries", [1, 3], ids=["boto3 tries once", "boto3 repeats by itself"])
@pytest.mark.parametrize("fault", LOST)
async def test_a_write_whose_outcome_is_unknown_is_applied_once(
    bucket: Bucket, proxy: Proxy, fault: str, tries: int
) -> None:
    records = records_of(bucket, through(proxy, bucket, tries))
    proxy.inject(replace(LOST[fault], matching=PUT_RECORD))
    created = await records.create(claimed())
    assert stored_json(bucket)["write_id"] == created.record.write_id
    proxy.inject(replace(LOST[fault], matching=PUT_RECORD))
    advanced = await records.advance(created, counted(created.record))
    assert stored_json(bucket)["write_id"] == advanced.record.write_id
    assert stored_json(bucket)["attempts"][0]["refusals"] == 1
    assert [seen.status for seen in proxy.seen if seen.method == "PUT"].count(200) == 2
    await records.advance(advanced, counted(advanced.record))


async def test_the_412_to_a_retry_by_boto3_is_not_a_refusal(bucket: Bucket, proxy: Proxy) -> None:
    records = records_of(bucket, through(proxy, bucket, 3))
    proxy.inject(NetworkFault(what="drop", when="after", matching=PUT_RECORD))
    await records.create(claimed())
    assert [(seen.method, seen.status) for seen in proxy.seen] == [("PUT", 200), ("PUT", 412), ("GET", 200)]


async def test_a_write_after_another_workers_write_is_refused(bucket: Bucket, proxy: Proxy) -> None:
    direct = records_of(bucket)
    old = await direct.create(claimed())

    async def somebody_writes(_: float) -> None:
        await direct.advance(old, counted(old.record))

    records = records_of(bucket, through(proxy, bucket), sleep=somebody_writes)
    proxy.inject(NetworkFault(what="drop", when="before", matching=PUT_RECORD))
    with pytest.raises(RecordConflictError):
        await records.advance(old, old.record.move("begin"))
    assert stored_json(bucket)["attempts"][0] == {**stored_json(bucket)["attempts"][0], "refusals": 1}
    assert (await direct.expect(KEY)).record.state == "claimed"


async def test_a_create_after_another_workers_create_is_refused(bucket: Bucket, proxy: Proxy) -> None:
    direct = records_of(bucket)

    async def somebody_writes(_: float) -> None:
        await direct.create(claimed())

    records = records_of(bucket, through(proxy, bucket), sleep=somebody_writes)
    proxy.inject(NetworkFault(what="drop", when="before", matching=PUT_RECORD))
    with pytest.raises(RecordConflictError):
        await records.create(claimed())


async def test_a_write_fails_after_its_tries_and_can_be_made_later(bucket: Bucket, proxy: Proxy) -> None:
    records = records_of(bucket, through(proxy, bucket))
    proxy.inject(NetworkFault(what="drop", times=FOR_EVER))
    with pytest.raises(StorageError, match="no response from S3") as failed:
        await records.create(claimed())
    assert failed.value.transient
    with pytest.raises(StorageError, match="no response from S3"):
        await records.read(KEY)
    proxy.clear_faults()
    await records.create(claimed())


async def test_a_read_is_retried(bucket: Bucket, proxy: Proxy) -> None:
    await records_of(bucket).create(claimed())
    proxy.inject(
        NetworkFault(what="drop"),
        NetworkFault(at=1, what="answer", status=503, body=SLOW_DOWN),
        NetworkFault(at=2, what="truncate", when="mid_reply"),
    )
    assert (await records_of(bucket, through(proxy, bucket)).expect(KEY)).record.state == "claimed"
    assert len(proxy.seen) == 4


# -- records that are not ours to change -------------------------------------------------------------------------------


def foreign(bucket: Bucket, **fields: Any) -> bytes:
    return json.dumps(json.loads(claimed().model_dump_json()) | fields).encode()


FOREIGN: dict[str, tuple[Callable[[Bucket], bytes], type[Exception], str]] = {
    "another API": (lambda b: foreign(b, api_origin="http://127.0.0.1:1"), RecordMismatchError, "was made for"),
    "a newer format": (lambda b: foreign(b, format=2, attempts="?"), RecordMismatchError, "format 2: upgrade"),
    "no JSON": (lambda _: b"\xff not JSON", StorageError, "not a job record"),
    "an empty object": (lambda _: b"", StorageError, "not a job record"),
    "a list": (lambda _: b"[1]", StorageError, "not a job record"),
    "another JSON": (lambda _: b'{"format": 1, "key": 5}', StorageError, "not a job record"),
    "another request's": (lambda b: foreign(b, key="0" * 64), StorageError, "not a job record"),
    "no attempts": (lambda b: foreign(b, attempts=[]), StorageError, "not a job record"),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_a_record_that_is_not_ours_is_refused_and_stays_as_it_is(
    bucket: Bucket, case: str, loova: LoovaSimulator
) -> None:
    content, error, message = FOREIGN[case]
    body = content(bucket).replace(ORIGIN.encode(), loova.origin.encode())
    bucket.client.put_object(Bucket=bucket, Key=RECORD, Body=body)
    records = records_of(bucket, origin=loova.origin)
    for call in (lambda: records.read(KEY), lambda: records.change(KEY, counted)):
        with pytest.raises(error, match=message) as refused:
            await call()
        assert RECORD in str(refused.value)
    with pytest.raises(StorageError, match=message):
        await submit(loova, bucket, bucket.limited_client)
    assert loova.ledger["totals"]["posted"] == 0
    assert bucket.client.get_object(Bucket=bucket, Key=RECORD)["Body"].read() == body


async def test_fields_of_a_later_version_survive_an_advance(bucket: Bucket) -> None:
    content = json.loads(claimed().model_dump_json())
    content["shelf"] = {"made": "later"}
    content["attempts"][0] |= {"colour": "blue", "saving": {"holder": "h", "seconds": 1, "via": "x"}}
    bucket.client.put_object(Bucket=bucket, Key=RECORD, Body=json.dumps(content).encode())
    await records_of(bucket).change(KEY, lambda record: record.move("begin", post_timeout_seconds=5))
    await records_of(bucket).change(KEY, lambda record: record.move("bought", task_id="t"))
    now = stored_json(bucket)
    assert now["shelf"] == {"made": "later"}
    assert now["attempts"][0]["colour"] == "blue"
    assert now["attempts"][0]["saving"]["via"] == "x"
    assert now["attempts"][0]["state"] == "submitted"


# -- the index of open jobs, and age -----------------------------------------------------------------------------------


async def test_the_index_holds_an_open_job_with_its_request(bucket: Bucket, records: JobRecords) -> None:
    await records.index(claimed())
    assert stored_json(bucket, OPEN) == {"key": KEY, "api_origin": ORIGIN, "request": REQUEST.as_stored()}
    await records.unindex(KEY)
    assert keys(bucket) == set()


async def test_removing_an_open_job_from_the_index_restores_its_entry(bucket: Bucket, records: JobRecords) -> None:
    stored = await records.create(claimed())
    await records.index(stored.record)
    await records.unindex(KEY)
    assert OPEN in keys(bucket)
    stored = await records.advance(stored, stored.record.move("begin").move("refused"))
    await records.unindex(KEY)
    assert OPEN not in keys(bucket)


async def test_an_entry_is_restored_even_if_the_response_to_its_deletion_is_lost(bucket: Bucket, proxy: Proxy) -> None:
    records = records_of(bucket, through(proxy, bucket, 1))
    await records.index((await records.create(claimed())).record)
    proxy.inject(NetworkFault(what="drop", when="after", matching="^DELETE"))
    with pytest.raises(StorageError, match="no response from S3"):
        await records.unindex(KEY)
    assert OPEN in keys(bucket)


async def test_age_is_counted_by_the_server(bucket: Bucket) -> None:
    await records_of(bucket).create(claimed())
    young = (await records_of(bucket).expect(KEY)).age
    await asyncio.sleep(2)
    old = (await records_of(bucket).expect(KEY)).age
    assert 0 <= young <= 2
    assert 1 <= old - young <= 4


# -- found out before anything is paid ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "rule"),
    [
        ("../up", r"\.\. segments"),
        ("a/../b", r"\.\. segments"),
        ("a/./b", r"\. or \.\. segments"),
        ("/absolute", "must not start with /"),
        ("a//b", "empty"),
        ("a/b//", "empty"),
        ("a\nb", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\u0085b", "control characters"),
        ("a\u202eb", "control characters"),
        ("a\ud800b", "control characters"),
        ("a\\b", "backslashes"),
        ("x" * 513, "longer than 512 bytes"),
        ("é" * 257, "longer than 512 bytes"),
    ],
)
def test_an_invalid_prefix_is_refused_with_the_rule(prefix: str, rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule) as refused:
        validate_prefix(prefix)
    assert str(refused.value).startswith("prefix: ")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(("prefix", "expected"), [("", ""), ("a", "a"), ("a/", "a"), ("a b/é=..x", "a b/é=..x")])
def test_a_valid_prefix_is_accepted(prefix: str, expected: str) -> None:
    assert validate_prefix(prefix) == expected


async def submit(loova: LoovaSimulator, bucket: str, s3: Any, prefix: str = "loova") -> Any:
    async with LoovaClient(loova.api_key, loova.base_url) as client:
        records = JobRecords(s3, bucket, prefix, client.origin, sleep=quick)
        return await submit_video(VideoJobs(client, records, sleep=quick), REQUEST, max_wait=0)


def without_conditions(bucket: Bucket, *headers: str) -> Any:
    """A client whose server does not see these conditions.

    Not a proxy that takes them off: they are signed, so both servers would answer 403. They go before the signature.
    """
    client = bucket.make_limited_client()

    def strip(params: dict[str, Any], **_: Any) -> None:
        for header in headers:
            params["headers"].pop(header, None)

    client.meta.events.register("before-call.s3.PutObject", strip)
    return client


def read_only(bucket: Bucket) -> Any:
    allowed = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"arn:aws:s3:::{bucket}/*"}
    return bucket.server.client_of(*bucket.server.add_user({"Version": "2012-10-17", "Statement": [allowed]}))


UNUSABLE: dict[str, tuple[Callable[[Bucket], tuple[str, Any]], str]] = {
    "a bucket that does not exist": (lambda b: ("loova-there-is-none", b.client), "the bucket does not exist"),
    "an unknown access key": (lambda b: (b, b.server.client_of("AKIANOBODY0000000000", "s")), "S3 denied access"),
    "a wrong secret key": (lambda b: (b, b.server.client_of(b.limited_access_key, "wrong")), "S3 denied access"),
    "a bucket that may not be written": (lambda b: (b, read_only(b)), "S3 denied access.*docs/bucket"),
    "no If-None-Match": (lambda b: (b, without_conditions(b, "If-None-Match")), "ignores IfNoneMatch"),
    "no If-Match": (lambda b: (b, without_conditions(b, "If-Match")), "ignores IfMatch"),
    "no conditions at all": (lambda b: (b, without_conditions(b, "If-Match", "If-None-Match")), "conditional writes"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_an_unusable_bucket_is_detected_before_the_submit(
    new_bucket: Bucket, loova: LoovaSimulator, case: str
) -> None:
    make, message = UNUSABLE[case]
    name, s3 = make(new_bucket)
    with pytest.raises(StorageError, match=message) as refused:
        await submit(loova, name, s3)
    assert name in str(refused.value)
    assert (refused.value.credits_spent, refused.value.transient) == ("no", False)
    assert loova.ledger["totals"]["posted"] == 0
    assert keys(new_bucket) == set()


PERMISSIONS = {
    "s3:PutObject": "S3 denied access.*PutObject at",
    "s3:GetObject": "S3 denied access.*GetObject at .*s3:GetObject, and kms:Decrypt",
    "s3:DeleteObject": "S3 denied access.*DeleteObject at .*s3:DeleteObject below _open/",
    "s3:AbortMultipartUpload": None,  # a warning: the video can be recorded and saved
}


def actions_of(statement: dict[str, Any]) -> list[str]:
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def test_every_permission_of_the_policy_that_may_not_be_left_out_is_in_the_table() -> None:
    statements = minimal_policy("bucket", "loova")["Statement"]
    assert sorted(action for one in statements for action in actions_of(one)) == sorted(PERMISSIONS)


@pytest.mark.parametrize("missing", PERMISSIONS)
async def test_a_missing_permission_is_detected_before_the_submit(
    new_bucket: Bucket, loova: LoovaSimulator, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = minimal_policy(new_bucket, "loova")
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in actions_of(statement) if action != missing]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    s3 = new_bucket.server.client_of(*new_bucket.server.add_user(policy))
    message = PERMISSIONS[missing]
    if message is None:
        await submit(loova, new_bucket, s3)
        # SeaweedFS lets whoever may write an upload abort it.
        assert ("s3:AbortMultipartUpload" in caplog.text) == (new_bucket.server.name == "moto")
        return
    with pytest.raises(StorageError, match=message) as refused:
        await submit(loova, new_bucket, s3)
    assert (refused.value.credits_spent, loova.ledger["totals"]["posted"]) == ("no", 0)
    assert len(keys(new_bucket)) == (missing == "s3:DeleteObject")


async def test_a_prefix_that_may_not_be_written_is_detected_before_the_submit(
    new_bucket: Bucket, loova: LoovaSimulator
) -> None:
    with pytest.raises(StorageError, match="S3 denied access"):
        await submit(loova, new_bucket, new_bucket.limited_client, prefix="elsewhere")
    assert loova.ledger["totals"]["posted"] == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (NetworkFault(what="drop", times=FOR_EVER), "no response from S3"),
        (NetworkFault(what="answer", status=503, body=SLOW_DOWN, times=FOR_EVER), "S3 responded with 503"),
        (
            NetworkFault(what="answer", status=501, matching="^PUT", times=FOR_EVER),
            "does not support .*conditional writes",
        ),
        (NetworkFault(what="drop", matching=f"^PUT .*{OPEN}", times=FOR_EVER), "no response from S3"),
        (
            NetworkFault(what="answer", status=200, matching=f"^PUT .*{OPEN}", times=FOR_EVER),
            "no ETag in S3's response",
        ),
        (NetworkFault(what="drop", matching=PUT_RECORD, times=FOR_EVER), "no response from S3"),
    ],
    ids=["no S3", "503 for ever", "501", "no index", "index kept by nobody", "no submitting"],
)
async def test_a_server_that_does_not_store_the_record_is_detected_before_the_submit(
    new_bucket: Bucket, proxy: Proxy, loova: LoovaSimulator, fault: NetworkFault, message: str
) -> None:
    proxy.inject(fault)
    with pytest.raises(StorageError, match=message):
        await submit(loova, new_bucket, through(proxy, new_bucket))
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_bucket_is_probed_once_in_a_process(new_bucket: Bucket, proxy: Proxy) -> None:
    records = records_of(new_bucket, through(proxy, new_bucket))
    await records.check_bucket()
    probes = len(proxy.seen)
    await records.check_bucket()
    assert len(proxy.seen) == probes == 9
