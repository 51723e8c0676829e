"""One prefix of one bucket: names, listings, and small JSON objects."""

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
from prefect_loova.store.bucket_check import check_bucket
from prefect_loova.store.calls import THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, endpoint_of, operation_of, storage_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[^\s/]+(/[^\s/]+)*")
_BUCKET_URI = re.compile(r"s3://([A-Za-z0-9._-]{1,255})/?([^?#]*)", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
PROBES = "_open/_probe"
"""Where each process writes what shows that the bucket can be used: below `_open/`, as deleting is allowed there."""
LISTING_SECONDS = 300.0
"""How long a listing may take, in seconds: of 10,000 names it has ten pages."""


class ListedObject(NamedTuple):
    """An object as a listing shows it: its name below the folder, when S3 wrote it, and its age, by S3's clock."""

    name: str
    written: datetime
    age: float = 0.0
    """In seconds; 0, the careful answer, where the server does not tell the time."""


def validate_bucket(name: str) -> str:
    """A bucket's name, or the ARN of an access point.

    Raises:
        InvalidRequestError: It is a URI, a URL or a path, or has characters that no bucket's name has.
    """
    if _BUCKET.fullmatch(name):
        return name
    of_uri = _BUCKET_URI.match(name)
    hint = f", {of_uri[1]}" if of_uri else ""
    below = f"; what follows it goes into the prefix ({redact(repr(of_uri[2]), 80)})" if of_uri and of_uri[2] else ""
    raise InvalidRequestError(f"bucket: {redact(repr(name), 120)} was given: give the name{hint}{below}")


def strong_etag(etag: str) -> str:
    """An ETag as a condition of a write takes it: a proxy that compresses marks them as weak (`W/"..."`).

    The mark is the proxy's; what stands in the quotes is the server's, and the server compares it.
    """
    return etag.removeprefix("W/")


def validate_prefix(prefix: str) -> str:
    """A key prefix without a trailing slash, or an error that names the rule.

    Raises:
        InvalidRequestError: It starts with `/`, has empty, `.` or `..` segments, control characters or backslashes, or
            is longer than 512 bytes.
    """
    problem = None
    segments = prefix.removesuffix("/").split("/") if prefix else []
    if prefix.startswith("/"):
        problem = "must not start with /"
    elif any(segment in ("", ".", "..") for segment in segments):
        problem = "must not have empty, . or .. segments"
    elif _UNSAFE.search(prefix) or not prefix.isprintable():
        problem = "must not have control characters or backslashes"
    elif len(prefix.encode("utf-8", "surrogatepass")) > 512:
        problem = "must not be longer than 512 bytes"
    if problem:
        raise InvalidRequestError(f"prefix: {redact(repr(prefix), 120)} was given: {problem}")
    return "/".join(segments)


def _age(now: datetime | None, found: Any) -> float:
    return max(0.0, (now - found["LastModified"]).total_seconds()) if now else 0.0


class BucketPrefix:
    """What stands below one prefix of one bucket.

    Args:
        s3: A boto3 S3 client.
        bucket: The bucket's name.
        prefix: Where in the bucket.
        sleep: How to wait between tries, in seconds.
        threads: Where boto3's calls run.
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
        """S3's `Date` in the answer to the latest read or write of an object here; None where it named none."""
        self._sleep = sleep
        self._threads = threads

    def object_key(self, *parts: str) -> str:
        """The S3 key of something below the prefix."""
        return "/".join(filter(None, (self.prefix, *parts)))

    def uri(self, object_key: str) -> str:
        """An S3 key of this bucket as an s3:// URI."""
        return f"s3://{self.bucket}/{object_key}"

    async def check_conditional_writes(self) -> None:
        """Refuse a bucket that cannot carry job records and videos. It is asked once in a process (`bucket_check`).

        Raises:
            StorageError: Says what is missing, before anything is spent.
        """
        await check_bucket(self.s3, self.bucket, self.object_key(PROBES))

    async def object_size(self, object_key: str, *, denied_is_missing: bool = False) -> int | None:
        """The size of an object in bytes, or None where S3 says that it is not there (404).

        Args:
            object_key: Where.
            denied_is_missing: Whether 403 counts as missing too: for those who write the object then.

        Raises:
            StorageError: Any other answer. With 403 the object may be there: S3 answers so to a key that may not read
                it, and, without `s3:ListBucket`, also where there is none.
        """
        try:
            answer = await self._call(object_key, self.s3.head_object)
        except StorageError as error:
            if error.http_status == 404 or (error.http_status == 403 and denied_is_missing):
                return None
            if error.http_status == 403:
                hint = "it may be there: s3:GetObject on it, or s3:ListBucket, lets S3 tell (docs/bucket.md)"
                raise StorageError(f"{error.message}; {hint}", http_status=403) from None
            raise
        return int(answer["ContentLength"])

    async def list_objects(self, folder: str) -> list[ListedObject]:
        """The objects straight below a folder of the prefix.

        Raises:
            StorageError: It may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        below = f"{self.object_key(folder)}/"

        def names() -> list[ListedObject]:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below, Delimiter="/")
            return [
                ListedObject(found["Key"].removeprefix(below), found["LastModified"], _age(response_date(page), found))
                for page in pages
                for found in page.get("Contents", [])
            ]

        try:
            return await call_s3(names, threads=self._threads, seconds=LISTING_SECONDS)
        except S3_ERRORS as error:
            failure = storage_error(error, self.uri(below), self.s3, "ListObjectsV2")
            if failure.http_status == 403:
                hint = "listing it needs s3:ListBucket (docs/bucket.md); a job's whole key works without it"
                failure = StorageError(f"{failure.message}: {hint}", http_status=403)
            raise failure from None

    async def list_folders(self) -> list[str]:
        """The names of the folders straight below the prefix: one for each job that has a record, and the indexes.

        Raises:
            StorageError: It may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        below = f"{self.prefix}/" if self.prefix else ""

        def names() -> list[str]:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below, Delimiter="/")
            folders = (found for page in pages for found in page.get("CommonPrefixes", []))
            return [found["Prefix"].removeprefix(below).removesuffix("/") for found in folders]

        try:
            return await call_s3(names, threads=self._threads, seconds=LISTING_SECONDS)
        except S3_ERRORS as error:
            raise storage_error(error, self.uri(below)) from None

    async def get_json(self, object_key: str, *, denied_is_missing: bool = True) -> tuple[Any, str] | None:
        """A small JSON object and its ETag, or None where it is missing.

        Args:
            object_key: Where.
            denied_is_missing: Whether 403 counts as missing, as S3 answers it without `s3:ListBucket`.

        Raises:
            StorageError: It cannot be read, or is no JSON.
        """
        found = await self.get_with_etag(object_key, denied_is_missing=denied_is_missing)
        try:
            return (json.loads(found[0]), found[1]) if found else None
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{self.uri(object_key)} cannot be read ({redact(error)})", transient=True) from None

    async def get_with_etag(self, object_key: str, *, denied_is_missing: bool = True) -> tuple[bytes, str] | None:
        """A small object and its ETag, or None where it is missing; see `get_json`.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            answer = await self._call(object_key, self.s3.get_object)
            return await call_s3(answer["Body"].read, threads=self._threads), strong_etag(answer["ETag"])
        except StorageError as error:
            if error.http_status == 404 or (error.http_status == 403 and denied_is_missing):
                return None
            raise
        except KeyError:
            where = endpoint_of(None, self.s3, "GetObject")
            raise StorageError(f"{self.uri(object_key)}: no ETag in S3's answer{where}", transient=True) from None
        except S3_ERRORS as error:
            raise storage_error(error, self.uri(object_key), self.s3, "GetObject") from None

    async def put_json(self, object_key: str, content: Any, **condition: str) -> None:
        """Write a small JSON object.

        Raises:
            StorageError: With `http_status` 412, the condition does not hold; else the bucket cannot be written.
        """
        body = json.dumps(content, ensure_ascii=False).encode()
        answer = await self._call(
            object_key, self.s3.put_object, Body=body, ContentType="application/json", **condition
        )
        if not answer.get("ETag"):
            where = endpoint_of(None, self.s3, "PutObject")
            raise StorageError(f"{self.uri(object_key)}: no ETag in S3's answer{where}", transient=True)

    async def get_bytes(self, object_key: str, most: int) -> bytes | None:
        """A small object, or None where it is missing (or may not be seen), or larger than `most` bytes.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            answer = await self._call(object_key, self.s3.get_object)
            if answer["ContentLength"] > most:
                answer["Body"].close()
                return None
            body: bytes = await call_s3(answer["Body"].read, threads=self._threads)
        except StorageError as error:
            if error.http_status in (403, 404):
                return None
            raise
        except S3_ERRORS as error:
            raise storage_error(error, self.uri(object_key), self.s3, "GetObject") from None
        return body

    async def put_bytes(self, object_key: str, content: bytes, content_type: str, **options: Any) -> None:
        """Write a small object, whatever is there.

        Args:
            object_key: Where.
            content: What.
            content_type: Its media type.
            options: boto3's `ExtraArgs` of an upload; those that say what is in it are left out.

        Raises:
            StorageError: The bucket cannot be written.
        """
        kept = {name: value for name, value in options.items() if not name.startswith(("Checksum", "Content"))}
        await self._call(object_key, self.s3.put_object, Body=content, ContentType=content_type, **kept)

    async def delete(self, object_key: str) -> None:
        """Delete an object of an index; one that is not there is no error.

        Raises:
            StorageError: The bucket cannot be written.
        """
        await self._call(object_key, self.s3.delete_object)

    async def _call(self, object_key: str, operation: Callable[..., Any], **arguments: Any) -> Any:
        try:
            answer = await call_s3(operation, threads=self._threads, Bucket=self.bucket, Key=object_key, **arguments)
        except S3_ERRORS as error:
            self.server_time = response_date(getattr(error, "response", None))
            name = operation_of(operation.__name__)
            raise storage_error(error, self.uri(object_key), self.s3, name) from None
        self.server_time = response_date(answer)
        return answer
