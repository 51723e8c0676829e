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
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from prefect_loova._timing import backoff
from prefect_loova.errors import RecordMismatchError, StorageError, redact
from prefect_loova.models.job_record import FORMAT, JobRecord
from prefect_loova.store.age import PROCESS_AGES, ObjectAges
from prefect_loova.store.calls import THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, code_of, endpoint_of, host_of, status_of, storage_error
from prefect_loova.store.prefix import BucketPrefix, strong_etag

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEY = re.compile(r"[0-9a-f]{64}")
_WRITE_TRIES = 6
_CHANGE_TRIES = 12


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


class RecordConflictError(Exception):
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
        threads: Where boto3's calls run.
    """

    def __init__(
        self,
        s3: S3Client,
        bucket: str,
        prefix: str,
        api_origin: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        ages: ObjectAges = PROCESS_AGES,
        threads: Executor = THREADS,
    ) -> None:
        super().__init__(s3, bucket, prefix, sleep=sleep, threads=threads)
        self.api_origin = api_origin
        self._ages = ages

    def record_key(self, key: str) -> str:
        """The S3 key of a request's job record."""
        return self.object_key(key, "record.json")

    async def read(self, key: str, *, denied_is_missing: bool = True) -> StoredRecord | None:
        """The record of a request, or None where there is none.

        Args:
            key: The request's key.
            denied_is_missing: Whether 403 counts as missing, as S3 answers it for a missing key where `s3:ListBucket`
                is not granted: for those who create the record then, which tells.

        Raises:
            StorageError: The bucket cannot be read.
            RecordMismatchError: The record is of another API, or of a newer format.
        """
        for attempt in range(_WRITE_TRIES):
            try:
                return await self._look(key, denied_is_missing)
            except StorageError as error:
                if not error.transient or attempt + 1 == _WRITE_TRIES:
                    raise
                await self._sleep(backoff(attempt))
        raise AssertionError("unreachable")

    async def read_or_list(self, key: str) -> StoredRecord | None:
        """As `read`, but 403 counts as missing only where S3 may not list: else S3 answers 404 for what is missing.

        Raises:
            StorageError: As `read`, or the record is there and may not be read.
        """
        try:
            return await self.read(key, denied_is_missing=False)
        except StorageError as denied:
            if denied.http_status != 403:
                raise
            try:
                await self.list_objects(key)
            except StorageError as error:
                if error.http_status == 403:
                    return None
                raise
            raise

    async def _look(self, key: str, denied_is_missing: bool = True) -> StoredRecord | None:
        """One try of `read`."""
        object_key = self.record_key(key)
        try:
            return await call_s3(self._get, threads=self._threads, object_key=object_key)
        except S3_ERRORS as error:
            if code_of(error) in ("NoSuchKey", "404") or (status_of(error) == 404 and code_of(error) != "NoSuchBucket"):
                return None
            if denied_is_missing and code_of(error) in ("AccessDenied", "403", "Forbidden"):
                return None
            raise storage_error(error, self.uri(object_key), self.s3, "GetObject") from None

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
        return await self._write(record, before=None)

    async def advance(self, stored: StoredRecord, record: JobRecord) -> StoredRecord:
        """Write the next record of a request, if it is still as `stored` shows it.

        Raises:
            RecordMovedError: Another worker wrote in between.
            StorageError: The bucket cannot be written, the record is gone, or the server refuses its own ETag.
        """
        return await self._write(record, before=stored)

    async def change(self, key: str, change: Callable[[JobRecord], JobRecord]) -> StoredRecord:
        """Apply a change to the record as it stands, also where others write in between.

        Args:
            key: The request's key.
            change: From a record to the next one; the same record means that there is nothing to write.

        Raises:
            StorageError: The bucket cannot be read or written, or others wrote in between each time.
        """
        for attempt in range(_CHANGE_TRIES):
            stored = await self.expect(key)
            record = change(stored.record)
            if record is stored.record:
                return stored
            try:
                return await self.advance(stored, record)
            except RecordConflictError:
                await self._sleep(backoff(attempt, first=0.05, most=10.0))
        raise self.conflict_error(key, _CHANGE_TRIES)

    def conflict_error(self, key: str, times: int) -> StorageError:
        """The error of a caller that gives up after so many conflicts."""
        return StorageError(
            f"{self.uri(self.record_key(key))}: PutObject was refused {times} times, because others wrote the record "
            "in between each time. Nothing is lost; run it again when fewer workers ask for this request",
            transient=True,
        )

    async def _write(self, record: JobRecord, before: StoredRecord | None) -> StoredRecord:
        """One write under the condition that the record is still as it was before, or that there was none."""
        record = record.model_copy(update={"write_id": secrets.token_hex(16)})
        object_key = self.record_key(record.key)
        body = record.model_dump_json(indent=1, exclude_none=True).encode()
        etag = before.etag if before else None
        for attempt in range(_WRITE_TRIES):
            condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
            written, failure = await self._put(object_key, body, condition)
            if written is not None:
                return StoredRecord(record, written)
            refused = failure.http_status == 412
            try:
                seen = await self._look(record.key)
            except StorageError as error:
                if not error.transient:
                    raise
            else:
                if seen is not None and seen.record.write_id == record.write_id:
                    return StoredRecord(record, seen.etag)
                if before is not None and seen is not None and seen.record == before.record:
                    etag = seen.etag
                    if refused:
                        failure = self._refuses_its_etag(object_key)
                elif seen is not None:
                    raise RecordConflictError
                elif refused:
                    raise StorageError(
                        f"{self.uri(object_key)} is there but may not be read (s3:GetObject), or was deleted"
                    )
            # The outcome is unknown, or the record is as it was: the same write again, with the same write_id.
            if attempt + 1 < _WRITE_TRIES:
                await self._sleep(backoff(attempt))
        raise failure

    async def _put(self, object_key: str, body: bytes, condition: dict[str, Any]) -> tuple[str | None, StorageError]:
        """The ETag of what was written, or None and why it is not known to be written.

        Raises:
            StorageError: It surely was not written, and another try would not help.
        """
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": object_key, "ContentType": "application/json"}
        try:
            answer = await call_s3(self.s3.put_object, threads=self._threads, Body=body, **where, **condition)
        except S3_ERRORS as error:
            failure = storage_error(error, self.uri(object_key), self.s3, "PutObject")
            if status_of(error) != 412 and not failure.transient:
                raise failure from None
            return None, failure
        server = endpoint_of(None, self.s3, "PutObject")
        unknown = StorageError(f"{self.uri(object_key)}: no ETag in S3's answer{server}", transient=True)
        return strong_etag(answer["ETag"]) if answer.get("ETag") else None, unknown

    def _refuses_its_etag(self, object_key: str) -> StorageError:
        return StorageError(
            f"{self.uri(object_key)}: the S3 server at {self.s3.meta.endpoint_url} refuses PutObject with If-Match "
            f"and the ETag that it gave for this very object (412, {_WRITE_TRIES} times). It compares ETags in another "
            "form, or a proxy in front of it changes them: job records need If-Match as S3 has it (docs/bucket.md)",
            http_status=412,
        )

    async def index(self, record: JobRecord) -> None:
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

    async def unindex(self, key: str) -> None:
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
            await self.index(stored.record)
        if failure is not None:
            raise failure

    async def list_open_keys(self) -> list[str]:
        """The keys in the index of open jobs.

        Raises:
            StorageError: It may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        return [found.name for found in await self.list_objects("_open") if is_key(found.name)]

    def _get(self, object_key: str) -> StoredRecord:
        answer = self.s3.get_object(Bucket=self.bucket, Key=object_key)
        uri = self.uri(object_key)
        try:
            content = json.loads(answer["Body"].read())
            if "closed_for" in content:
                raise KeyClosedError(f"{uri} is a former key of a request; its job is {redact(content['closed_for'])}")
            if content["format"] > FORMAT:
                raise RecordMismatchError(
                    f"a newer version of prefect-loova wrote this: {uri} has format {redact(content['format'], 20)}: "
                    "upgrade prefect-loova to read it"
                )
            record = JobRecord.model_validate(content)
            if not record.attempts or self.record_key(record.key) != object_key:
                raise ValueError("no attempts, or another request's record")
            etag = strong_etag(answer["ETag"])
        except (ValueError, KeyError, TypeError, ValidationError, RecursionError):
            where = endpoint_of(None, self.s3, "GetObject")
            raise StorageError(f"{uri} is not a job record of prefect-loova{where}; nothing was changed") from None
        if record.api_origin != self.api_origin:
            raise RecordMismatchError(
                f"{uri} was made for {redact(record.api_origin)}, not for {self.api_origin}: use another prefix",
                is_other_api=True,
            )
        host = host_of(self.s3.meta.endpoint_url)
        return StoredRecord(record, etag, self._ages.age_of(answer, f"{host} {uri}", record.write_id, host))
