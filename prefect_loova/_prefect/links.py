"""Links to a video: its page in the AWS console, and a presigned URL that plays it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from prefect_loova._prefect.pages import Links
from prefect_loova.store.presign import presign

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONSOLES = {".amazonaws.com": "console.aws.amazon.com", ".amazonaws.com.cn": "console.amazonaws.cn"}


def links_to(s3: S3Client, bucket: str, object_key: str, *, player_seconds: int = 0) -> Links:
    """Return the links to an object.

    Args:
        s3: A client that may read the object. Its credentials sign the URL.
        bucket: The bucket's name.
        object_key: The video's key.
        player_seconds: How long the URL is valid, in seconds; 0 for no URL.
    """
    player = None
    if player_seconds:
        player = presign(s3, bucket, object_key, player_seconds, ResponseContentType="video/mp4")
    return Links(
        console=_console(s3.meta.endpoint_url, s3.meta.region_name, bucket, object_key),
        player=player,
        player_until=datetime.now(UTC) + timedelta(seconds=player_seconds) if player else None,
    )


def _console(endpoint_url: str, region: str, bucket: str, object_key: str) -> str | None:
    host = urlsplit(endpoint_url).hostname or ""
    console = next((site for end, site in _CONSOLES.items() if host.endswith(end)), None)
    if console is None:
        return None
    return f"https://{region}.{console}/s3/object/{quote(bucket)}?region={region}&prefix={quote(object_key, safe='')}"
