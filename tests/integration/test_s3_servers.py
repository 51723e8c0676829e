"""The S3 features that the product needs, and how the two servers of the tests implement them.

Where they differ from AWS, or from each other, the difference is asserted: a newer version that does better says so.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from prefect_loova.simulator.s3 import EmbeddedS3
from tests.support.s3_servers import PREFIX, Bucket, S3Server, minimal_policy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = f"{PREFIX}/k/record.json"
VIDEO = f"{PREFIX}/k/video.mp4"
WRONG_ETAG = '"00000000000000000000000000000000"'
WRONG_CRC32 = base64.b64encode(b"\0\0\0\0").decode()
PARTS = (b"a" * 5 * 1024**2, b"b" * 1000)


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """HTTP status and code of a call that is refused."""
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def uploads(bucket: Bucket) -> list[str]:
    return [upload["Key"] for upload in bucket.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


# -- conditional writes ------------------------------------------------------------------------------------------------


def test_exactly_one_of_several_racing_creates_wins(bucket: Bucket) -> None:
    s3 = bucket.make_limited_client(max_pool_connections=8, retries={"total_max_attempts": 1})

    def create(writer: int, race: int) -> str | None:
        try:
            s3.put_object(Bucket=bucket, Key=f"{KEY}-{race}", Body=str(writer).encode(), IfNoneMatch="*")
        except ClientError as error:
            # AWS answers 409 to some losers of a race; these two do not.
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return None
        return str(writer)

    with ThreadPoolExecutor(8) as writers:
        for race in range(10):
            won = [name for name in writers.map(create, range(8), [race] * 8) if name]
            assert won == [s3.get_object(Bucket=bucket, Key=f"{KEY}-{race}")["Body"].read().decode()]


def test_increments_by_compare_and_swap_are_all_kept(bucket: Bucket) -> None:
    s3 = bucket.make_limited_client(max_pool_connections=8, retries={"total_max_attempts": 1})
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"0", IfNoneMatch="*")

    def increment(_: int) -> None:
        while True:
            seen = s3.get_object(Bucket=bucket, Key=KEY)
            count = int(seen["Body"].read())
            try:
                s3.put_object(Bucket=bucket, Key=KEY, Body=str(count + 1).encode(), IfMatch=seen["ETag"])
                return
            except ClientError as error:
                assert error.response["Error"]["Code"] == "PreconditionFailed"

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(increment, range(8 * 20)))
    assert s3.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"160"


def test_a_create_over_an_object_and_a_write_over_another_version_are_refused(bucket: Bucket) -> None:
    s3 = bucket.limited_client
    etag = s3.put_object(Bucket=bucket, Key=KEY, Body=b"1")["ETag"]
    assert refusal(s3.put_object, Bucket=bucket, Key=KEY, Body=b"2", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refusal(s3.put_object, Bucket=bucket, Key=KEY, Body=b"2", IfMatch=WRONG_ETAG) == (412, "PreconditionFailed")
    answer = s3.get_object(Bucket=bucket, Key=KEY)
    assert (answer["Body"].read(), answer["ETag"]) == (b"1", etag)


def test_a_write_over_a_version_of_a_missing_object_is_refused(bucket: Bucket) -> None:
    expected = {"seaweedfs": (412, "PreconditionFailed"), "moto": (404, "NoSuchKey")}  # AWS: 404
    refused = refusal(bucket.limited_client.put_object, Bucket=bucket, Key=KEY, Body=b"1", IfMatch=WRONG_ETAG)
    assert refused == expected[bucket.server.name]


def test_an_answer_says_when_it_was_given_and_when_the_object_was_written(bucket: Bucket) -> None:
    bucket.limited_client.put_object(Bucket=bucket, Key=KEY, Body=b"1")
    headers = bucket.limited_client.get_object(Bucket=bucket, Key=KEY)["ResponseMetadata"]["HTTPHeaders"]
    age = parsedate_to_datetime(headers["date"]) - parsedate_to_datetime(headers["last-modified"])
    assert 0 <= age.total_seconds() < 60


# -- uploads in parts, and checksums -----------------------------------------------------------------------------------


def upload(s3: S3Client, bucket: Bucket, checksum: str) -> None:
    """Upload PARTS with a checksum of the whole object."""
    begun = s3.create_multipart_upload(Bucket=bucket, Key=VIDEO, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    which: dict[str, Any] = {"Bucket": bucket, "Key": VIDEO, "UploadId": begun["UploadId"]}
    parts: list[Any] = []
    for number, part in enumerate(PARTS, 1):
        etag = s3.upload_part(**which, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32")["ETag"]
        parts.append({"PartNumber": number, "ETag": etag, "ChecksumCRC32": crc32(part)})
    s3.complete_multipart_upload(
        **which, MultipartUpload={"Parts": parts}, ChecksumCRC32=checksum, ChecksumType="FULL_OBJECT"
    )


def test_an_upload_in_parts_keeps_a_checksum_of_the_whole_object(bucket: Bucket) -> None:
    whole = b"".join(PARTS)
    upload(bucket.limited_client, bucket, crc32(whole))
    head = bucket.limited_client.head_object(Bucket=bucket, Key=VIDEO, ChecksumMode="ENABLED")
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (crc32(whole), "FULL_OBJECT")
    assert bucket.limited_client.get_object(Bucket=bucket, Key=VIDEO)["Body"].read() == whole


def test_seaweedfs_refuses_an_upload_whose_checksum_is_wrong_and_moto_does_not_look(bucket: Bucket) -> None:
    s3 = bucket.make_limited_client(retries={"total_max_attempts": 1})
    if bucket.server.name == "moto":
        upload(s3, bucket, WRONG_CRC32)
        assert s3.head_object(Bucket=bucket, Key=VIDEO)["ContentLength"] == len(b"".join(PARTS))
    else:
        assert refusal(upload, s3=s3, bucket=bucket, checksum=WRONG_CRC32) == (400, "BadDigest")
        assert refusal(s3.get_object, Bucket=bucket, Key=VIDEO) == (404, "NoSuchKey")


def test_seaweedfs_refuses_an_object_or_a_part_whose_checksum_is_wrong_and_moto_does_not_look(bucket: Bucket) -> None:
    s3 = bucket.make_limited_client(retries={"total_max_attempts": 1})
    begun = s3.create_multipart_upload(Bucket=bucket, Key=VIDEO, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    part: dict[str, Any] = {"Bucket": bucket, "Key": VIDEO, "UploadId": begun["UploadId"], "PartNumber": 1}
    if bucket.server.name == "moto":
        s3.put_object(Bucket=bucket, Key=KEY, Body=b"1", ChecksumCRC32=WRONG_CRC32)
        s3.upload_part(**part, Body=b"1", ChecksumCRC32=WRONG_CRC32)
    else:
        refused = refusal(s3.put_object, Bucket=bucket, Key=KEY, Body=b"1", ChecksumCRC32=WRONG_CRC32)
        assert refused == (400, "BadDigest")
        assert refusal(s3.upload_part, **part, Body=b"1", ChecksumCRC32=WRONG_CRC32) == (400, "BadDigest")


def test_an_aborted_upload_leaves_nothing(bucket: Bucket) -> None:
    s3 = bucket.limited_client
    begun = s3.create_multipart_upload(Bucket=bucket, Key=VIDEO)
    which: dict[str, Any] = {"Bucket": bucket, "Key": VIDEO, "UploadId": begun["UploadId"]}
    s3.upload_part(**which, PartNumber=1, Body=PARTS[0])
    assert uploads(bucket) == [VIDEO]
    s3.abort_multipart_upload(**which)
    assert uploads(bucket) == []
    assert refusal(bucket.client.list_parts, **which) == (404, "NoSuchUpload")
    assert refusal(s3.get_object, Bucket=bucket, Key=VIDEO) == (404, "NoSuchKey")


# -- least privilege ---------------------------------------------------------------------------------------------------


def test_the_minimal_policy_allows_what_the_product_does(bucket: Bucket) -> None:
    s3, entry = bucket.limited_client, f"{PREFIX}/_open/k"
    s3.put_object(Bucket=bucket, Key=entry, Body=b"1", IfNoneMatch="*")
    s3.put_object(Bucket=bucket, Key=f"{PREFIX}/k/ä b+c.json", Body=b"1")
    assert s3.get_object(Bucket=bucket, Key=entry)["Body"].read() == b"1"
    assert s3.head_object(Bucket=bucket, Key=entry)["ContentLength"] == 1
    s3.delete_object(Bucket=bucket, Key=entry)
    upload(s3, bucket, crc32(b"".join(PARTS)))


def test_the_minimal_policy_is_enforced(bucket: Bucket) -> None:
    s3, denied = bucket.limited_client, (403, "AccessDenied")
    bucket.client.put_object(Bucket=bucket, Key="outside", Body=b"1")
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"1")
    assert refusal(s3.list_objects_v2, Bucket=bucket) == denied
    assert refusal(s3.list_objects_v2, Bucket=bucket, Prefix=f"{PREFIX}/") == denied
    assert refusal(s3.list_multipart_uploads, Bucket=bucket, Prefix=f"{PREFIX}/") == denied
    assert refusal(s3.head_bucket, Bucket=bucket) == (403, "403")
    assert refusal(s3.get_object, Bucket=bucket, Key="outside") == denied
    for key in ("outside", f"{PREFIX}-not/x", PREFIX):
        assert refusal(s3.put_object, Bucket=bucket, Key=key, Body=b"2") == denied
    for key in ("outside", KEY):
        assert refusal(s3.delete_object, Bucket=bucket, Key=key) == denied
    assert refusal(s3.create_multipart_upload, Bucket=bucket, Key="outside") == denied
    assert refusal(s3.create_bucket, Bucket=f"{bucket}-2") == denied


def test_the_user_of_one_bucket_may_do_nothing_in_another(s3_server: S3Server, bucket: Bucket) -> None:
    other = s3_server.make_bucket()
    try:
        assert refusal(bucket.limited_client.put_object, Bucket=other, Key=KEY, Body=b"1") == (403, "AccessDenied")
    finally:
        other.remove()


def test_a_missing_key_answers_404_here_and_403_on_aws(bucket: Bucket) -> None:
    as_here, as_on_aws = bucket.limited_client, bucket.client_as_on_aws
    assert refusal(as_here.get_object, Bucket=bucket, Key=KEY) == (404, "NoSuchKey")
    assert refusal(as_here.head_object, Bucket=bucket, Key=KEY) == (404, "404")
    assert refusal(as_on_aws.get_object, Bucket=bucket, Key=KEY) == (403, "AccessDenied")
    assert refusal(as_on_aws.head_object, Bucket=bucket, Key=KEY)[0] == 403
    as_on_aws.put_object(Bucket=bucket, Key=KEY, Body=b"1")
    assert as_on_aws.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"1"


def test_the_optional_statement_on_lists_covers_the_prefix_only_where_the_server_knows_conditions(
    s3_server: S3Server, bucket: Bucket
) -> None:
    policy = minimal_policy(bucket, PREFIX, optional=["OptionalTellMissingFromForbiddenAndListJobs"])
    s3 = s3_server.client_of(*s3_server.add_user(policy))
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"1")
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, Prefix=f"{PREFIX}/")["Contents"]] == [KEY]
    if s3_server.name == "moto":
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    else:
        assert refusal(s3.list_objects_v2, Bucket=bucket) == (403, "AccessDenied")


def test_the_optional_statement_on_uploads_is_unknown_to_seaweedfs(s3_server: S3Server, bucket: Bucket) -> None:
    policy = minimal_policy(bucket, PREFIX, optional=["OptionalFindUploadsLeftBehind"])
    if s3_server.name == "seaweedfs":
        assert refusal(s3_server.add_user, policy=policy) == (400, "MalformedPolicyDocument")
        return
    s3 = s3_server.client_of(*s3_server.add_user(policy))
    s3.create_multipart_upload(Bucket=bucket, Key=VIDEO)
    assert len(s3.list_multipart_uploads(Bucket=bucket, Prefix=f"{PREFIX}/")["Uploads"]) == 1


def test_a_wrong_secret_and_an_unknown_key_are_refused(s3_server: S3Server, bucket: Bucket) -> None:
    wrong = s3_server.client_of(s3_server.access_key, "wrong")
    unknown = s3_server.client_of("AKIAUNKNOWN", "wrong")
    assert refusal(wrong.put_object, Bucket=bucket, Key=KEY, Body=b"1") == (403, "SignatureDoesNotMatch")
    assert refusal(unknown.put_object, Bucket=bucket, Key=KEY, Body=b"1") == (403, "InvalidAccessKeyId")


# -- SeaweedFS only ----------------------------------------------------------------------------------------------------


def test_objects_and_open_uploads_of_seaweedfs_outlive_a_kill_of_the_server(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as s3:
        client = s3.client()
        client.put_object(Bucket=s3.bucket, Key=KEY, Body=b"450 credits")
        begun = client.create_multipart_upload(Bucket=s3.bucket, Key=VIDEO)
        which: dict[str, Any] = {"Bucket": s3.bucket, "Key": VIDEO, "UploadId": begun["UploadId"]}
        etag = client.upload_part(**which, PartNumber=1, Body=PARTS[0])["ETag"]
        s3.kill()
    with EmbeddedS3(tmp_path) as s3:
        assert s3.client().get_object(Bucket=s3.bucket, Key=KEY)["Body"].read() == b"450 credits"
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.client().complete_multipart_upload(**which, MultipartUpload=parts)
        assert s3.client().head_object(Bucket=s3.bucket, Key=VIDEO)["ContentLength"] == len(PARTS[0])
