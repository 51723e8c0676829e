"""The URL parameters of signed links, for each object store. They change whenever a link is renewed."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus, urlsplit, urlunsplit


@dataclass(frozen=True)
class Signature:
    """One kind of signed URL.

    Attributes:
        store: The object store, and the version of the signature.
        needs: The parameters that every such URL has, in lower case.
        may_have: Further parameters that it may have.
        source: The page that documents them.
    """

    store: str
    needs: frozenset[str]
    may_have: frozenset[str]
    source: str


def _signature(store: str, needs: str, may_have: str, source: str) -> Signature:
    return Signature(store, frozenset(needs.split()), frozenset(may_have.split()), source)


SIGNATURES = (
    _signature(
        "Amazon S3, version 2",
        "awsaccesskeyid signature expires",
        "x-amz-security-token",
        "https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html",
    ),
    _signature(
        "Amazon S3, version 4",
        "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-signature",
        "x-amz-security-token",
        "https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html",
    ),
    _signature(
        "Google Cloud Storage, version 2",
        "googleaccessid signature expires",
        "",
        "https://cloud.google.com/storage/docs/access-control/signed-urls-v2",
    ),
    _signature(
        "Google Cloud Storage, version 4",
        "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders x-goog-signature",
        "",
        "https://cloud.google.com/storage/docs/authentication/signatures",
    ),
    _signature(
        "Azure Storage, shared access signature",
        "sv sig",
        "ss srt sr st se sp spr sip si sdd ses skoid sktid skt ske sks skv saoid suoid scid rscc rscd rsce rscl rsct "
        "skdutid sduoid srh srq",
        "https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas",
    ),
    _signature(
        "Volcengine TOS, version 4",
        "x-tos-algorithm x-tos-credential x-tos-date x-tos-expires x-tos-signature",
        "x-tos-signedheaders x-tos-signedqueries x-tos-security-token x-tos-policy x-tos-content-sha256",
        "https://www.volcengine.com/docs/6349/196410",
    ),
    _signature(
        "Alibaba Cloud OSS, version 1",
        "ossaccesskeyid signature expires",
        "security-token",
        "https://www.alibabacloud.com/help/en/oss/developer-reference/ddd-signatures-to-urls",
    ),
    _signature(
        "Alibaba Cloud OSS, version 2",
        "x-oss-signature-version x-oss-access-key-id x-oss-expires x-oss-signature",
        "x-oss-additional-headers x-oss-security-token security-token",
        "https://github.com/aliyun/aliyun-oss-java-sdk",
    ),
    _signature(
        "Alibaba Cloud OSS, version 4",
        "x-oss-signature-version x-oss-credential x-oss-date x-oss-expires x-oss-signature",
        "x-oss-additional-headers x-oss-security-token",
        "https://www.alibabacloud.com/help/en/oss/developer-reference/add-signatures-to-urls",
    ),
    _signature(
        "Tencent COS",
        "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list q-signature",
        "x-cos-security-token",
        "https://www.tencentcloud.com/document/product/436/7778",
    ),
    _signature(
        "Amazon CloudFront, canned policy",
        "expires signature key-pair-id",
        "hash-algorithm",
        "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/"
        "private-content-creating-signed-url-canned-policy.html",
    ),
    _signature(
        "Amazon CloudFront, custom policy",
        "policy signature key-pair-id",
        "hash-algorithm",
        "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/"
        "private-content-creating-signed-url-custom-policy.html",
    ),
)
"""The signatures that are removed from a URL for a request's key. Add new ones here."""

_ALWAYS = ("x-amz-", "x-goog-")  # version 1 of the key removes them from any URL

_FORMER_SAS = (
    "sv ss srt sr st se sp spr sip sig si sdd ses skoid sktid skt ske sks skv saoid suoid scid rscc rscd rsce rscl rsct"
)


def without_signature(url: str) -> str:
    """Return a media URL without the parameters of complete signatures. It identifies the content.

    A parameter such as a lone `Expires` stays. `X-Amz-*` and `X-Goog-*` are always removed.
    """
    parts = urlsplit(url)
    pairs = [(pair, unquote_plus(pair.partition("=")[0]).lower()) for pair in parts.query.split("&")]
    names = {name for _, name in pairs}
    signs = {name for one in SIGNATURES if one.needs <= names for name in one.needs | one.may_have}
    query = "&".join(pair for pair, name in pairs if name not in signs and not name.startswith(_ALWAYS))
    return urlunsplit(parts._replace(query=query))


def without_former_signature(url: str) -> str:
    """Return a media URL without the signatures that earlier versions knew, to find records under former keys.

    Never change this function: its result decides which records are found.
    """
    parts = urlsplit(url)
    names = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    azure = _FORMER_SAS.split() if {"sig", "sv"} <= names else []

    def signs(pair: str) -> bool:
        name = pair.partition("=")[0].lower().replace("%2d", "-")
        return name.startswith(("x-amz-", "x-goog-")) or name in azure

    query = "&".join(pair for pair in parts.query.split("&") if not signs(pair))
    return urlunsplit(parts._replace(query=query))
