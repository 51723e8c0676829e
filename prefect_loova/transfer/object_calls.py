"""Calls boto3 for one object: in threads, a few at a time, and with the checksums that the server supports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ReadTimeoutError

from prefect_loova.errors import StorageError
from prefect_loova.store.calls import CALL_SECONDS, THREADS
from prefect_loova.store.errors import S3_ERRORS, code_of
from prefect_loova.transfer.stale_uploads import ALWAYS_EVEN_ABORT, s3_failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CLOSE_SECONDS = 10.0
"""How long to wait for parts in flight before the upload is aborted, in seconds."""

SEND_SECONDS = 600.0
"""How long a part, or the request that makes the object appear, may take, in seconds."""

UNKNOWN_PARAMETER = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
_SMALL = frozenset({"create_multipart_upload", "head_object"})
_ALWAYS = ALWAYS_EVEN_ABORT | {"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5"}


@dataclass(frozen=True)
class Target:
    """The object to write.

    Args:
        bucket: The bucket's name.
        key: The object's key.
        metadata: The object's metadata, in ASCII.
        options: boto3's `ExtraArgs` for an upload: SSE-KMS, tags, storage class.
    """

    bucket: str
    key: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Return the object as `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


class ObjectCalls:
    """Calls S3 for one object.

    Args:
        s3: A boto3 S3 client.
        target: The object.
        at_a_time: How many calls may run at a time. Others wait.

    Attributes:
        checksums: Whether CRC-32s are sent. Without them, parts have an MD5.
    """

    def __init__(self, s3: S3Client, target: Target, at_a_time: int) -> None:
        # Users set this on their client for servers without checksums (R2, Ceph, an older MinIO).
        self.checksums = getattr(s3.meta.config, "request_checksum_calculation", None) != "when_required"
        self._s3 = s3
        self._target = target
        self._always = {name: value for name, value in target.options.items() if name in _ALWAYS}
        self._slots = asyncio.Semaphore(at_a_time)
        self._running: set[Future[Any]] = set()

    async def call(self, method: str, **arguments: Any) -> Any:
        """Call S3 in a thread.

        Raises:
            ReadTimeoutError: The call timed out. It may still take effect.
        """
        arguments = {"Bucket": self._target.bucket, "Key": self._target.key, **self._always, **arguments}
        limit = asyncio.timeout(CALL_SECONDS if method in _SMALL else SEND_SECONDS)
        try:
            async with self._slots, limit:
                future = THREADS.submit(self._send, getattr(self._s3, method), arguments)
                self._running.add(future)
                future.add_done_callback(self._running.discard)
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ReadTimeoutError(endpoint_url=self._s3.meta.endpoint_url) from None

    async def call_with_checksum(self, method: str, checksum: dict[str, str], **arguments: Any) -> Any:
        """Call S3 with a checksum, and once more without if the server does not support it."""
        try:
            return await self.call(method, **arguments, **(checksum if self.checksums else {}))
        except S3_ERRORS as error:
            if not self.checksums or code_of(error) not in UNKNOWN_PARAMETER:
                raise
            self.checksums = False
            return await self.call(method, **arguments)

    async def wait(self) -> None:
        """Wait for the calls that run, also for those whose callers were cancelled, but not for long."""
        await asyncio.to_thread(wait, set(self._running), CLOSE_SECONDS)

    def failure(self, error: Exception, operation: str) -> StorageError:
        """Return the error for a failed call of the object."""
        return s3_failure(error, self._target.uri, self._s3, operation)

    def _send(self, operation: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call boto3, with a checksum of the body if the arguments have none."""
        body = arguments.get("Body")
        if body is None or "ChecksumCRC32" in arguments or "ChecksumAlgorithm" in arguments:
            return operation(**arguments)
        if self.checksums:
            return operation(**arguments, ChecksumCRC32=in_base64(zlib.crc32(body).to_bytes(4, "big")))
        return operation(**arguments, ContentMD5=in_base64(hashlib.md5(body, usedforsecurity=False).digest()))


def in_base64(digest: bytes) -> str:
    """Return a checksum as S3 shows it."""
    return base64.b64encode(digest).decode()
