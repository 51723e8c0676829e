"""Job records in S3. All writes are compare-and-swap.

A write is conditional (`If-None-Match: *` to create, `If-Match` to advance) and has a new random `write_id`. If the
outcome is unknown (a lost response, a 500, or a 412 after a retry by boto3), the record is read back. Only exactly this
`write_id` proves that the write was applied.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from prefect_loova._timing import backoff
from prefect_loova.errors import RecordMismatchError, StorageError, redact
from prefect_loova.models.job_record import FORMAT, JobRecord
from prefect_loova.store.age import PROCESS_AGES, ObjectAges
from prefect_loova.store.calls import THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, code_of, endpoint_of, host_of, status_of, storage_error
from prefect_loova.store.prefix import BucketPrefix, strong_etag

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_KEY = re.compile(r"[0-9a-f]{64}")
_WRITE_TRIES = 6
_CHANGE_TRIES = 12


def is_key(name: str) -> bool:
    """Return whether a name has the form of a request's key."""
    return _KEY.fullmatch(name) is not None


@dataclass(frozen=True)
class StoredRecord:
    """A job record as read from S3.

    Attributes:
        record: The content.
        etag: The ETag, the condition of the next write.
        age: The seconds since the last write, or fewer. See `ObjectAges`.
    """

    record: JobRecord
    etag: str
    age: float = 0.0


class RecordConflictError(Exception):
    """Another worker changed the record; read it again."""


class KeyClosedError(RecordMismatchError):
    """The key is a former key of a request (`former_keys`). It has no job and must not buy one."""


class JobRecords(BucketPrefix):
    """The job records of one API below one prefix of one bucket.

    Args:
        s3: A boto3 S3 client.
        bucket: The name of the bucket.
        prefix: The prefix. The objects of a video are below `{prefix}/{key}/`, the index of open jobs is
            `{prefix}/_open/`.
        api_origin: The origin of the API. A record of another API is refused.
        sleep: Waits for a number of seconds between tries.
        ages: The ages of the objects that are read.
        threads: The executor for boto3's calls.
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
        """Return the S3 key of a request's job record."""
        return self.object_key(key, "record.json")

    async def read(self, key: str, *, denied_is_missing: bool = True) -> StoredRecord | None:
        """Return the record of a request, or None if there is none.

        Args:
            key: The key of the request.
            denied_is_missing: Whether 403 counts as missing. S3 answers 403 for a missing key without
                `s3:ListBucket`. This is for a caller that creates the record next, which shows whether it exists.

        Raises:
            StorageError: The bucket cannot be read.
            RecordMismatchError: The record is of another API, or of a newer format.
        """
        return await self._retry(lambda: self._read_once(key, denied_is_missing))

    async def read_or_list(self, key: str) -> StoredRecord | None:
        """Read as `read` does, but after 403 list the folder to learn whether the record exists.

        If S3 may list, it answers 404 for a missing record, so 403 means that the record may not be read. Only if
        listing is denied too, the record counts as missing.

        Raises:
            StorageError: See `read`; or the record exists and may not be read.
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

    async def _read_once(self, key: str, denied_is_missing: bool = True) -> StoredRecord | None:
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
        """Return the record of a request. Unlike `read`, raise if there is none.

        Raises:
            StorageError: See `read`; or the record is missing or may not be read.
        """
        stored = await self.read(key)
        if stored is None:
            uri = self.uri(self.record_key(key))
            raise StorageError(f"the job record {uri} is missing or may not be read (s3:GetObject)")
        return stored

    async def create(self, record: JobRecord) -> StoredRecord:
        """Write the first record of a request.

        Raises:
            RecordConflictError: There already is a record.
            StorageError: The bucket cannot be written.
        """
        return await self._write(record, before=None)

    async def advance(self, stored: StoredRecord, record: JobRecord) -> StoredRecord:
        """Write the next version of a record if nobody has changed it since `stored` was read.

        Raises:
            RecordConflictError: Another worker changed the record.
            StorageError: The bucket cannot be written, the record is missing, or the server refuses its own ETag.
        """
        return await self._write(record, before=stored)

    async def change(
        self, key: str, change: Callable[[JobRecord], JobRecord], *, known: StoredRecord | None = None
    ) -> StoredRecord:
        """Apply a change to the current record. On a conflict, read the record and apply the change again.

        Args:
            key: The key of the request.
            change: Returns the next record, or the same object if there is nothing to write.
            known: The record as it was last seen. The first try is on this version and does not read the record.

        Raises:
            StorageError: The bucket cannot be read or written, or each try had a conflict.
        """
        for attempt in range(_CHANGE_TRIES):
            stored = known or await self.expect(key)
            record = change(stored.record)
            try:
                if record is not stored.record:
                    return await self.advance(stored, record)
                if known is None:
                    return stored
            except RecordConflictError:
                if known is None:
                    await self._sleep(backoff(attempt, first=0.05, most=10.0))
            known = None
        raise self.conflict_error(key, _CHANGE_TRIES)

    def conflict_error(self, key: str, times: int) -> StorageError:
        """Return the error for a caller that gives up after this number of conflicts."""
        return StorageError(
            f"{self.uri(self.record_key(key))}: S3 refused PutObject {times} times, because another worker changed the "
            "record each time. Nothing is lost; run it again when fewer workers use this request",
            transient=True,
        )

    async def _write(self, record: JobRecord, before: StoredRecord | None) -> StoredRecord:
        """Write a record on the condition that it is still as it was `before`, or that there was none."""
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
                current = await self._read_once(record.key)
            except StorageError as error:
                if not error.transient:
                    raise
            else:
                if current is not None and current.record.write_id == record.write_id:
                    return StoredRecord(record, current.etag)
                if before is not None and current is not None and current.record == before.record:
                    etag = current.etag
                    if refused:
                        failure = self._refused_etag(object_key)
                elif current is not None:
                    raise RecordConflictError
                elif refused:
                    raise StorageError(
                        f"{self.uri(object_key)} exists but may not be read (s3:GetObject), or was deleted"
                    )
            # The outcome is unknown, or the record is unchanged: repeat the write with the same write_id.
            if attempt + 1 < _WRITE_TRIES:
                await self._sleep(backoff(attempt))
        raise failure

    async def _put(self, object_key: str, body: bytes, condition: dict[str, Any]) -> tuple[str | None, StorageError]:
        """Return the ETag of the written object, or None and the reason why another try may help."""
        target: dict[str, Any] = {"Bucket": self.bucket, "Key": object_key, "ContentType": "application/json"}
        try:
            response = await call_s3(self.s3.put_object, threads=self._threads, Body=body, **target, **condition)
        except S3_ERRORS as error:
            failure = storage_error(error, self.uri(object_key), self.s3, "PutObject")
            if status_of(error) != 412 and not failure.transient:
                raise failure from None
            return None, failure
        etag = strong_etag(response["ETag"]) if response.get("ETag") else None
        return etag, self.missing_etag(object_key, "PutObject")

    def _refused_etag(self, object_key: str) -> StorageError:
        return StorageError(
            f"{self.uri(object_key)}: the S3 server at {self.s3.meta.endpoint_url} refuses PutObject with If-Match "
            f"and the ETag that it returned for this object (412, {_WRITE_TRIES} times). It compares ETags in another "
            "form, or a proxy changes them. Job records need If-Match as in Amazon S3 (docs/bucket.md)",
            http_status=412,
        )

    async def index(self, record: JobRecord) -> None:
        """Add a job to the index of open jobs.

        Raises:
            StorageError: The bucket cannot be written.
        """
        entry = {"key": record.key, "api_origin": record.api_origin, "request": record.request}
        await self._retry(lambda: self.put_json(self.object_key("_open", record.key), entry))

    async def unindex(self, key: str) -> None:
        """Remove a job from the index of open jobs, and add it again if its record is open.

        Raises:
            StorageError: The bucket cannot be written.
        """
        failure: StorageError | None = None
        try:
            await self.delete(self.object_key("_open", key))
        except StorageError as error:  # the response may be lost although the entry is deleted
            failure = error
        stored = await self.read(key)
        if stored is not None and stored.record.is_open:
            await self.index(stored.record)
        if failure is not None:
            raise failure

    async def list_open_keys(self) -> list[str]:
        """Return the keys in the index of open jobs.

        Raises:
            StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        return [entry.name for entry in await self.list_objects("_open") if is_key(entry.name)]

    async def _retry(self, operation: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(_WRITE_TRIES):
            try:
                return await operation()
            except StorageError as error:
                if not error.transient or attempt + 1 == _WRITE_TRIES:
                    raise
                await self._sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def _get(self, object_key: str) -> StoredRecord:
        response = self.s3.get_object(Bucket=self.bucket, Key=object_key)
        uri = self.uri(object_key)
        try:
            content = json.loads(response["Body"].read())
            if "closed_for" in content:
                raise KeyClosedError(f"{uri} is a former key of a request; its job is {redact(content['closed_for'])}")
            if content["format"] > FORMAT:
                raise RecordMismatchError(
                    f"a newer version of prefect-loova wrote {uri}, in format {redact(content['format'], 20)}: "
                    "upgrade prefect-loova to read it"
                )
            record = JobRecord.model_validate(content)
            if not record.attempts or self.record_key(record.key) != object_key:
                raise ValueError("no attempts, or the record of another request")
            etag = strong_etag(response["ETag"])
        except (ValueError, KeyError, TypeError, RecursionError):
            where = endpoint_of(None, self.s3, "GetObject")
            raise StorageError(f"{uri} is not a job record of prefect-loova{where}; nothing was changed") from None
        if record.api_origin != self.api_origin:
            raise RecordMismatchError(
                f"{uri} was made for {redact(record.api_origin)}, not for {self.api_origin}: use another prefix",
                is_other_api=True,
            )
        host = host_of(self.s3.meta.endpoint_url)
        return StoredRecord(record, etag, self._ages.age_of(response, f"{host} {uri}", record.write_id, host))
