"""What S3 answers when a call did not work: which exceptions that is, and what they mean in words."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.parsers import ResponseParserError

from prefect_loova.errors import StorageError, shown

_LOST = (HTTPClientError, ConnectionError, FlexibleChecksumError, IncompleteReadError, ResponseParserError)
S3_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""Everything that boto3 raises for a call that did not work."""


def storage_error(error: Exception, uri: str) -> StorageError:
    """What S3 answered, in words, without keys or signed URLs."""
    status, code = status_of(error), code_of(error)
    if isinstance(error, _LOST):
        reason, transient = f"no answer from S3 ({type(error).__name__})", True
    elif not isinstance(error, ClientError):
        reason, transient = f"S3 cannot be used: {shown(error)}", False
    elif code == "NoSuchBucket":
        reason, transient = "the bucket does not exist", False
    elif status in (501, 405) or code == "NotImplemented":
        reason, transient = (
            "the S3 server does not support what this needs (conditional writes, multipart uploads)",
            False,
        )
    elif status in (401, 403):
        reason, transient = f"S3 refuses access ({shown(code, 80)}): see docs/bucket.md for what is needed", False
    else:
        transient = status >= 500 or status in (408, 409, 429) or code in ("SlowDown", "RequestTimeout", "Throttling")
        reason = f"S3 answered {status} {shown(code, 80)}"
    return StorageError(f"{uri}: {reason}", transient=transient, http_status=status or None)


def status_of(error: Exception) -> int:
    """The HTTP status that S3 answered, or 0 where it did not answer."""
    answer = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0) if isinstance(answer, dict) else 0


def code_of(error: Exception) -> str:
    """S3's own word for the error, or nothing."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
