"""Copies of objects that S3 makes itself: no content passes through this machine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

from boto3.s3.transfer import TransferConfig

from prefect_loova.errors import StorageError
from prefect_loova.store.calls import THREADS, call_s3
from prefect_loova.store.errors import S3_ERRORS, storage_error
from prefect_loova.store.prefix import BucketPrefix

PART_BYTES = 64 * 1024**2
"""A larger object is copied in parts of this size, in bytes."""

COPY_SECONDS = 3600.0
"""The timeout of a copy in seconds."""


async def copy_object(
    source: BucketPrefix,
    source_key: str,
    target: BucketPrefix,
    target_key: str,
    content_type: str,
    metadata: Mapping[str, str],
    *,
    options: Mapping[str, Any],
    part_bytes: int = PART_BYTES,
    threads: Executor = THREADS,
) -> None:
    """Copy an object within an S3 server. An object with the target's key is replaced.

    Args:
        source: The bucket of the object.
        source_key: Its S3 key.
        target: The bucket of the copy. Its client makes the copy.
        target_key: The S3 key of the copy.
        content_type: The media type of the copy.
        metadata: The metadata of the copy, in ASCII.
        options: boto3's `ExtraArgs` of an upload. Those that describe the content are ignored.
        part_bytes: The size from which, and the parts in which, a large object is copied.
        threads: The executor for boto3's calls.

    Raises:
        StorageError: The object cannot be read, or the copy cannot be written.
    """
    extra = {name: value for name, value in options.items() if not name.startswith(("Checksum", "Content"))}
    extra |= {"TaggingDirective": "REPLACE"} if "Tagging" in extra else {}
    extra |= {"ContentType": content_type, "Metadata": dict(metadata), "MetadataDirective": "REPLACE"}
    try:
        await call_s3(
            target.s3.copy,
            threads=threads,
            seconds=COPY_SECONDS,
            CopySource={"Bucket": source.bucket, "Key": source_key},
            Bucket=target.bucket,
            Key=target_key,
            ExtraArgs=extra,
            # Without threads of its own, an interrupted process does not wait for the parts that are left.
            Config=TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes, use_threads=False),
        )
    except S3_ERRORS as error:
        failure = storage_error(error, target.uri(target_key), target.s3, "CopyObject")
        if failure.http_status == 403:
            needs = f"the copy of {source.uri(source_key)} needs s3:GetObject there and s3:PutObject here"
            raise StorageError(f"{failure.message}: {needs}", http_status=403) from None
        raise failure from None
