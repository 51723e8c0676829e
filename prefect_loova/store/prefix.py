"""One prefix of one bucket: names, listings, and small objects."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.store.age import response_date
from prefect_loova.store.bucket_check import check_bucket, start_check
from prefect_loova.store.calls import THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, endpoint_of, operation_of, storage_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[^\s/]+(/[^\s/]+)*")
_BUCKET_URI = re.compile(r"s3://([A-Za-z0-9._-]{1,255})/?([^?#]*)", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
PROBES = "_open/_probe"
"""The folder for the probes of `bucket_check`. It is below `_open/`, where the least policy allows to delete."""
LISTING_SECONDS = 300.0
"""The timeout of a listing in seconds. A listing of 10,000 names has ten pages."""


class ListedObject(NamedTuple):
    """An object in a listing: its name below the folder, the time of its last write, and its age by S3's clock."""

    name: str
    written: datetime
    age: float = 0.0
    """In seconds; 0, the safe value, if the server sends no `Date`."""


def validate_bucket(name: str) -> str:
    """Return a valid bucket name or ARN of an access point unchanged.

    Raises:
        InvalidRequestError: The name is a URI, a URL or a path, or has characters that a bucket name cannot have.
    """
    if _BUCKET.fullmatch(name):
        return name
    uri = _BUCKET_URI.match(name)
    hint = f", {uri[1]}" if uri else ""
    below = f"; the rest goes into the prefix ({redact(repr(uri[2]), 80)})" if uri and uri[2] else ""
    raise InvalidRequestError(f"bucket: {redact(repr(name), 120)} was given: give the name{hint}{below}")


def strong_etag(etag: str) -> str:
    """Return an ETag without the mark of a weak one, for use as a condition of a write.

    A proxy that compresses responses adds the mark (`W/"..."`); the server compares only the quoted part.
    """
    return etag.removeprefix("W/")


def validate_prefix(prefix: str) -> str:
    """Return a valid key prefix without its trailing slash.

    Raises:
        InvalidRequestError: The prefix starts with `/`, has empty, `.` or `..` segments, control characters or
            backslashes, or is longer than 512 bytes. The error names the rule.
    """
    problem = path_problem(prefix.removesuffix("/")) if prefix else None
    if problem:
        raise InvalidRequestError(f"prefix: {redact(repr(prefix), 120)} was given: {problem}")
    return prefix.removesuffix("/")


def path_problem(path: str, max_bytes: int = 512) -> str | None:
    """Return the rule that a path of names with `/` between them breaks, or None."""
    if path.startswith("/"):
        return "must not start with /"
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        return "must not have empty, . or .. segments"
    if _UNSAFE.search(path) or not path.isprintable():
        return "must not have control characters or backslashes"
    if len(path.encode("utf-8", "surrogatepass")) > max_bytes:
        return f"must not be longer than {max_bytes:,} bytes"
    return None


class BucketPrefix:
    """The objects below one prefix of one bucket.

    Args:
        s3: A boto3 S3 client.
        bucket: The name of the bucket.
        prefix: The prefix of all keys.
        sleep: Waits for a number of seconds between tries.
        threads: The executor for boto3's calls.
    """

    def __init__(
        self,
        s3: S3Client,
        bucket: str,
        prefix: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        threads: Executor = THREADS,
    ) -> None:
        self.s3 = s3
        self.bucket = validate_bucket(bucket)
        self.prefix = validate_prefix(prefix)
        self.server_time: datetime | None = None
        """The `Date` header of the latest response to a read or write here, or None if it had none."""
        self._sleep = sleep
        self._threads = threads

    def object_key(self, *parts: str) -> str:
        """Return the S3 key of an object below the prefix."""
        return "/".join(filter(None, (self.prefix, *parts)))

    def uri(self, object_key: str) -> str:
        """Return the s3:// URI of an S3 key in this bucket."""
        return f"s3://{self.bucket}/{object_key}"

    def key_of(self, uri: str) -> str:
        """Return the S3 key of an s3:// URI in this bucket."""
        return uri.removeprefix(self.uri(""))

    def start_bucket_check(self) -> None:
        """Start the probe of the bucket in its thread, so that it runs while a run waits for other answers."""
        start_check(self.s3, self.bucket, self.object_key(PROBES))

    async def check_bucket(self) -> None:
        """Raise if the bucket cannot store job records and videos. `bucket_check` probes it once per process.

        Raises:
            StorageError: Names the missing feature or permission, before anything is spent.
        """
        await check_bucket(self.s3, self.bucket, self.object_key(PROBES))

    async def object_size(self, object_key: str, *, denied_is_missing: bool = False) -> int | None:
        """Return the size of an object in bytes, or None if S3 answers 404.

        Args:
            object_key: The S3 key of the object.
            denied_is_missing: Whether 403 counts as missing too, for a caller that writes the object next.

        Raises:
            StorageError: Any other error. After 403 the object may exist: S3 answers 403 if the client may not read
                the object, and for a missing object if it may not list the bucket (`s3:ListBucket`).
        """
        found = await self.head(object_key, denied_is_missing=denied_is_missing)
        return None if found is None else int(found["ContentLength"])

    async def head(self, object_key: str, *, denied_is_missing: bool = False) -> Any:
        """Return S3's response to HeadObject, or None if S3 answers 404. See `object_size`."""
        try:
            return await self._call(object_key, self.s3.head_object)
        except StorageError as error:
            if error.http_status == 404 or (error.http_status == 403 and denied_is_missing):
                return None
            if error.http_status == 403:
                hint = "the object may exist; allow s3:GetObject on it or s3:ListBucket to find out (docs/bucket.md)"
                raise StorageError(f"{error.message}; {hint}", http_status=403) from None
            raise

    async def list_objects(self, folder: str) -> list[ListedObject]:
        """Return the objects directly below a folder of the prefix.

        Raises:
            StorageError: The folder may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        below = f"{self.object_key(folder)}/"
        try:
            pages = await self._list(below)
        except S3_ERRORS as error:
            raise self._listing_error(error, below) from None
        objects = []
        for page in pages:
            now = response_date(page)
            for listed in page.get("Contents", []):
                name, written = listed["Key"].removeprefix(below), listed["LastModified"]
                age = max(0.0, (now - written).total_seconds()) if now else 0.0
                objects.append(ListedObject(name, written, age))
        return objects

    async def list_folders(self, beginning: str = "") -> list[str]:
        """Return the names of the folders directly below the prefix: one for each job with a record, and the indexes.

        Args:
            beginning: Return only names with this beginning.

        Raises:
            StorageError: The prefix may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        below = f"{self.prefix}/" if self.prefix else ""
        try:
            pages = await self._list(below + beginning)
        except S3_ERRORS as error:
            raise self._listing_error(error, below) from None
        folders = (folder["Prefix"] for page in pages for folder in page.get("CommonPrefixes", []))
        return [folder.removeprefix(below).removesuffix("/") for folder in folders]

    def _listing_error(self, error: Exception, below: str) -> StorageError:
        failure = storage_error(error, self.uri(below), self.s3, "ListObjectsV2")
        if failure.http_status != 403:
            return failure
        hint = "listing needs s3:ListBucket (docs/bucket.md); a job's whole key works without it"
        return StorageError(f"{failure.message}: {hint}", http_status=403)

    async def _list(self, below: str) -> list[Any]:
        def list_pages() -> list[Any]:
            paginator = self.s3.get_paginator("list_objects_v2")
            return list(paginator.paginate(Bucket=self.bucket, Prefix=below, Delimiter="/"))

        return await call_s3(list_pages, threads=self._threads, seconds=LISTING_SECONDS)

    async def get_json(self, object_key: str, *, denied_is_missing: bool = True) -> tuple[Any, str] | None:
        """Return the content of a small JSON object and its ETag, or None if it is missing.

        Args:
            object_key: The S3 key of the object.
            denied_is_missing: Whether 403 counts as missing: S3 answers it for a missing object without
                `s3:ListBucket`.

        Raises:
            StorageError: The object cannot be read, or is not JSON.
        """
        stored = await self.get_with_etag(object_key, denied_is_missing=denied_is_missing)
        try:
            return (json.loads(stored[0]), stored[1]) if stored else None
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{self.uri(object_key)} cannot be read ({redact(error)})", transient=True) from None

    async def get_with_etag(self, object_key: str, *, denied_is_missing: bool = True) -> tuple[bytes, str] | None:
        """Return the bytes of a small object and its ETag, or None if it is missing. See `get_json`.

        Raises:
            StorageError: The object cannot be read.
        """
        try:
            response = await self._call(object_key, self.s3.get_object)
            return await call_s3(response["Body"].read, threads=self._threads), strong_etag(response["ETag"])
        except StorageError as error:
            if error.http_status == 404 or (error.http_status == 403 and denied_is_missing):
                return None
            raise
        except KeyError:
            raise self.missing_etag(object_key, "GetObject") from None
        except S3_ERRORS as error:
            raise storage_error(error, self.uri(object_key), self.s3, "GetObject") from None

    async def put_json(self, object_key: str, content: Any, **condition: str) -> None:
        """Write a small JSON object.

        Raises:
            StorageError: With `http_status` 412, the condition is not met; else the bucket cannot be written.
        """
        body = json.dumps(content, ensure_ascii=False).encode()
        response = await self._call(
            object_key, self.s3.put_object, Body=body, ContentType="application/json", **condition
        )
        if not response.get("ETag"):
            raise self.missing_etag(object_key, "PutObject")

    def missing_etag(self, object_key: str, operation: str) -> StorageError:
        """Return the error of a response without an ETag."""
        where = endpoint_of(None, self.s3, operation)
        return StorageError(f"{self.uri(object_key)}: no ETag in S3's response{where}", transient=True)

    async def get_bytes(self, object_key: str, most: int) -> bytes | None:
        """Return a small object, or None if it is missing, may not be read, or has more than `most` bytes.

        Raises:
            StorageError: The object cannot be read.
        """
        try:
            response = await self._call(object_key, self.s3.get_object)
            if response["ContentLength"] > most:
                response["Body"].close()
                return None
            body: bytes = await call_s3(response["Body"].read, threads=self._threads)
        except StorageError as error:
            if error.http_status in (403, 404):
                return None
            raise
        except S3_ERRORS as error:
            raise storage_error(error, self.uri(object_key), self.s3, "GetObject") from None
        return body

    async def put_bytes(self, object_key: str, content: bytes, content_type: str, **options: Any) -> None:
        """Write a small object. An object with this key is overwritten.

        Args:
            object_key: The S3 key of the object.
            content: The bytes.
            content_type: The media type.
            options: boto3's `ExtraArgs` of an upload. Those that describe the content are ignored.

        Raises:
            StorageError: The bucket cannot be written.
        """
        extra = {name: value for name, value in options.items() if not name.startswith(("Checksum", "Content"))}
        await self._call(object_key, self.s3.put_object, Body=content, ContentType=content_type, **extra)

    async def delete(self, object_key: str) -> None:
        """Delete an object. A missing object is not an error.

        Raises:
            StorageError: The bucket cannot be written.
        """
        await self._call(object_key, self.s3.delete_object)

    async def _call(self, object_key: str, operation: Callable[..., Any], **arguments: Any) -> Any:
        try:
            response = await call_s3(operation, threads=self._threads, Bucket=self.bucket, Key=object_key, **arguments)
        except S3_ERRORS as error:
            self.server_time = response_date(getattr(error, "response", None))
            name = operation_of(operation.__name__)
            raise storage_error(error, self.uri(object_key), self.s3, name) from None
        self.server_time = response_date(response)
        return response
