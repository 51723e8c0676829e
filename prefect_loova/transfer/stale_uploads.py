"""Aborts the multipart uploads that earlier copies left behind in S3."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import StorageError
from prefect_loova.store.calls import call_s3
from prefect_loova.store.errors import S3_ERRORS, code_of, status_of, storage_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

ALWAYS_EVEN_ABORT = frozenset({"RequestPayer", "ExpectedBucketOwner"})
"""The upload options that every request needs, even an abort."""

ABORT_SECONDS = 120.0
"""How long finding and aborting the uploads of one key may take, in seconds."""

_RETRYABLE = frozenset({"NoSuchUpload", "InvalidPart", "BadDigest", "XAmzContentSHA256Mismatch"})
_DENIED = frozenset({401, 403, 405, 501})
_MAY_NOT_LIST = frozenset({"AccessDenied", "403", "NotImplemented", "MethodNotAllowed"})


async def abort_uploads(
    s3: S3Client,
    bucket: str,
    key: str,
    upload_id: str | None = None,
    *,
    keep: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Abort the unfinished uploads of a key. Only the holder of the lease for saving it may call this.

    An upload without a known id is found only if the credentials may list uploads. If S3 denies an abort, the upload is
    logged and left: it costs storage, but must not stop a good video from being saved.

    Args:
        s3: A boto3 S3 client.
        bucket: The bucket's name.
        key: The object's key. Uploads of other keys are not touched.
        upload_id: A known upload, from the expired lease.
        keep: An upload to keep.
        options: The `options` of the target.

    Returns:
        How many uploads were aborted.

    Raises:
        StorageError: S3 cannot be reached, or fails.
    """
    common = {name: value for name, value in (options or {}).items() if name in ALWAYS_EVEN_ABORT}

    def abort_all() -> int:
        ids = {upload_id} if upload_id else set()
        try:
            for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key, **common):
                ids |= {upload["UploadId"] for upload in page.get("Uploads", []) if upload["Key"] == key}
        except ClientError as error:
            if code_of(error) not in _MAY_NOT_LIST:
                raise
        return abort(s3, bucket, key, ids - {keep}, common)

    try:
        return await run_uncancelled(call_s3(abort_all, seconds=ABORT_SECONDS))
    except S3_ERRORS as error:
        raise s3_failure(error, f"s3://{bucket}/{key}", s3, "AbortMultipartUpload") from None


def abort(s3: S3Client, bucket: str, key: str, upload_ids: set[str], options: dict[str, Any]) -> int:
    """Abort uploads. Return how many still existed. Logs those that S3 refuses to abort."""
    aborted = 0
    for upload_id in upload_ids:
        try:
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id, **options)
            aborted += 1
        except ClientError as error:
            if code_of(error) == "NoSuchUpload":
                continue
            if status_of(error) not in _DENIED:
                raise
            log.warning(
                "an unfinished upload of s3://%s/%s was left behind: S3 refuses to abort it (%s). Allow "
                "s3:AbortMultipartUpload, or add a lifecycle rule that aborts incomplete uploads",
                bucket,
                key,
                code_of(error),
            )
    return aborted


def s3_failure(error: Exception, uri: str, s3: S3Client, operation: str) -> StorageError:
    """Return a `StorageError` for a paid video. A lost upload or a corrupted part counts as transient."""
    failure = storage_error(error, uri, s3, operation)
    failure.credits_spent = "yes"
    failure.transient = failure.transient or code_of(error) in _RETRYABLE
    return failure
