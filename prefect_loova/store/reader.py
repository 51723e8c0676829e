"""Read an S3 object as a seekable file, in blocks by ranged GETs.

A decoder reads an mp4 in many small pieces: the index at one end, then the frames with the sound between them. Blocks
turn these into a few large requests. docs/decisions/0007-previews.md says why this is not `smart_open`.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from prefect_loova.errors import StorageError
from prefect_loova.store.errors import S3_ERRORS, status_of, storage_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from mypy_boto3_s3 import S3Client

_BODY_TRIES = 3  # boto3 retries a request, but not after the body has begun


class S3File(io.RawIOBase):
    """An open S3 object. Opening fetches the first block. Not safe for use by several threads at once.

    All blocks are of the version that was opened. If the object is replaced while it is open, reading raises an error.

    Args:
        s3: A boto3 S3 client with the permission `s3:GetObject`.
        bucket: The name of the bucket.
        key: The key of the object.
        block_bytes: The bytes of one request.
        blocks: The number of blocks to cache in memory.

    Attributes:
        size: The size of the object in bytes.
        etag: The ETag of the opened version.
        version: The id of the opened version, if the bucket has versioning.

    Raises:
        StorageError: The object is missing (403 or 404), may not be read, or was replaced. `read` raises it too.
    """

    def __init__(self, s3: S3Client, bucket: str, key: str, *, block_bytes: int = 1024**2, blocks: int = 8) -> None:
        super().__init__()
        self._s3 = s3
        self._target = {"Bucket": bucket, "Key": key}
        self._uri = f"s3://{bucket}/{key}"
        self._block_bytes = block_bytes
        self._cache_size = blocks
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        self.size = 0
        self.etag = ""
        self.version: str | None = None
        self._block(0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read. It may be after the end, where nothing is read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to byte {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer, or the part of it up to the end of the file. Return the number of bytes."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._position < self.size:
            number, start = divmod(self._position, self._block_bytes)
            piece = self._block(number)[start : start + len(target) - done]
            target[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def close(self) -> None:
        """Free the blocks."""
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            while len(self._blocks) >= self._cache_size:
                self._blocks.popitem(last=False)
            self._blocks[number] = self._fetch(number)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, number: int) -> bytes:
        start = number * self._block_bytes
        arguments: dict[str, Any] = self._target | {"Range": f"bytes={start}-{start + self._block_bytes - 1}"}
        if self.etag:
            arguments["IfMatch"] = self.etag
        for tries_left in reversed(range(_BODY_TRIES)):
            try:
                response = self._s3.get_object(**arguments)
            except S3_ERRORS as error:
                if status_of(error) == 416 and not self.etag:
                    return b""  # an empty object has no first byte
                if status_of(error) == 412:
                    raise self._replaced() from None
                raise storage_error(error, self._uri, self._s3, "GetObject") from None
            try:
                self._check(response, start)
                body = response["Body"].read()
            except S3_ERRORS as error:
                if not tries_left:
                    raise storage_error(error, self._uri, self._s3, "GetObject") from None
            else:
                if len(body) == min(self._block_bytes, self.size - start):
                    return body
            finally:
                response["Body"].close()
        raise StorageError(f"{self._uri}: S3 sent more or fewer bytes than requested", transient=True)

    def _check(self, response: Any, start: int) -> None:
        """Check the range of a response, and its version: the first response sets it, the others must match."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.get("ContentRange", ""))
        if match is None and response["ContentLength"] > self._block_bytes:
            raise StorageError(f"{self._uri}: the S3 server ignores Range")
        first, size = (int(match[1]), int(match[2])) if match else (0, int(response["ContentLength"]))
        if first != start:
            raise StorageError(f"{self._uri}: the S3 server sent another range than requested")
        if not self.etag:
            self.size, self.etag = size, response["ETag"]
            self.version = None if response.get("VersionId") in (None, "null") else response["VersionId"]
        elif (size, response["ETag"]) != (self.size, self.etag):
            raise self._replaced()

    def _replaced(self) -> StorageError:
        return StorageError(f"{self._uri} was replaced while it was read", transient=True)
