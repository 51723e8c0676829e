"""One object written to S3 from front to back, in a few buffers of memory, and there whole or not at all (boto3)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_threads
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ReadTimeoutError

from prefect_loova._cancellation import run_uncancelled
from prefect_loova._timing import backoff
from prefect_loova.errors import StorageError
from prefect_loova.store.calls import CALL_SECONDS, THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, code_of, endpoint_of
from prefect_loova.transfer.stale_uploads import ABORT_SECONDS, ALWAYS_EVEN_ABORT, abort, abort_uploads, failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

MAX_PARTS = 10_000
"""The most parts that S3 allows in one upload."""

IN_FLIGHT = 3
"""How many parts are sent at a time; one more is filled meanwhile."""

CLOSE_SECONDS = 10.0
"""How long parts on their way are awaited before their upload is aborted."""

SEND_SECONDS = 600.0
"""How long one part, or the request that makes the object appear, may take, in seconds."""

SETTLE_TRIES = 5
"""How often S3 is asked whether an upload whose outcome is unknown was completed."""

COMMIT_TRIES = 4
"""How often the last request is sent where S3 refuses it because of an object that is there, or of a race."""

_SMALL = frozenset({"create_multipart_upload", "head_object"})
_ALWAYS = ALWAYS_EVEN_ABORT | {"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5"}
_UNKNOWN_PARAMETER = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
_CONDITION_FAILED = frozenset({409, 412})


@dataclass(frozen=True)
class Target:
    """Where a video goes.

    Args:
        bucket: The bucket's name.
        key: The object's key.
        metadata: The object's metadata, in ASCII.
        options: boto3's `ExtraArgs` of an upload: SSE-KMS, tags, storage class.
    """

    bucket: str
    key: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Upload:
    """One object that is written to S3 from front to back: in one piece if it fits into a part, else in parts.

    `commit` is the only way by which it appears in the bucket; `close` clears away whatever is there without it.

    The last request is conditional: it makes an object where there is none, or replaces the very object that was seen
    there while the caller still had the right to save. So a request that is held up, or a worker that was stopped,
    changes nothing in the bucket after another worker has saved.
    """

    def __init__(
        self,
        s3: S3Client,
        target: Target,
        on_upload: Callable[[str], Awaitable[None]],
        on_commit: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.part_bytes = 0
        self.expected: int | None = None
        self.size = 0
        self._s3 = s3
        self._target = target
        self._on_upload = on_upload
        self._on_commit = on_commit
        self._sleep = sleep
        self._crc = 0
        self._uri = f"s3://{target.bucket}/{target.key}"
        self._copy_id = secrets.token_hex(16)
        self._object = {"ContentType": "video/mp4"} | {
            name: value for name, value in target.options.items() if not name.startswith(("Checksum", "If"))
        }
        self._object["Metadata"] = {**self._object.get("Metadata", {}), **target.metadata, "copy-id": self._copy_id}
        self._common = {name: value for name, value in target.options.items() if name in ALWAYS_EVEN_ABORT}
        self._always = {name: value for name, value in target.options.items() if name in _ALWAYS}
        # The user's client says so where a server (R2, Ceph, an older MinIO) does not know them.
        self._checksums = getattr(s3.meta.config, "request_checksum_calculation", None) != "when_required"
        self._full_checksum = False
        self._upload_id: str | None = None
        self._may_have_twin = False
        self._committed = False
        self._buffer = bytearray()
        self._filled = 0
        self._buffers = 0
        self._free: asyncio.Queue[bytearray] = asyncio.Queue()
        self._count = 0
        self._parts: dict[int, dict[str, Any]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(IN_FLIGHT)
        self._calls: set[Future[Any]] = set()

    @property
    def crc32(self) -> str:
        """The CRC-32 of everything written, as S3 writes it."""
        return _base64(self._crc.to_bytes(4, "big"))

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; waits while all buffers are full."""
        self._crc = zlib.crc32(chunk, self._crc)
        self.size += len(chunk)
        view = memoryview(chunk)
        while view:
            if self._filled == len(self._buffer):
                if self._filled:
                    await self._send_part()
                self._buffer, self._filled = await self._empty_buffer(), 0
            taken = view[: len(self._buffer) - self._filled]
            memoryview(self._buffer)[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            view = view[len(taken) :]

    async def commit(self) -> None:
        """Make the object appear, whole. Until its last request this can be cancelled.

        Raises:
            StorageError: S3 does not take it; the object is as it was before.
            Exception: What `on_commit` raises; the object is as it was before.
        """
        del self._buffer[self._filled :]
        if self._upload_id is not None:
            await self._send_part()
            await asyncio.gather(*self._sending)
        await self._on_commit()
        await run_uncancelled(self._finish())

    async def close(self) -> None:
        """Stop what still runs, and abort the upload unless it was committed; logs what does not work."""
        for task in self._sending:
            task.cancel()
        # A part that arrives after the abort may be kept, and cost money: those on their way are awaited for a while.
        await asyncio.to_thread(wait_for_threads, set(self._calls), CLOSE_SECONDS)
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._committed:
            return
        place = self._target.bucket, self._target.key
        try:
            if self._may_have_twin:
                await abort_uploads(self._s3, *place, self._upload_id, options=self._target.options)
            elif self._upload_id is not None:
                await call_s3(partial(abort, self._s3, *place, {self._upload_id}, self._common), seconds=ABORT_SECONDS)
        except StorageError as error:
            log.warning("an unfinished upload was left behind: %s", error)
        except S3_ERRORS as error:
            problem = failure(error, self._uri, self._s3, "AbortMultipartUpload")
            log.warning("an unfinished upload was left behind: %s", problem)

    async def _empty_buffer(self) -> bytearray:
        self._raise_failures()
        if self._buffers <= IN_FLIGHT:
            self._buffers += 1
            left = (self.expected or 0) - self._count * self.part_bytes
            return bytearray(min(left, self.part_bytes) if left > 0 else self.part_bytes)
        buffer = await self._free.get()
        self._raise_failures()
        return buffer

    def _raise_failures(self) -> None:
        for task in [task for task in self._sending if task.done()]:
            self._sending.discard(task)
            task.result()

    async def _send_part(self) -> None:
        if self._upload_id is None:
            await run_uncancelled(self._create())
            try:
                await self._on_upload(str(self._upload_id))
            except BaseException:
                # The caller's lease may be lost: what else is there of this key may be another worker's by now.
                self._may_have_twin = False
                raise
            if self._may_have_twin:
                await abort_uploads(
                    self._s3, self._target.bucket, self._target.key, keep=self._upload_id, options=self._target.options
                )
        self._count += 1
        self._sending.add(asyncio.create_task(self._part(self._count, self._buffer)))

    async def _part(self, number: int, body: bytearray) -> None:
        try:
            answer = await self._call("upload_part", UploadId=self._upload_id, PartNumber=number, Body=body)
        except S3_ERRORS as error:
            raise failure(error, self._uri, self._s3, "UploadPart") from None
        finally:
            self._free.put_nowait(body)
        known = ("ETag", "ChecksumCRC32")
        self._parts[number] = {"PartNumber": number} | {name: answer[name] for name in known if name in answer}

    async def _create(self) -> None:
        """Begin a multipart upload, with a checksum of the whole object if the server can."""
        wanted = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        self._may_have_twin = True  # until S3 has answered the first request with the upload's id
        try:
            answer = await self._call("create_multipart_upload", **self._object, **(wanted if self._checksums else {}))
        except S3_ERRORS as error:
            if not self._checksums or code_of(error) not in _UNKNOWN_PARAMETER:
                raise failure(error, self._uri, self._s3, "CreateMultipartUpload") from None
            self._checksums = False
            return await self._create()
        self._upload_id = answer.get("UploadId")
        if self._upload_id is None:
            where = endpoint_of(None, self._s3, "CreateMultipartUpload")
            raise StorageError(f"{self._uri}: S3's answer names no upload{where}", transient=True, credits_spent="yes")
        self._full_checksum = answer.get("ChecksumType") == "FULL_OBJECT"
        self._may_have_twin = answer["ResponseMetadata"].get("RetryAttempts", 0) > 0

    async def _finish(self) -> None:
        operation = "PutObject" if self._upload_id is None else "CompleteMultipartUpload"
        condition = {"IfNoneMatch": "*"}
        for attempt in range(COMMIT_TRIES):
            code, where = "", endpoint_of(None, self._s3, operation)
            problem = StorageError(
                f"{self._uri}: S3 did not confirm what was sent, and does not hold it{where}",
                transient=True,
                credits_spent="yes",
            )
            try:
                if await (self._put(condition) if self._upload_id is None else self._complete(condition)):
                    break
            except S3_ERRORS as error:
                problem, code = failure(error, self._uri, self._s3, operation), code_of(error)
            # boto3 repeats by itself: what it saw last need not be what the first request did.
            found = await self._found(problem)
            if found is not None and found["Metadata"].get("copy-id") == self._copy_id:
                if found["ContentLength"] == self.size:
                    break
                raise problem
            if problem.http_status not in _CONDITION_FAILED and code not in ("NoSuchKey", "NoSuchUpload"):
                raise problem
            # As long as the caller has the right to save, no record names the object that is there.
            await self._on_commit()
            if code == "NoSuchUpload" or attempt + 1 == COMMIT_TRIES:
                raise problem
            log.warning("%s: replacing an object that no job record names", self._uri)
            await self._sleep(backoff(attempt))
            if found is not None and not found.get("ETag"):
                raise problem
            condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": found["ETag"]}
        self._committed = True

    async def _put(self, condition: dict[str, str]) -> bool:
        """Put the object; tells whether S3 confirmed it. Something between may say 200 by itself, without an ETag."""
        try:
            whole = {"ChecksumCRC32": self.crc32} if self._checksums else {}
            answer = await self._call("put_object", **self._object, **whole, **condition, Body=self._buffer)
        except S3_ERRORS as error:
            if not self._checksums or code_of(error) not in _UNKNOWN_PARAMETER:
                raise
            self._checksums = False
            return await self._put(condition)
        return bool(answer.get("ETag"))

    async def _complete(self, condition: dict[str, str]) -> bool:
        """Complete the upload; tells whether S3 confirmed the checksum of the whole, and so the length.

        Where the server knows no condition here, the fence is the abort by whoever takes the lease over.
        """
        whole = {}
        if self._full_checksum:
            whole = {"ChecksumCRC32": self.crc32, "ChecksumType": "FULL_OBJECT", "MpuObjectSize": self.size}
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            answer = await self._call(
                "complete_multipart_upload",
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
                **whole,
                **condition,
            )
        except S3_ERRORS as error:
            if not condition or code_of(error) not in _UNKNOWN_PARAMETER:
                raise
            return await self._complete({})
        return bool(answer.get("ChecksumCRC32") == self.crc32)

    async def _found(self, problem: StorageError) -> Any:
        """The object that is there as S3 shows it, or None where there is none; raises `problem` if nothing tells."""
        for attempt in range(SETTLE_TRIES):
            try:
                return await self._call("head_object")
            except S3_ERRORS as error:
                answer = failure(error, self._uri, self._s3, "HeadObject")
                if answer.http_status == 404:
                    return None
                if not answer.transient:
                    raise problem from None
                await self._sleep(backoff(attempt))
        problem.transient = True
        raise problem

    async def _call(self, method: str, **arguments: Any) -> Any:
        """One request to S3, in a thread of this upload."""
        arguments = {"Bucket": self._target.bucket, "Key": self._target.key, **self._always, **arguments}
        seconds = CALL_SECONDS if method in _SMALL else SEND_SECONDS
        limit = asyncio.timeout(seconds)
        try:
            async with self._turns, limit:
                future = THREADS.submit(self._send, getattr(self._s3, method), arguments)
                self._calls.add(future)
                future.add_done_callback(self._calls.discard)
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ReadTimeoutError(endpoint_url=self._s3.meta.endpoint_url) from None

    def _send(self, operation: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        body = arguments.get("Body")
        if body is None or "ChecksumCRC32" in arguments:
            return operation(**arguments)
        if self._checksums:
            return operation(**arguments, ChecksumCRC32=_base64(zlib.crc32(body).to_bytes(4, "big")))
        return operation(**arguments, ContentMD5=_base64(hashlib.md5(body, usedforsecurity=False).digest()))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
