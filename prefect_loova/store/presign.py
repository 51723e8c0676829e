"""Presigned URLs: they let anybody read one object for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def presign(s3: S3Client, bucket: str, object_key: str, seconds: int, **wanted: str) -> str:
    """A link by which anybody may load an object for a while: a secret.

    Args:
        s3: The client of who may read it; the link allows what its credentials do, and no longer than they are valid.
        bucket: The bucket's name.
        object_key: The object's key.
        seconds: For how long.
        wanted: Further parameters of GetObject, such as `VersionId`.
    """
    s3.meta.events.register_first("choose-signer.s3.GetObject", _by_version_4, unique_id=__name__)  # type: ignore[arg-type]
    return s3.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": object_key} | wanted, ExpiresIn=seconds
    )


def _by_version_4(signature_version: str, **_: Any) -> str | None:
    """Sign a link as anything else: boto3 falls back to version 2, which encrypted buckets and some servers refuse."""
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None
