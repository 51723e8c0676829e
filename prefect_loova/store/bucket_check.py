"""Probe, before anything is paid, whether a bucket can store job records and videos. Once per process and bucket.

The probe runs each S3 operation of a job on one small object, `{prefix}/_open/_probe/{random}`. The object is below
`_open/` because the least policy (docs/iam-policy.json) allows to delete there, and a job needs the same permission.

The probe runs in a daemon thread, because boto3 may wait for minutes for a server that does not respond. Neither the
caller nor the end of the process waits that long.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from prefect_loova._timing import backoff
from prefect_loova.errors import StorageError, redact
from prefect_loova.store.errors import CHECKSUM_HELP, S3_ERRORS, endpoint_of, operation_of, storage_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RESPONSE_SECONDS = 15.0
"""The timeout of one request of the probe in seconds, including boto3's retries."""

_TRIES = 2
_EXIT_SECONDS = 2.0
"""The seconds that the end of a process waits for a probe to delete its object."""

_BucketId = tuple[str, str, str]
_probes: dict[_BucketId, _Probe] = {}
_lock = threading.Lock()

log = logging.getLogger(__name__)


async def check_bucket(s3: S3Client, bucket: str, folder: str, *, response_seconds: float = RESPONSE_SECONDS) -> None:
    """Raise if a bucket cannot store job records and videos. A bucket that passed is not probed again.

    Args:
        s3: A boto3 S3 client.
        bucket: The name of the bucket.
        folder: The S3 key of the folder for the probe's object.
        response_seconds: The timeout of one request in seconds.

    Raises:
        StorageError: Names what the bucket or the server lacks, before anything is spent.
    """
    probe = start_check(s3, bucket, folder)
    try:
        await probe.wait(response_seconds)
    except StorageError:
        with _lock:
            if _probes.get(probe.bucket_id) is probe:
                del _probes[probe.bucket_id]
        raise


def start_check(s3: S3Client, bucket: str, folder: str) -> _Probe:
    """Start the probe of a bucket, or return the one that was started. `check_bucket` waits for it."""
    bucket_id = _bucket_id(s3, bucket, folder)
    with _lock:
        probe = _probes.get(bucket_id)
        if probe is None:
            probe = _probes[bucket_id] = _Probe(s3, bucket, f"{folder}/{secrets.token_hex(8)}", bucket_id)
            probe.start()
    return probe


def mark_checked(s3: Any, bucket: str, folder: str) -> None:
    """Mark a bucket as checked without a probe, for a model of S3 in tests."""
    bucket_id = _bucket_id(s3, bucket, folder)
    _probes[bucket_id] = probe = _Probe(s3, bucket, folder, bucket_id)
    probe.result.set_result(None)


def _bucket_id(s3: Any, bucket: str, folder: str) -> _BucketId:
    return s3.meta.endpoint_url, bucket, folder


class _Probe:
    """Runs each S3 operation of a job on one small object, whose key nobody else uses."""

    def __init__(self, s3: S3Client, bucket: str, key: str, bucket_id: _BucketId) -> None:
        self.result: Future[None] = Future()
        self.bucket_id = bucket_id
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._uri = f"s3://{bucket}/{key}"
        self._operation = "PutObject"
        self._requested = time.monotonic()
        self._may_exist = False
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="loova-probe", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.result.set_running_or_notify_cancel()
        atexit.register(self._thread.join, _EXIT_SECONDS)
        self._thread.start()

    async def wait(self, response_seconds: float) -> None:
        """Wait for the result. Raise `StorageError` if the probe failed, or if S3 does not respond."""
        done = asyncio.wrap_future(self.result)
        try:
            while not self.result.done():
                left = response_seconds - (time.monotonic() - self._requested)
                if left <= 0:
                    self._is_given_up = True
                    raise self._error(f"no response from S3 within {response_seconds:g} s", transient=True)
                await asyncio.wait({done}, timeout=left)
        finally:
            # The thread continues, but must not notify this event loop, which may be closed by then.
            if not done.cancel():
                done.exception()
        self.result.result()

    def _run(self) -> None:
        try:
            self.check()
        except BaseException as error:
            self.result.set_exception(error)
        else:
            self.result.set_result(None)
        atexit.unregister(self._thread.join)

    def check(self) -> None:
        """Run all steps in the current thread. Raise `StorageError`, which names what is missing."""
        try:
            self._check_records()
            self._check_parts()
            self._may_exist = False
            with _explain({401, 403}, "closing a job needs s3:DeleteObject below _open/"):
                self._call("delete_object")
        finally:
            if self._may_exist:
                with suppress(StorageError):
                    self._call("delete_object")

    def _check_records(self) -> None:
        """Create, read and advance a record, with the ETag of a read and of a write, and try writes that must fail."""
        self._create(b"1")
        content, first = self._read()
        if content != b"1":
            raise self._error("S3 returned other bytes than were written", transient=True)
        second = self._advance(b"2", first)
        self._advance(b"3", second)
        self._expect_refusal(b"4", IfMatch=first)
        self._expect_refusal(b"5", IfNoneMatch="*")

    def _check_parts(self) -> None:
        """Create and abort a multipart upload, as for a large video and for a broken one."""
        upload = self._call("create_multipart_upload").get("UploadId")
        if not upload:
            raise self._error("S3's response has no upload id", transient=True)
        try:
            self._call("abort_multipart_upload", UploadId=upload)
        except StorageError as error:
            if error.http_status != 404:  # a retry by boto3 gets 404 if the first response was lost
                log.warning(
                    "an upload cannot be aborted, so the parts of a broken upload stay and cost money: %s. Allow "
                    "s3:AbortMultipartUpload, or add a lifecycle rule that aborts incomplete uploads",
                    error.message,
                )

    def _create(self, body: bytes) -> None:
        self._may_exist = True
        try:
            self._write(body, IfNoneMatch="*")
        except StorageError as refused:
            if refused.http_status == 412:  # a retry by boto3 gets 412 if the first response was lost: the key is new
                return
            if not refused.transient and refused.http_status is not None:
                self._may_exist = self._accepts_without_checksum(body)
                if self._may_exist and CHECKSUM_HELP not in refused.message:
                    raise self._error(f"{CHECKSUM_HELP}. The server's error: {refused.message}") from None
            raise

    def _accepts_without_checksum(self, body: bytes) -> bool:
        """Repeat a refused write without the checksum that boto3 sends by default, and return whether it succeeds."""
        with _without_checksums(self._s3, self._key), suppress(StorageError):
            self._write(body, IfNoneMatch="*")
            return True
        return False

    def _read(self) -> tuple[bytes, str]:
        def read(**target: Any) -> tuple[bytes, str]:
            response = self._s3.get_object(**target)
            return response["Body"].read(), response.get("ETag", "")

        why = "the probe may not read its own object. Reading needs s3:GetObject, and kms:Decrypt for a KMS key"
        with _explain({401, 403}, why):
            content, etag = self._call("get_object", function=read)
        if not etag:
            raise self._error("no ETag in S3's response", transient=True)
        return content, etag

    def _advance(self, body: bytes, etag: str) -> str:
        """Write with the right ETag and return the next one."""
        try:
            return self._write(body, IfMatch=etag)
        except StorageError as refused:
            if refused.http_status != 412:
                raise
        content, next_etag = self._read()
        if content == body:
            return next_etag  # the first response was lost, and boto3's retry got the 412
        self._operation = "PutObject"
        raise self._error(
            f"the S3 server refuses If-Match with the ETag that it returned, {redact(etag, 80)}. It may accept ETags "
            "only unquoted, or a proxy may make them weak (W/). Paying once needs conditional writes, so nothing is "
            "submitted"
        )

    def _expect_refusal(self, body: bytes, **condition: str) -> None:
        try:
            self._write(body, **condition)
        except StorageError as refused:
            if refused.http_status != 412:
                raise
        else:
            raise self._error(
                f"the S3 server ignores {next(iter(condition))} on PutObject. Paying once needs conditional writes, so "
                "nothing is submitted"
            )

    def _write(self, body: bytes, **condition: Any) -> str:
        why = f"paying once needs conditional writes, and this one had {next(iter(condition))}"
        with _explain({405, 501}, why):
            response = self._call("put_object", Body=body, **condition)
        if not response.get("ETag"):
            raise self._error("no ETag in S3's response", transient=True)
        return str(response["ETag"])

    def _call(self, method: str, function: Callable[..., Any] | None = None, **arguments: Any) -> Any:
        """Call S3, and once more after a transient error."""
        self._operation = operation_of(method)
        self._requested = time.monotonic()
        for attempt in range(_TRIES):
            try:
                return (function or getattr(self._s3, method))(Bucket=self._bucket, Key=self._key, **arguments)
            except S3_ERRORS as error:
                failure = storage_error(error, self._uri, self._s3, self._operation)
                if not failure.transient or attempt + 1 == _TRIES or self._is_given_up:
                    raise failure from None
                time.sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def _error(self, problem: str, transient: bool = False) -> StorageError:
        where = endpoint_of(None, self._s3, self._operation)
        return StorageError(f"{self._uri}: {problem}{where}", transient=transient)


@contextmanager
def _explain(statuses: set[int], why: str) -> Iterator[None]:
    """Append an explanation to an error with one of these HTTP statuses."""
    try:
        yield
    except StorageError as error:
        if error.http_status not in statuses:
            raise
        raise StorageError(f"{error.message}: {why}", http_status=error.http_status) from None


@contextmanager
def _without_checksums(s3: S3Client, key: str) -> Iterator[None]:
    """Let the client write one key without boto3's default checksum. Other calls of the client do not change."""

    def plain(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        if params.get("Key") == key:
            config = copy.copy(context["client_config"])
            config.request_checksum_calculation = "when_required"
            context["client_config"] = config

    s3.meta.events.register("before-parameter-build.s3.PutObject", plain)
    try:
        yield
    finally:
        s3.meta.events.unregister("before-parameter-build.s3.PutObject", plain)
