"""Find out, before anything is paid, whether a bucket can carry job records and videos: once in a process.

One small object with a name of its own, `{prefix}/_open/_probe/{random}`, goes through all that a job needs of S3. It
lies below `_open/` because the least policy (docs/iam-policy.json) allows to delete there, and a job needs just that.

It runs in a daemon thread: boto3 may wait for minutes for a server that does not answer, and nobody waits for that
thread, neither the caller nor the end of the process.
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

from prefect_loova._timing import Clock, backoff
from prefect_loova.errors import StorageError, redact
from prefect_loova.store.errors import CHECKSUM_HELP, S3_ERRORS, endpoint_of, operation_of, storage_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ANSWER_SECONDS = 15.0
"""How long S3 may take to answer one request of the probe, boto3's repeats included."""

_TRIES = 2
_MAY_NOT_READ = "what was just written may not be read. Reading needs s3:GetObject, and kms:Decrypt of a KMS key"
_LET_GO_SECONDS = 2.0
"""How long the end of a process waits for a probe to clear away its object."""

_Known = tuple[str, str, str]
_probes: dict[_Known, Probe] = {}
_turn = threading.Lock()

log = logging.getLogger(__name__)


async def check_bucket(s3: S3Client, bucket: str, folder: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
    """Refuse a bucket that cannot carry job records and videos. It is asked once in a process.

    Args:
        s3: A boto3 S3 client.
        bucket: The bucket's name.
        folder: The S3 key below which the probe's object is written.
        answer_seconds: How long S3 may take to answer one request.

    Raises:
        StorageError: Says what the bucket or the server lacks, before anything is spent.
    """
    known = _known(s3, bucket, folder)
    with _turn:
        probe = _probes.get(known)
        if probe is None:
            probe = _probes[known] = Probe(s3, bucket, f"{folder}/{secrets.token_hex(8)}")
            probe.start()
    try:
        await probe.passed(answer_seconds)
    except StorageError:
        with _turn:
            if _probes.get(known) is probe:
                del _probes[known]
        raise


def mark_checked(s3: Any, bucket: str, folder: str) -> None:
    """Take a bucket for one that was checked: for a model of S3 that has nothing to find out."""
    _probes[_known(s3, bucket, folder)] = done = Probe(s3, bucket, folder)
    done.result.set_result(None)


def _known(s3: Any, bucket: str, folder: str) -> _Known:
    return s3.meta.endpoint_url, bucket, folder


class Probe:
    """All that a job needs of S3, done with one small object.

    Args:
        s3: A boto3 S3 client.
        bucket: The bucket's name.
        key: The S3 key of the object; nobody else uses it.
        sleep: How to wait between two tries, in seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        s3: S3Client,
        bucket: str,
        key: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        self.result: Future[None] = Future()
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._sleep = sleep
        self._clock = clock
        self._operation = "PutObject"
        self._asked = clock()
        self._may_be_there = False
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="loova-probe", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self.result.set_running_or_notify_cancel()
        atexit.register(self._thread.join, _LET_GO_SECONDS)
        self._thread.start()

    async def passed(self, answer_seconds: float) -> None:
        """Wait until all is done.

        Raises:
            StorageError: Something is missing, or S3 does not answer.
        """
        done = asyncio.wrap_future(self.result)
        try:
            while not self.result.done():
                left = answer_seconds - (self._clock() - self._asked)
                if left <= 0:
                    self._is_given_up = True
                    raise self._error(f"no answer from S3 within {answer_seconds:g} s", transient=True)
                await asyncio.wait({done}, timeout=left)
        finally:
            # The thread goes on; only this loop, which may be closed by then, hears of it no more.
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
        """Do all of it, in this thread.

        Raises:
            StorageError: Says what is missing.
        """
        try:
            self._check_records()
            self._check_parts()
            self._may_be_there = False
            with _explained({401, 403}, "closing a job needs s3:DeleteObject below _open/"):
                self._ask("delete_object")
        finally:
            if self._may_be_there:
                with suppress(StorageError):
                    self._ask("delete_object")

    def _check_records(self) -> None:
        """A record is created, read, advanced from what a read and from what a write showed, and never overwritten."""
        self._create(b"1")
        content, first = self._read()
        if content != b"1":
            raise self._error("S3 gives back other bytes than were written", transient=True)
        second = self._advance(b"2", first)
        self._advance(b"3", second)
        self._must_be_refused(b"4", IfMatch=first)
        self._must_be_refused(b"5", IfNoneMatch="*")

    def _check_parts(self) -> None:
        """A video of some size is written in parts, and given up in the middle where it is not whole."""
        upload = self._ask("create_multipart_upload").get("UploadId")
        if not upload:
            raise self._error("S3's answer names no upload", transient=True)
        try:
            self._ask("abort_multipart_upload", UploadId=upload)
        except StorageError as error:
            if error.http_status != 404:  # to boto3's own repeat, when the first reply was lost
                log.warning(
                    "an upload cannot be aborted, so what a broken one leaves behind stays and costs money: %s. Allow "
                    "s3:AbortMultipartUpload, or have a lifecycle rule abort incomplete uploads",
                    error.message,
                )

    def _create(self, body: bytes) -> None:
        self._may_be_there = True
        try:
            self._write(body, IfNoneMatch="*")
        except StorageError as refused:
            if refused.http_status == 412:  # to boto3's own repeat, when the first reply was lost: the name is new
                return
            if not refused.transient and refused.http_status is not None:
                self._may_be_there = self._takes_it_without_checksums(body)
                if self._may_be_there and CHECKSUM_HELP not in refused.message:
                    raise self._error(f"{CHECKSUM_HELP}. Its answer was: {refused.message}") from None
            raise

    def _takes_it_without_checksums(self, body: bytes) -> bool:
        """Whether what was refused is taken without the checksum that boto3 sends by default."""
        with _without_checksums(self._s3, self._key), suppress(StorageError):
            self._write(body, IfNoneMatch="*")
            return True
        return False

    def _read(self) -> tuple[bytes, str]:
        def read(**place: Any) -> tuple[bytes, str]:
            answer = self._s3.get_object(**place)
            return answer["Body"].read(), answer.get("ETag", "")

        with _explained({401, 403}, _MAY_NOT_READ):
            content, etag = self._ask("get_object", call=read)
        if not etag:
            raise self._error("no ETag in S3's answer", transient=True)
        return content, etag

    def _advance(self, body: bytes, etag: str) -> str:
        """Write with the right ETag; returns the next one."""
        try:
            return self._write(body, IfMatch=etag)
        except StorageError as refused:
            if refused.http_status != 412:
                raise
        content, now = self._read()
        if content == body:
            return now  # the reply was lost, and the 412 is that to boto3's own repeat
        self._operation = "PutObject"
        raise self._error(
            f"the S3 server refuses If-Match with the very ETag that it gave, {redact(etag, 80)}, as one that takes it "
            "only unquoted does, or one behind a proxy that makes ETags weak (W/). Paying once rests on conditional "
            "writes, so nothing is submitted with it"
        )

    def _must_be_refused(self, body: bytes, **condition: str) -> None:
        try:
            self._write(body, **condition)
        except StorageError as refused:
            if refused.http_status != 412:
                raise
        else:
            raise self._error(
                f"the S3 server ignores {next(iter(condition))} on PutObject: paying once rests on conditional "
                "writes, so nothing is submitted with it"
            )

    def _write(self, body: bytes, **condition: Any) -> str:
        why = f"paying once rests on conditional writes, and this one had {next(iter(condition))}"
        with _explained({405, 501}, why):
            answer = self._ask("put_object", Body=body, **condition)
        if not answer.get("ETag"):
            raise self._error("no ETag in S3's answer", transient=True)
        return str(answer["ETag"])

    def _ask(self, method: str, call: Callable[..., Any] | None = None, **arguments: Any) -> Any:
        """One step; what may be over in a moment is tried twice."""
        self._operation = operation_of(method)
        self._asked = self._clock()
        for attempt in range(_TRIES):
            try:
                return (call or getattr(self._s3, method))(Bucket=self._bucket, Key=self._key, **arguments)
            except S3_ERRORS as error:
                failure = storage_error(error, self._uri, self._s3, self._operation)
                if not failure.transient or attempt + 1 == _TRIES or self._is_given_up:
                    raise failure from None
                self._sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def _error(self, problem: str, transient: bool = False) -> StorageError:
        where = endpoint_of(None, self._s3, self._operation)
        return StorageError(f"{self._uri}: {problem}{where}", transient=transient)

    @property
    def _uri(self) -> str:
        return f"s3://{self._bucket}/{self._key}"


@contextmanager
def _explained(statuses: set[int], why: str) -> Iterator[None]:
    """What a refusal with one of these statuses means here."""
    try:
        yield
    except StorageError as error:
        if error.http_status not in statuses:
            raise
        raise StorageError(f"{error.message}: {why}", http_status=error.http_status) from None


@contextmanager
def _without_checksums(s3: S3Client, key: str) -> Iterator[None]:
    """Write one key without the checksum that boto3 sends by default, and leave all else that the client does."""

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
