"""Presigned URLs: they let anybody read one object for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def presign(s3: S3Client, bucket: str, object_key: str, seconds: int, **parameters: str) -> str:
    """Return a secret URL by which anybody may read an object for a while.

    Args:
        s3: A boto3 S3 client. The URL allows what its credentials allow, and no longer than they are valid.
        bucket: The name of the bucket.
        object_key: The S3 key of the object.
        seconds: How long the URL is valid.
        parameters: Further parameters of GetObject, such as `VersionId`.
    """
    s3.meta.events.register_first("choose-signer.s3.GetObject", _by_version_4, unique_id=__name__)  # type: ignore[arg-type]
    return s3.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": object_key} | parameters, ExpiresIn=seconds
    )


def _by_version_4(signature_version: str, **_: Any) -> str | None:
    """Choose signature version 4: for URLs boto3 falls back to 2, which encrypted buckets and some servers refuse."""
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None
