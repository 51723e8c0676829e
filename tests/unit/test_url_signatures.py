"""Signatures of URLs: each store's is left out of a request's key where it is whole, and nothing else is."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova._url_signatures import SIGNATURES, without_former_signature, without_signature
from prefect_loova.models.request import VideoRequest

SAS = "sv=2024-11-04&st=2026-01-01T00%3A00%3A00Z&se=2026-01-02T00%3A00%3A00Z&sr=b&sp=r&spr=https&sig={}%3D"
TOS = (
    "X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Credential=AK%2F20260101%2Fcn-beijing%2Ftos%2Frequest"
    "&X-Tos-Date=20260101T000000Z&X-Tos-Expires=60&X-Tos-SignedHeaders=host&X-Tos-Signature={}"
)
OSS_4 = (
    "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=AK%2F20260101%2Fcn-hangzhou%2Foss%2Faliyun_v4_request"
    "&x-oss-date=20260101T000000Z&x-oss-expires=60&x-oss-additional-headers=host&x-oss-signature={}"
)
COS = (
    "q-sign-algorithm=sha1&q-ak=AKID&q-sign-time=1800000000;1800000060&q-key-time=1800000000;1800000060"
    "&q-header-list=host&q-url-param-list=&q-signature={}"
)
LINKS = {
    "Amazon S3, version 2": "AWSAccessKeyId=AKIA&Signature={}%3D&x-amz-security-token=t%2B&Expires=1800000000",
    "Amazon S3, version 4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101&X-Amz-Expires=60"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Security-Token=t%2Bt&X-Amz-SignedHeaders=host&X-Amz-Signature={}",
    "Google Cloud Storage, version 2": "GoogleAccessId=a%40b.iam.gserviceaccount.com&Expires=1800000000&Signature={}",
    "Google Cloud Storage, version 4": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b&X-Goog-Expires=9"
    "&X-Goog-Date=20260101T000000Z&X-Goog-SignedHeaders=host&X-Goog-Signature={}",
    "Azure Storage, shared access signature": SAS + "&skoid=a&sktid=b&skdutid=c&sduoid=d",
    "Volcengine TOS, version 4": TOS + "&X-Tos-Security-Token=t",
    "Alibaba Cloud OSS, version 1": "OSSAccessKeyId=LTAI&Expires=1800000000&Signature={}%3D&security-token=CAIS%2B",
    "Alibaba Cloud OSS, version 2": "x-oss-signature-version=OSS2&x-oss-expires=1800000000&x-oss-access-key-id=LTAI"
    "&x-oss-additional-headers=referer&x-oss-signature={}%3D",
    "Alibaba Cloud OSS, version 4": OSS_4 + "&x-oss-security-token=t",
    "Tencent COS": COS + "&x-cos-security-token=t",
    "Amazon CloudFront, canned policy": "Expires=1800000000&Signature={}~-_&Key-Pair-Id=K2JCJMDEHXQW5F"
    "&Hash-Algorithm=SHA256",
    "Amazon CloudFront, custom policy": "Policy=eyJ__&Signature={}~&Key-Pair-Id=K2JCJMDEHXQW5F",
}
PLACE = "https://bucket.example/cats/cat.png"


def test_each_known_signature_has_a_link_here_and_a_source() -> None:
    assert list(LINKS) == [one.store for one in SIGNATURES]
    assert all(one.source.startswith("https://") for one in SIGNATURES)
    assert all(one.needs == {name.lower() for name in one.needs} for one in SIGNATURES)


@pytest.mark.parametrize("store", LINKS)
@pytest.mark.parametrize("rest", ["", "versionId=7", "response-content-type=image%2Fpng&x=1"])
def test_a_link_that_is_renewed_is_the_same_content(store: str, rest: str) -> None:
    bare = f"{PLACE}?{rest}" if rest else PLACE
    for signature in ("abc", "x%2Fy%2B"):
        query = LINKS[store].format(signature)
        for whole in (f"{query}&{rest}".strip("&"), f"{rest}&{query}".strip("&")):
            assert without_signature(f"{PLACE}?{whole}") == bare
            assert VideoRequest(prompt="x", image_urls=[f"{PLACE}?{whole}"]).key == (
                VideoRequest(prompt="x", image_urls=[bare]).key
            )


PARTS = [
    (one.store, name)
    for one in SIGNATURES
    for name in sorted(one.needs)
    if not name.startswith(("x-amz-", "x-goog-"))  # always left out, so that the first keys stay
]


@pytest.mark.parametrize(("store", "missing"), PARTS)
def test_an_incomplete_signature_changes_the_identity(store: str, missing: str) -> None:
    pairs = LINKS[store].format("abc").split("&")
    left = [pair for pair in pairs if pair.partition("=")[0].lower() != missing]
    assert len(left) == len(pairs) - 1
    counted = [pair for pair in left if not pair.lower().startswith(("x-amz-", "x-goog-"))]
    assert without_signature(f"{PLACE}?{'&'.join(left)}") == f"{PLACE}?{'&'.join(counted)}"


@pytest.mark.parametrize("store", LINKS)
@pytest.mark.parametrize(
    "content",
    ["x-oss-process=image%2Fresize%2Cw_100", "x-tos-process=image%2Fresize", "imageMogr2/thumbnail/!50p", "Version=3"],
)
def test_a_parameter_that_changes_the_picture_counts_beside_a_signature(store: str, content: str) -> None:
    assert without_signature(f"{PLACE}?{content}&{LINKS[store].format('abc')}") == f"{PLACE}?{content}"


@pytest.mark.parametrize(
    "query",
    [
        "Signature=abc",
        "Expires=1800000000",
        "Signature=abc&Expires=1",
        "AWSAccessKeyId=a&Signature=b",
        "Policy=1&Signature=2",
        "Key-Pair-Id=1&Signature=2",
        "x-oss-signature=a",
        "x-tos-date=1",
        "q-ak=1&q-signature=2",
        "security-token=1",
        "token=1&auth_key=2",
    ],
)
def test_a_parameter_that_only_has_the_name_of_one_counts(query: str) -> None:
    assert without_signature(f"{PLACE}?{query}") == f"{PLACE}?{query}"


@pytest.mark.parametrize("version", [None, "s3", "s3v4"])
def test_a_link_of_boto3_is_the_same_content_whenever_it_is_made(version: str | None) -> None:
    def link(seconds: int, token: str | None) -> str:
        keys: Any = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "SECRET", "aws_session_token": token}
        config = Config(signature_version=version, s3={"addressing_style": "path"})
        s3 = boto3.client("s3", region_name="us-east-1", **keys, config=config)
        wanted = {"Bucket": "b", "Key": "a cat.png", "VersionId": "7"}
        return s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)

    links = {link(60, None), link(600, None), link(600, "session")}
    assert len(links) == 3
    assert ("X-Amz-Signature" in next(iter(links))) == (version == "s3v4")
    (content,) = {without_signature(one) for one in links}
    assert content.endswith("/a%20cat.png?versionId=7")


OLD_KEYS = [
    (
        "https://b.s3.amazonaws.com/cat.png?AWSAccessKeyId=AKIA&Signature=s1%3D&Expires=1800000000",
        "ba4ebfb217f86c1fb335ad76a6851ef619f959483660a05bf4f46c368b1ca9e4",
    ),
    (
        "https://b.tos-cn-beijing.volces.com/cat.png?" + TOS.format("s1"),
        "bd252e0924e8642f4f66362e06206d50b0d05b732f1436137b8b202395ea4378",
    ),
]


@pytest.mark.parametrize(("url", "key"), OLD_KEYS)
def test_the_former_key_of_a_signed_link_never_changes(url: str, key: str) -> None:
    # Computed by the version that counted these signatures. Never update these.
    assert VideoRequest(prompt="x", image_urls=[url]).former_key == key


@pytest.mark.parametrize("store", LINKS)
def test_only_a_signature_that_counted_before_gives_a_former_key(store: str) -> None:
    request = VideoRequest(prompt="x", image_urls=[f"{PLACE}?{LINKS[store].format('abc')}"])
    counted_before = without_former_signature(f"{PLACE}?{LINKS[store].format('abc')}") != PLACE
    assert (request.former_key is not None) == counted_before
    assert counted_before == (store not in ("Amazon S3, version 4", "Google Cloud Storage, version 4"))


@pytest.mark.parametrize(
    "url", [PLACE, f"{PLACE}?a=1&Expires=2", f"{PLACE}?{SAS.format('x')}", "s3://my-b/a.png#etag=1"]
)
def test_other_requests_have_no_former_key(url: str) -> None:
    assert VideoRequest(prompt="x", image_urls=[url]).former_key is None


@given(st.lists(st.tuples(st.text("aAx-sigv&%;é ", max_size=8), st.text("a%=&+", max_size=6)), max_size=8))
def test_any_query_is_read_without_an_error_and_once_is_enough(pairs: list[tuple[str, str]]) -> None:
    url = f"{PLACE}?" + "&".join(f"{name}={value}" for name, value in pairs)
    content = without_signature(url)
    assert without_signature(content) == content
