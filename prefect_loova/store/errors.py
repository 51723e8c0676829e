"""What S3 answers when a call did not work: which exceptions that is, and what they mean in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
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
"""Everything that boto3 raises for a call that did not work."""

CHECKSUM_HELP = (
    "the server does not take the checksums that boto3 sends by default. Set AWS_REQUEST_CHECKSUM_CALCULATION="
    "when_required and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required for each process that uses the bucket, or "
    "request_checksum_calculation and response_checksum_validation in the S3 block's client config (docs/bucket.md)"
)
"""What helps with a server that refuses checksums or trailers (R2, B2, Storj, Scality, by their users' reports)."""

_SPEAKS_OF_CHECKSUMS = re.compile(
    r"x-amz-(?:sdk-)?checksum|x-amz-trailer|unsigned-payload-trailer|trailing checksum|aws-chunked", re.IGNORECASE
)
_WRONG_CHECKSUM = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "PreconditionFailed"}
)
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}\b")


def storage_error(error: Exception, uri: str, s3: S3Client | None = None, operation: str = "") -> StorageError:
    """What S3 answered, in words: its own, without keys or signed URLs, with the operation and the server's host.

    Args:
        error: What boto3 raised.
        uri: The object or the folder.
        s3: The client that was used, which knows the server's address.
        operation: What was asked for, where boto3's exception does not say it: `GetObject`.
    """
    status, code, said = status_of(error), code_of(error), message_of(error)
    if isinstance(error, _LOST):
        why = f": {redact(error, 300)}" if isinstance(error, SSLError | ProxyConnectionError) else ""
        reason, transient = f"no answer from S3 ({type(error).__name__}{why})", True
    elif not isinstance(error, ClientError):
        reason, transient = f"S3 cannot be used: {redact(error)}", False
    elif code == "NoSuchBucket":
        reason, transient = f"the bucket does not exist ({said})", False
    elif status in (501, 405) or code == "NotImplemented":
        reason, transient = f"the S3 server does not support this ({status} {said})", False
    elif status in (401, 403):
        reason, transient = f"S3 refuses access ({said}): see docs/bucket.md for what is needed", False
    else:
        transient = status >= 500 or status in (408, 409, 429) or code in ("SlowDown", "RequestTimeout", "Throttling")
        reason = f"S3 answered {status} {said}"
    if refuses_checksums(error) and not _sends_none(s3):
        reason = f"{reason}: {CHECKSUM_HELP}"
    where = endpoint_of(error, s3, operation)
    return StorageError(f"{uri}: {reason}{where}", transient=transient, http_status=status or None)


def refuses_checksums(error: Exception) -> bool:
    """Whether the server says that it does not take the checksums, or the trailers, that boto3 sends by default."""
    if status_of(error) not in (400, 401, 403, 411, 501) or code_of(error) in _WRONG_CHECKSUM:
        return False
    return status_of(error) == 411 or _SPEAKS_OF_CHECKSUMS.search(message_of(error)) is not None


def endpoint_of(error: Exception | None, s3: S3Client | None, operation: str = "") -> str:
    """` (GetObject at s3.example.com)`, as far as it is known."""
    operation = operation or str(getattr(error, "operation_name", ""))
    url = s3.meta.endpoint_url if s3 else getattr(error, "kwargs", {}).get("endpoint_url")
    host = host_of(url) if isinstance(url, str) else ""
    known = " ".join(filter(None, (operation, host and f"at {host}")))
    return f" ({known})" if known else ""


def operation_of(method: str) -> str:
    """S3's name of an operation, from that of boto3's method: `get_object` is `GetObject`."""
    return "".join(word.capitalize() for word in method.split("_"))


def host_of(endpoint_url: str) -> str:
    """The host and the port of an endpoint, without credentials or a path."""
    return redact(urlsplit(endpoint_url).netloc.rpartition("@")[2], 200)


def message_of(error: Exception) -> str:
    """S3's own words for the error, as one harmless line: its code and its message."""
    answer = getattr(error, "response", None) or {}
    known = answer.get("Error", {}) if isinstance(answer, dict) else {}
    said = [str(known.get("Code", "")), str(known.get("Message", ""))]
    return redact(_ACCESS_KEY.sub("...", ": ".join(filter(None, said))), 300)


def status_of(error: Exception) -> int:
    """The HTTP status that S3 answered, or 0 where it did not answer."""
    answer = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0) if isinstance(answer, dict) else 0


def code_of(error: Exception) -> str:
    """S3's own word for the error, or nothing."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _sends_none(s3: S3Client | None) -> bool:
    names = ("request_checksum_calculation", "response_checksum_validation")
    return s3 is not None and all(getattr(s3.meta.config, name, None) == "when_required" for name in names)
