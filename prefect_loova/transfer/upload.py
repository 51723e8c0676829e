"""Writes one object to S3 from front to back, in bounded memory (boto3). It appears complete or not at all."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from prefect_loova._cancellation import run_uncancelled
from prefect_loova._timing import backoff
from prefect_loova.errors import StorageError
from prefect_loova.store.calls import call_s3
from prefect_loova.store.errors import S3_ERRORS, code_of, endpoint_of
from prefect_loova.transfer.object_calls import UNKNOWN_PARAMETER, ObjectCalls, Target, in_base64
from prefect_loova.transfer.part import Part
from prefect_loova.transfer.stale_uploads import ABORT_SECONDS, ALWAYS_EVEN_ABORT, abort, abort_uploads

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

MAX_PARTS = 10_000
"""The most parts that S3 allows in one upload."""

LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 3, 6
"""How many parts are sent at a time: more over a long and fast link. While they are sent, one
more is filled, so at most seven parts are in memory."""

LARGEST_ONLY_PART = 24 * 1024**2
"""The largest video, in bytes, that is sent as one part while it arrives: a second part needs a second connection."""

SOON, LOOK_AGAIN = 0.05, 0.01
"""A video that is to be one part needs no upload if the rest arrives in 50 ms, which is estimated each 10 ms."""

ROUND_TRIPS_OF_PARTS = 3
"""How many requests must be answered, one after the other, for an object in parts and not for one in one request."""

AT_ONCE_BYTES = 1024**2
"""The largest video, in bytes, that is always sent in one request when it is complete: that is cheaper, and as fast."""

FILL_SECONDS = 15.0
"""How long a part may fill while it is sent, in seconds. S3 closes connections that are silent for 20 s."""

SETTLE_TRIES = 5
"""How often to ask S3 whether an upload with an unknown outcome was completed."""

COMMIT_TRIES = 4
"""How often to send the last request if S3 refuses it because of another object or a race."""

_CONDITION_FAILED = frozenset({409, 412})


class Upload:
    """Writes one object to S3: in one request if it fits into a part, else as a multipart upload.

    The object appears only with `commit`. Without it, `close` aborts the upload.

    Over TLS, each part of an object of known size is sent while it is filled, and such an object is a multipart upload:
    so nothing but `commit` makes it appear. An object that arrives sooner than that would pay is sent in one request
    when it is complete. Without TLS, the signature of a part covers its bytes, so a part is sent when it is full.

    The last request is conditional. It creates an object, or replaces exactly the object that was seen while the caller
    still had the right to save. So a delayed request, or a worker that was stopped for a while, changes nothing after
    another worker has saved.

    Attributes:
        part_bytes: The size of a part. Set it before the first `write`.
        expected: The size of the object in bytes, if it is known. Set it before the first `write`.
        size: The bytes written so far.
    """

    def __init__(
        self,
        s3: S3Client,
        target: Target,
        on_upload: Callable[[str], Awaitable[None]],
        on_commit: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        fill_seconds: float = FILL_SECONDS,
    ) -> None:
        self.part_bytes = 0
        self.expected: int | None = None
        self.size = 0
        self._s3 = s3
        self._target = target
        self._calls = ObjectCalls(s3, target, MOST_IN_FLIGHT)
        self._on_upload = on_upload
        self._on_commit = on_commit
        self._sleep = sleep
        self._clock = clock
        self._fill_seconds = fill_seconds
        self._crc = 0
        self._copy_id = secrets.token_hex(16)
        self._object = {"ContentType": "video/mp4"} | {
            name: value for name, value in target.options.items() if not name.startswith(("Checksum", "If"))
        }
        self._object["Metadata"] = {**self._object.get("Metadata", {}), **target.metadata, "copy-id": self._copy_id}
        self._common = {name: value for name, value in target.options.items() if name in ALWAYS_EVEN_ABORT}
        self._full_checksum = False
        self._upload_id: str | None = None
        self._may_have_duplicate = False
        self._committed = False
        self._streams = False
        self._is_only_part = False
        self._in_parts = False
        self._is_slow = False
        self._first_write = 0.0
        self._round_trip = 0.0
        self._part: Part | None = None
        self._begun: asyncio.Task[None] | None = None
        self._buffer_count = 0
        self._free_buffers: asyncio.Queue[bytearray] = asyncio.Queue()
        self._part_count = 0
        self._parts: dict[int, dict[str, Any]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def crc32(self) -> str:
        """Return the CRC-32 of all bytes written, in base64 as S3 shows it."""
        return in_base64(self._crc.to_bytes(4, "big"))

    async def write(self, chunk: bytes) -> None:
        """Write the next bytes. Waits while all buffers are full."""
        self._crc = zlib.crc32(chunk, self._crc)
        self.size += len(chunk)
        self._raise_failures()
        view = memoryview(chunk)
        while view:
            if self._part is None:
                self._plan()
            elif self._part.is_full.is_set() and not self._streams:
                await self._send_part(self._part)
            if self._part is None or self._part.is_full.is_set():
                self._part = Part(await self._empty_buffer())
                if self._streams:
                    await self._send_part(self._part)
            view = self._part.fill(view)

    async def commit(self) -> None:
        """Send the rest and make the object appear. It can be cancelled until its last request.

        Raises:
            StorageError: S3 does not accept it. An earlier object is unchanged.
            Exception: `on_commit` raised it. An earlier object is unchanged.
        """
        if self._part is not None:
            self._part.end()
            if self._begun is not None and not self._streams:
                await self._send_part(self._part)
        if self._begun is not None:
            # An object that goes in one request takes over the connection that is used here.
            await asyncio.gather(*self._sending)
        if self._in_parts:
            await self._on_commit()
        await run_uncancelled(self._finish())

    async def close(self) -> None:
        """Cancel the parts in flight, and abort the upload unless the object was made of its parts. Logs failures."""
        if self._part is not None:
            self._part.interrupt()
        for task in self._sending:
            task.cancel()
        # A part that arrives after the abort may stay and cost money. So wait for the parts in flight.
        await self._calls.wait()
        await asyncio.gather(*self._sending, return_exceptions=True)
        if not (self._committed and self._in_parts):
            await self._abort()

    async def _abort(self) -> None:
        bucket, key = self._target.bucket, self._target.key
        try:
            if self._may_have_duplicate:
                await abort_uploads(self._s3, bucket, key, self._upload_id, options=self._target.options)
            elif self._upload_id is not None:
                abort_this = partial(abort, self._s3, bucket, key, {self._upload_id}, self._common)
                await call_s3(abort_this, seconds=ABORT_SECONDS)
        except StorageError as error:
            log.warning("an unfinished upload was left behind: %s", error)
        except S3_ERRORS as error:
            log.warning("an unfinished upload was left behind: %s", self._calls.failure(error, "AbortMultipartUpload"))
        self._upload_id, self._may_have_duplicate = None, False

    def _plan(self) -> None:
        """Decide how the object is sent."""
        self._first_write = self._clock()
        is_tls = urlsplit(self._s3.meta.endpoint_url).scheme == "https"
        self._streams = is_tls and self._calls.checksums and (self.expected or 0) > AT_ONCE_BYTES
        if self._streams and self.expected is not None and self.expected <= LARGEST_ONLY_PART:
            self.part_bytes = self.expected
            self._is_only_part = True

    async def _empty_buffer(self) -> bytearray:
        """Return memory for a part. Another piece is taken only if none is free."""
        left = self.part_bytes
        if self.expected is not None:
            left = min(left, self.expected - self._part_count * self.part_bytes)
        if self._buffer_count <= self._in_flight and self._free_buffers.empty():
            self._buffer_count += 1
            return bytearray(left)
        buffer = await self._free_buffers.get()
        self._raise_failures()
        del buffer[left:]
        return buffer

    @property
    def _in_flight(self) -> int:
        """How many parts may be sent at a time: what arrives within a round trip to S3, and two more."""
        seconds = max(self._clock() - self._first_write, 0.001)  # some clocks advance in steps of 16 ms
        rate = self.size / seconds
        return min(max(LEAST_IN_FLIGHT, 2 + math.ceil(rate * self._round_trip / self.part_bytes)), MOST_IN_FLIGHT)

    def _raise_failures(self) -> None:
        for task in [task for task in self._sending if task.done()]:
            self._sending.discard(task)
            task.result()

    async def _send_part(self, part: Part) -> None:
        if self._begun is None:
            self._begun = self._start(self._begin(part))
            if not self._streams:
                await self._begun
        self._part_count += 1
        self._start(self._upload_part(self._part_count, part))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._sending.add(task)
        return task

    async def _begin(self, part: Part) -> None:
        """Create the multipart upload before its first part is sent, unless the object is complete sooner."""
        while self._is_only_part:
            if await part.is_full_before(self._sleep(LOOK_AGAIN)):
                return
            if not self._ends_within(SOON):
                break
        began = self._clock()
        await run_uncancelled(self._create())
        self._round_trip = self._clock() - began
        if self._is_only_part and self._ends_within(ROUND_TRIPS_OF_PARTS * self._round_trip):
            if not part.is_full.is_set():
                await self._abort()
            return
        self._in_parts = True
        try:
            await self._on_upload(str(self._upload_id))
        except BaseException:
            # The caller may have lost its lease. Another upload to this key may be another worker's by now.
            self._may_have_duplicate = False
            raise
        if self._may_have_duplicate:
            await abort_uploads(
                self._s3, self._target.bucket, self._target.key, keep=self._upload_id, options=self._target.options
            )

    def _ends_within(self, seconds: float) -> bool:
        """Return whether the rest of the object arrives within some seconds if it comes as fast as before."""
        left = (self.expected or 0) - self.size
        return left * (self._clock() - self._first_write) <= seconds * self.size

    async def _upload_part(self, number: int, part: Part) -> None:
        await asyncio.shield(cast("asyncio.Task[None]", self._begun))
        if not self._in_parts:
            return
        try:
            response = None
            if not (part.is_full.is_set() or self._is_slow) and self._calls.checksums:
                response = await self._stream(number, part)
            if response is None:
                await part.is_full.wait()
                response = await self._calls.call(
                    "upload_part", UploadId=self._upload_id, PartNumber=number, Body=part.buffer
                )
        except S3_ERRORS as error:
            raise self._calls.failure(error, "UploadPart") from None
        finally:
            self._free_buffers.put_nowait(part.buffer)
        known = ("ETag", "ChecksumCRC32")
        self._parts[number] = {"PartNumber": number} | {name: response[name] for name in known if name in response}

    async def _stream(self, number: int, part: Part) -> Any:
        """Send a part while it is filled. Return None if it did not fill in time: it is to be sent when it is full."""
        too_late = asyncio.get_running_loop().call_later(self._fill_seconds, part.interrupt)
        try:
            return await self._calls.call(
                "upload_part", UploadId=self._upload_id, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32"
            )
        except S3_ERRORS:
            if not part.is_interrupted:
                raise
            self._is_slow = True
            return None
        finally:
            too_late.cancel()

    async def _create(self) -> None:
        """Create a multipart upload, with a checksum of the whole object if the server supports it."""
        checksum = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        # boto3 may repeat the request by itself: then S3 holds two uploads, and only one id is known.
        self._may_have_duplicate = True
        try:
            response = await self._calls.call_with_checksum("create_multipart_upload", checksum, **self._object)
        except S3_ERRORS as error:
            raise self._calls.failure(error, "CreateMultipartUpload") from None
        self._upload_id = response.get("UploadId")
        if self._upload_id is None:
            where = endpoint_of(None, self._s3, "CreateMultipartUpload")
            message = f"{self._target.uri}: S3 returned no upload id{where}"
            raise StorageError(message, transient=True, credits_spent="yes")
        self._full_checksum = response.get("ChecksumType") == "FULL_OBJECT"
        self._may_have_duplicate = response["ResponseMetadata"].get("RetryAttempts", 0) > 0

    async def _finish(self) -> None:
        """Send the last request until S3 holds this object, or refuses it."""
        operation = "CompleteMultipartUpload" if self._in_parts else "PutObject"
        condition = {"IfNoneMatch": "*"}
        for attempt in range(COMMIT_TRIES):
            code, where = "", endpoint_of(None, self._s3, operation)
            problem = StorageError(
                f"{self._target.uri}: S3 did not confirm the object and does not hold it{where}",
                transient=True,
                credits_spent="yes",
            )
            try:
                if await (self._complete(condition) if self._in_parts else self._put(condition)):
                    break
            except S3_ERRORS as error:
                problem, code = self._calls.failure(error, operation), code_of(error)
            # boto3 may have repeated the request: an earlier one may have succeeded.
            stored = await self._head_object(problem)
            if stored is not None and stored["Metadata"].get("copy-id") == self._copy_id:
                if stored["ContentLength"] == self.size:
                    break
                raise problem
            if problem.http_status not in _CONDITION_FAILED and code not in ("NoSuchKey", "NoSuchUpload"):
                raise problem
            # While the caller has the right to save, no job record names the stored object.
            await self._on_commit()
            if code == "NoSuchUpload" or attempt + 1 == COMMIT_TRIES:
                raise problem
            log.warning("%s: replacing an object that no job record names", self._target.uri)
            await self._sleep(backoff(attempt))
            if stored is not None and not stored.get("ETag"):
                raise problem
            condition = {"IfNoneMatch": "*"} if stored is None else {"IfMatch": stored["ETag"]}
        self._committed = True

    async def _put(self, condition: dict[str, str]) -> bool:
        """Put the object. Return whether S3 confirmed it: a proxy may return 200 by itself, without an ETag."""
        checksum = {"ChecksumCRC32": self.crc32}
        response = await self._calls.call_with_checksum(
            "put_object", checksum, **self._object, **condition, Body=self._part.buffer if self._part else b""
        )
        return bool(response.get("ETag"))

    async def _complete(self, condition: dict[str, str]) -> bool:
        """Complete the upload. Return whether S3 confirmed the checksum of the whole object, and so its length.

        Some servers support no condition here. Then the worker that takes over the lease aborts this upload.
        """
        checksum = {}
        if self._full_checksum:
            checksum = {"ChecksumCRC32": self.crc32, "ChecksumType": "FULL_OBJECT", "MpuObjectSize": self.size}
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            response = await self._calls.call(
                "complete_multipart_upload",
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
                **checksum,
                **condition,
            )
        except S3_ERRORS as error:
            if not condition or code_of(error) not in UNKNOWN_PARAMETER:
                raise
            return await self._complete({})
        return bool(response.get("ChecksumCRC32") == self.crc32)

    async def _head_object(self, problem: StorageError) -> Any:
        """Return the head of the stored object, or None without one. Raise `problem` if S3 does not say."""
        for attempt in range(SETTLE_TRIES):
            try:
                return await self._calls.call("head_object")
            except S3_ERRORS as error:
                head_problem = self._calls.failure(error, "HeadObject")
                if head_problem.http_status == 404:
                    return None
                if not head_problem.transient:
                    raise problem from None
                await self._sleep(backoff(attempt))
        problem.transient = True
        raise problem
