"""The exceptions of a failed S3 call, and their translation into `StorageError`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ProxyConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from prefect_loova.errors import StorageError, redact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LOST = (HTTPClientError, ConnectionError, FlexibleChecksumError, IncompleteReadError, ResponseParserError)
S3_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""All exceptions that boto3 raises for a failed call."""

CHECKSUM_HELP = (
    "the server does not accept the checksums that boto3 sends by default. Set AWS_REQUEST_CHECKSUM_CALCULATION="
    "when_required and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required for each process that uses the bucket, or "
    "request_checksum_calculation and response_checksum_validation in the S3 block's client config (docs/bucket.md)"
)
"""Advice for a server that refuses checksums or trailers (R2, B2, Storj, Scality, by reports of their users)."""

_CHECKSUM_HEADER = re.compile(
    r"x-amz-(?:sdk-)?checksum|x-amz-trailer|unsigned-payload-trailer|trailing checksum|aws-chunked", re.IGNORECASE
)
_WRONG_CHECKSUM = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "PreconditionFailed"}
)
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}\b")


def storage_error(error: Exception, uri: str, s3: S3Client | None = None, operation: str = "") -> StorageError:
    """Return the error of a failed call: S3's message without keys and signed URLs, the operation, and the host.

    Args:
        error: The exception of boto3.
        uri: The object or the folder.
        s3: The client that made the call; it knows the address of the server.
        operation: The operation, such as `GetObject`, if the exception does not name it.
    """
    status, code, message = status_of(error), code_of(error), message_of(error)
    if isinstance(error, _LOST):
        why = f": {redact(error, 300)}" if isinstance(error, SSLError | ProxyConnectionError) else ""
        reason, transient = f"no response from S3 ({type(error).__name__}{why})", True
    elif not isinstance(error, ClientError):
        reason, transient = f"S3 cannot be used: {redact(error)}", False
    elif code == "NoSuchBucket":
        reason, transient = f"the bucket does not exist ({message})", False
    elif status in (501, 405) or code == "NotImplemented":
        reason, transient = f"the S3 server does not support this ({status} {message})", False
    elif status in (401, 403):
        reason, transient = f"S3 denied access ({message}): docs/bucket.md lists the permissions", False
    else:
        transient = status >= 500 or status in (408, 409, 429) or code in ("SlowDown", "RequestTimeout", "Throttling")
        reason = f"S3 responded with {status} {message}"
    if refuses_checksums(error) and not _sends_no_checksums(s3):
        reason = f"{reason}: {CHECKSUM_HELP}"
    where = endpoint_of(error, s3, operation)
    return StorageError(f"{uri}: {reason}{where}", transient=transient, http_status=status or None)


def refuses_checksums(error: Exception) -> bool:
    """Return whether the server refused the checksums or the trailers that boto3 sends by default."""
    if status_of(error) not in (400, 401, 403, 411, 501) or code_of(error) in _WRONG_CHECKSUM:
        return False
    return status_of(error) == 411 or _CHECKSUM_HEADER.search(message_of(error)) is not None


def endpoint_of(error: Exception | None, s3: S3Client | None, operation: str = "") -> str:
    """Return ` (GetObject at s3.example.com)`, or the known part of it."""
    operation = operation or str(getattr(error, "operation_name", ""))
    url = s3.meta.endpoint_url if s3 else getattr(error, "kwargs", {}).get("endpoint_url")
    host = host_of(url) if isinstance(url, str) else ""
    known = " ".join(filter(None, (operation, host and f"at {host}")))
    return f" ({known})" if known else ""


def operation_of(method: str) -> str:
    """Return S3's operation of a boto3 method: `GetObject` for `get_object`."""
    return "".join(word.capitalize() for word in method.split("_"))


def host_of(endpoint_url: str) -> str:
    """Return the host and port of an endpoint, without credentials and path."""
    return redact(urlsplit(endpoint_url).netloc.rpartition("@")[2], 200)


def message_of(error: Exception) -> str:
    """Return S3's code and message for the error as one line without secrets."""
    details = _response_of(error).get("Error", {})
    parts = [str(details.get("Code", "")), str(details.get("Message", ""))]
    return redact(_ACCESS_KEY.sub("...", ": ".join(filter(None, parts))), 300)


def status_of(error: Exception) -> int:
    """Return the HTTP status of S3's response, or 0 if there was none."""
    return int(_response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def code_of(error: Exception) -> str:
    """Return S3's error code, or an empty string."""
    return str(_response_of(error).get("Error", {}).get("Code", ""))


def _response_of(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _sends_no_checksums(s3: S3Client | None) -> bool:
    names = ("request_checksum_calculation", "response_checksum_validation")
    return s3 is not None and all(getattr(s3.meta.config, name, None) == "when_required" for name in names)
