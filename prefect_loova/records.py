"""Job records in S3: read, create and advance them by compare-and-swap only.

A write is conditional (`If-None-Match: *` to create, `If-Match` to advance) and carries a fresh random `write_id`.
When its outcome is unknown (a lost reply, a 500, or a 412 after boto3 repeated it by itself), it is read back: only
exactly that `write_id` means that it was applied.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from prefect_loova.ages import THIS_PROCESS, Ages
from prefect_loova.bucket import BucketPrefix
from prefect_loova.errors import RecordMismatchError, StorageError, shown
from prefect_loova.polling import backoff
from prefect_loova.s3_errors import S3_ERRORS, code_of, host_of, status_of, storage_error
from prefect_loova.states import FORMAT, JobRecord

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEY = re.compile(r"[0-9a-f]{64}")
_WRITE_TRIES = 6


def is_key(name: str) -> bool:
    """Whether a name is a request's key."""
    return _KEY.fullmatch(name) is not None


@dataclass(frozen=True)
class StoredRecord:
    """A record as one answer of S3 showed it.

    Attributes:
        record: What it says.
        etag: What the next write is conditional on.
        age: Seconds since it was last written, or fewer, by the server's clock or since this process first saw it.
    """

    record: JobRecord
    etag: str
    age: float = 0.0


class RecordMovedError(Exception):
    """Another worker wrote the record in between; read it again."""


class KeyClosedError(RecordMismatchError):
    """The key is a former one of a request (`former_keys`): there is no job under it, and none may be bought."""


class JobRecords(BucketPrefix):
    """The job records of one API below one prefix of one bucket.

    Args:
        s3: A boto3 S3 client.
        bucket: The bucket's name.
        prefix: Everything of one video lives under `{prefix}/{key}/`, the index of open jobs under `{prefix}/_open/`.
        api_origin: The API that these records are of; a record of another one is refused.
        sleep: How to wait between tries of a write whose outcome is unknown, in seconds.
        ages: Knows how old what it reads is.
    """

    def __init__(
        self,
        s3: S3Client,
        bucket: str,
        prefix: str,
        api_origin: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        ages: Ages = THIS_PROCESS,
    ) -> None:
        super().__init__(s3, bucket, prefix, sleep=sleep)
        self.api_origin = api_origin
        self._ages = ages

    def record_key(self, key: str) -> str:
        """The S3 key of a request's job record."""
        return self.object_key(key, "record.json")

    async def read(self, key: str) -> StoredRecord | None:
        """The record of a request, or None where there is none (or nothing tells: S3 answers 403 for a missing key
        where `s3:ListBucket` is not granted; creating it then tells).

        Raises:
            StorageError: The bucket cannot be read.
            RecordMismatchError: The record is of another API, or of a newer format.
        """
        object_key = self.record_key(key)
        for attempt in range(_WRITE_TRIES):
            try:
                return await asyncio.to_thread(self._get, object_key)
            except S3_ERRORS as error:
                if code_of(error) in ("NoSuchKey", "404") or (
                    status_of(error) == 404 and code_of(error) != "NoSuchBucket"
                ):
                    return None
                if code_of(error) in ("AccessDenied", "403", "Forbidden"):
                    return None
                failure = storage_error(error, self.uri(object_key), self.s3, "GetObject")
                if not failure.transient or attempt + 1 == _WRITE_TRIES:
                    raise failure from None
                await self._sleep(backoff(attempt))
        raise AssertionError("unreachable")

    async def expect(self, key: str) -> StoredRecord:
        """The record of a request that has one.

        Raises:
            StorageError: It is gone or may not be read, or as `read` says.
        """
        stored = await self.read(key)
        if stored is None:
            uri = self.uri(self.record_key(key))
            raise StorageError(f"the job record {uri} is missing or may not be read (s3:GetObject)")
        return stored

    async def create(self, record: JobRecord) -> StoredRecord:
        """Write the first record of a request.

        Raises:
            RecordMovedError: There is one already.
            StorageError: The bucket cannot be written.
        """
        return await self._write(record, {"IfNoneMatch": "*"}, before=None)

    async def advance(self, stored: StoredRecord, record: JobRecord) -> StoredRecord:
        """Write the next record of a request, if it is still as `stored` shows it.

        Raises:
            RecordMovedError: Another worker wrote in between.
            StorageError: The bucket cannot be written, or the record is gone.
        """
        return await self._write(record, {"IfMatch": stored.etag}, before=stored.etag)

    async def change(self, key: str, change: Callable[[JobRecord], JobRecord]) -> StoredRecord:
        """Apply a change to the record as it stands, however often others write in between.

        Args:
            key: The request's key.
            change: From a record to the next one; the same record means that there is nothing to write.
        """
        for attempt in range(60):
            stored = await self.expect(key)
            record = change(stored.record)
            if record is stored.record:
                return stored
            try:
                return await self.advance(stored, record)
            except RecordMovedError:
                await self._sleep(backoff(attempt, first=0.05, most=2.0))
        raise StorageError(f"{self.uri(self.record_key(key))} is written by others all the time", transient=True)

    async def _write(self, record: JobRecord, condition: dict[str, str], before: str | None) -> StoredRecord:
        record = record.model_copy(update={"write_id": secrets.token_hex(16)})
        object_key = self.record_key(record.key)
        body = record.model_dump_json(indent=1, exclude_none=True).encode()
        for attempt in range(_WRITE_TRIES):
            try:
                answer = await asyncio.to_thread(
                    self.s3.put_object,
                    Bucket=self.bucket,
                    Key=object_key,
                    Body=body,
                    ContentType="application/json",
                    **condition,  # type: ignore[arg-type]
                )
                if answer.get("ETag"):
                    return StoredRecord(record, answer["ETag"])
                failure, refused = (
                    StorageError(f"{self.uri(object_key)}: no ETag in S3's answer", transient=True),
                    False,
                )
            except S3_ERRORS as error:
                failure = storage_error(error, self.uri(object_key), self.s3, "PutObject")
                refused = status_of(error) == 412
                if not refused and not failure.transient:
                    raise failure from None
            try:
                seen = await self.read(record.key)
            except StorageError as error:
                if not error.transient:
                    raise
                seen, refused = None, False
            else:
                if seen is not None and seen.record.write_id == record.write_id:
                    return StoredRecord(record, seen.etag)
                if refused or (seen is not None and seen.etag != before):
                    if seen is None:
                        raise StorageError(
                            f"{self.uri(object_key)} is there but may not be read (s3:GetObject), or was deleted"
                        )
                    raise RecordMovedError
            # The outcome is unknown and the record is as it was: the same write again, with the same write_id.
            await self._sleep(backoff(attempt))
        raise failure

    async def note_open(self, record: JobRecord) -> None:
        """Put a job into the index of open jobs.

        Raises:
            StorageError: The bucket cannot be written.
        """
        entry = {"key": record.key, "api_origin": record.api_origin, "request": record.request}
        for attempt in range(_WRITE_TRIES):
            try:
                return await self.put_json(self.object_key("_open", record.key), entry)
            except StorageError as error:
                if not error.transient or attempt + 1 == _WRITE_TRIES:
                    raise
                await self._sleep(backoff(attempt))

    async def note_ended(self, key: str) -> None:
        """Take a job out of the index of open jobs, and put it back if it is open after all.

        Raises:
            StorageError: The bucket cannot be written.
        """
        failure: StorageError | None = None
        try:
            await self.delete(self.object_key("_open", key))
        except StorageError as error:  # its reply may be lost, and the entry gone
            failure = error
        stored = await self.read(key)
        if stored is not None and stored.record.is_open:
            await self.note_open(stored.record)
        if failure is not None:
            raise failure

    async def open_keys(self) -> list[str]:
        """The keys in the index of open jobs.

        Raises:
            StorageError: It may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        return [found.name for found in await self.listed("_open") if is_key(found.name)]

    def _get(self, object_key: str) -> StoredRecord:
        answer = self.s3.get_object(Bucket=self.bucket, Key=object_key)
        uri = self.uri(object_key)
        try:
            content = json.loads(answer["Body"].read())
            if "closed_for" in content:
                raise KeyClosedError(f"{uri} is a former key of a request; its job is {shown(content['closed_for'])}")
            if content["format"] > FORMAT:
                raise RecordMismatchError(f"{uri} has format {content['format']}: upgrade prefect-loova to read it")
            record = JobRecord.model_validate(content)
            if not record.attempts or self.record_key(record.key) != object_key:
                raise ValueError("no attempts, or another request's record")
            etag = answer["ETag"]
        except (ValueError, KeyError, TypeError, ValidationError):
            raise StorageError(f"{uri} is not a job record of prefect-loova; nothing was changed") from None
        if record.api_origin != self.api_origin:
            raise RecordMismatchError(
                f"{uri} was made for {shown(record.api_origin)}, not for {self.api_origin}: use another prefix"
            )
        host = host_of(self.s3.meta.endpoint_url)
        return StoredRecord(record, etag, self._ages.age_of(answer, f"{host} {uri}", record.write_id, host))
