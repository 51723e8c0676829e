"""An object in S3 as a file that can be read and sought: blocks by ranged GETs, the last few kept in memory.

A decoder reads an mp4 in places: the index at one end, then the frames, sound between them. Blocks make a few large
requests of that. See docs/decisions/0007-previews.md for why this is not `smart_open`.
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

BLOCK_BYTES = 1024**2
BLOCKS = 8

_BODY_TRIES = 3  # boto3 repeats a request by itself, but not once its body has begun


class S3File(io.RawIOBase):
    """Opens an object for reading; its first block is fetched at once. For one thread at a time.

    All blocks are of the version that was opened: one that was replaced meanwhile is an error, not a mixture.

    Args:
        s3: A boto3 S3 client that may `s3:GetObject`.
        bucket: The bucket's name.
        key: The object's key.
        block_bytes: What one request asks for.
        blocks: How many blocks are kept in memory.

    Attributes:
        size: The object's size in bytes.
        etag: Of the version that was opened.
        version: The id of that version, where the bucket keeps versions.

    Raises:
        StorageError: It is not there (403 or 404), may not be read, or was replaced while it was read. `read` raises
            it too.
    """

    def __init__(
        self, s3: S3Client, bucket: str, key: str, *, block_bytes: int = BLOCK_BYTES, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self._s3 = s3
        self._place = {"Bucket": bucket, "Key": key}
        self._uri = f"s3://{bucket}/{key}"
        self._block_bytes = block_bytes
        self._most = blocks
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0
        self.size = 0
        self.etag = ""
        self.version: str | None = None
        self._block(0)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; it may lie behind the end, where there is nothing to read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"byte {start + offset} of a file")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, unless the file ends before."""
        wanted = memoryview(buffer).cast("B")
        done = 0
        while done < len(wanted) and self._at < self.size:
            number, start = divmod(self._at, self._block_bytes)
            piece = self._block(number)[start : start + len(wanted) - done]
            wanted[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
        return done

    def close(self) -> None:
        """Let the blocks go."""
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            while len(self._blocks) >= self._most:
                self._blocks.popitem(last=False)
            self._blocks[number] = self._fetched(number)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetched(self, number: int) -> bytes:
        start = number * self._block_bytes
        asked: dict[str, Any] = self._place | {"Range": f"bytes={start}-{start + self._block_bytes - 1}"}
        if self.etag:
            asked["IfMatch"] = self.etag
        for left in reversed(range(_BODY_TRIES)):
            try:
                answer = self._s3.get_object(**asked)
            except S3_ERRORS as error:
                if status_of(error) == 416 and not self.etag:
                    return b""  # an empty object has no first byte
                if status_of(error) == 412:
                    raise self._replaced() from None
                raise storage_error(error, self._uri, self._s3, "GetObject") from None
            try:
                self._learn(answer, start)
                body = answer["Body"].read()
            except S3_ERRORS as error:
                if not left:
                    raise storage_error(error, self._uri, self._s3, "GetObject") from None
            else:
                if len(body) == min(self._block_bytes, self.size - start):
                    return body
            finally:
                answer["Body"].close()
        raise StorageError(f"{self._uri}: S3 sent another number of bytes than were asked for", transient=True)

    def _learn(self, answer: Any, start: int) -> None:
        """Size and ETag from the first answer; each further one must be of the same object."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange", ""))
        if found is None and answer["ContentLength"] > self._block_bytes:
            raise StorageError(f"{self._uri}: the S3 server ignores Range")
        first, size = (int(found[1]), int(found[2])) if found else (0, int(answer["ContentLength"]))
        if first != start:
            raise StorageError(f"{self._uri}: the S3 server answers another range than was asked for")
        if not self.etag:
            self.size, self.etag = size, answer["ETag"]
            self.version = None if answer.get("VersionId") in (None, "null") else answer["VersionId"]
        elif (size, answer["ETag"]) != (self.size, self.etag):
            raise self._replaced()

    def _replaced(self) -> StorageError:
        return StorageError(f"{self._uri} was replaced while it was read", transient=True)
