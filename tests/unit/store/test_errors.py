"""The error of a failed S3 call: the message of S3, the operation and the host, and no secrets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from prefect_loova.store.errors import CHECKSUM_HELP, operation_of, storage_error

URI = "s3://bucket/loova/key/record.json"


def client(url: str = "https://user:hidden@s3.example.com:9000/path?X=1", **config: str) -> Any:
    return SimpleNamespace(meta=SimpleNamespace(endpoint_url=url, config=SimpleNamespace(**config)))


def answered(status: int, code: str = "", message: str = "", operation: str = "GetObject") -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 411, 412, 416, 429, 500, 501, 503])
def test_every_error_has_the_servers_message_the_operation_and_the_host(status: int) -> None:
    error = storage_error(answered(status, "ItsCode", "its message"), URI, client())
    assert error.message.startswith(f"{URI}: ")
    assert "ItsCode: its message" in error.message
    assert "(GetObject at s3.example.com:9000)" in error.message
    assert error.http_status == status
    assert error.transient == ((status >= 500 and status != 501) or status in (409, 429))
    assert "hidden" not in str(error)


@pytest.mark.parametrize(
    "lost",
    [
        EndpointConnectionError(endpoint_url="https://s3.example.com/bucket/key?X-Amz-Signature=secret"),
        ConnectTimeoutError(endpoint_url="https://s3.example.com/bucket/key?X-Amz-Signature=secret"),
        ReadTimeoutError(endpoint_url="https://s3.example.com/bucket/key?X-Amz-Signature=secret"),
        SSLError(endpoint_url="https://s3.example.com/bucket", error="certificate verify failed"),
    ],
)
def test_a_lost_connection_names_operation_and_host(lost: Exception) -> None:
    for error in (storage_error(lost, URI, client("https://s3.example.com"), "PutObject"), storage_error(lost, URI)):
        assert f"no response from S3 ({type(lost).__name__}" in error.message
        assert "at s3.example.com)" in error.message
        assert error.transient
        assert "secret" not in str(error)
    assert "(PutObject at" in storage_error(lost, URI, client(), "PutObject").message


def test_an_untrusted_certificate_is_named_in_the_error() -> None:
    lost = SSLError(endpoint_url="https://s3.example.com/b", error="certificate verify failed: self-signed")
    assert "certificate verify failed: self-signed" in storage_error(lost, URI).message


def test_an_error_of_this_side_is_named() -> None:
    error = storage_error(NoCredentialsError(), URI, client(), "PutObject")
    assert "S3 cannot be used: Unable to locate credentials" in error.message
    assert not error.transient


@pytest.mark.parametrize(
    "message",
    [
        "The key AKIAIOSFODNN7EXAMPLE is unknown",
        "see https://s3.example.com/b/k?X-Amz-Signature=AKIAIOSFODNN7EXAMPLE",
        "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE/20260101",
        "ASIAIOSFODNN7EXAMPLE",
    ],
)
def test_a_servers_message_shows_no_access_key_and_no_signature(message: str) -> None:
    assert "IOSFODNN7EXAMPLE" not in str(storage_error(answered(403, "InvalidAccessKeyId", message), URI, client()))


def test_a_servers_message_is_one_short_line() -> None:
    error = storage_error(answered(400, "Bad" * 1000, "x\n\x1b[31m" * 100_000), URI, client())
    assert str(error).isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("status", "code", "message", "is_about_checksums"),
    [
        (501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER not implemented", True),
        (501, "NotImplemented", "Header 'x-amz-checksum-algorithm' with value 'CRC32' not implemented", True),
        (400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received for this API call.", True),
        (400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received", True),
        (411, "MissingContentLength", "You must provide the Content-Length HTTP header.", True),
        (400, "BadRequest", "trailing checksum is not supported", True),
        (501, "NotImplemented", "A header you provided implies functionality that is not implemented", False),
        (400, "BadDigest", "The x-amz-checksum-crc32 you specified did not match what we received.", False),
        (412, "PreconditionFailed", "x-amz-checksum-crc32", False),
        (503, "SlowDown", "x-amz-checksum-crc32", False),
        (403, "AccessDenied", "Access Denied", False),
    ],
)
def test_a_refusal_of_checksums_is_recognised_by_the_servers_message(
    status: int, code: str, message: str, is_about_checksums: bool
) -> None:
    told = storage_error(answered(status, code, message), URI, client()).message
    assert (CHECKSUM_HELP in told) == is_about_checksums
    set_already = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    assert CHECKSUM_HELP not in storage_error(answered(status, code, message), URI, client(**set_already)).message


@pytest.mark.parametrize(
    "operation", ["GetObject", "ListObjectsV2", "CreateMultipartUpload", "DeleteObject", "PutObject"]
)
@pytest.mark.parametrize("status", [501, 405])
def test_an_unsupported_operation_is_not_blamed_on_conditional_writes(operation: str, status: int) -> None:
    told = storage_error(answered(status, "NotImplemented", "no", operation), URI, client()).message
    assert "conditional" not in told
    assert operation in told


def test_s3s_name_of_an_operation_comes_from_boto3s_method() -> None:
    assert [operation_of(name) for name in ("get_object", "list_objects_v2", "create_multipart_upload")] == [
        "GetObject",
        "ListObjectsV2",
        "CreateMultipartUpload",
    ]
