"""Fetches a reference medium by its URL, and checks by its first bytes that it is what it is given for.

Hosts that are reserved for examples (RFC 2606, RFC 6761) are never asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect_loova.simulator.stills import Still, Undecodable, image_decoder, still_of_image, still_of_video

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 64 << 20
MAX_REDIRECTS = 3
SECONDS = 10

_FORMATS = {
    "image": "jpeg, png, webp, gif, bmp or tiff",
    "video": "mp4 or mov",
    "audio": "mp3 or wav",
}


class Unusable(Exception):
    """A medium that ends its task; the message says why, after the medium's name."""


@dataclass(frozen=True)
class Medium:
    """A reference medium of a request."""

    name: str
    """Where it stands in the request: `image_urls.0`, or `files.1` if it came with a form."""
    kind: str
    url: str | None

    @property
    def is_fetched(self) -> bool:
        """Whether its URL is asked for it."""
        return self.url is not None and not is_example(self.url)


@dataclass(frozen=True)
class Found:
    """What came of a medium: a still or, of audio, nothing; or a problem."""

    name: str
    still: Still | None = None
    problem: str | None = None


def media_of(request: dict[str, Any]) -> list[Medium]:
    """All media of a request's body: images, then videos, then audios; of each the URLs, then the files."""
    media = []
    for kind in _FORMATS:
        media += [Medium(f"{kind}_urls.{n}", kind, url) for n, url in enumerate(request.get(f"{kind}_urls", []))]
        files = enumerate(request.get("files", []))
        media += [Medium(f"files.{n}", kind, None) for n, file in files if file["media_type"].startswith(f"{kind}/")]
    return media


def is_example(url: str) -> bool:
    """Whether the URL's host is one that nobody has: example.com, .net and .org, .example, .test and .invalid."""
    labels = (urlsplit(url).hostname or "").rstrip(".").split(".")
    return labels[-1] in ("example", "test", "invalid") or (
        labels[-2:-1] == ["example"] and labels[-1] in ("com", "net", "org")
    )


async def fetched(http: httpx.AsyncClient, url: str) -> bytes:
    """The content behind a URL.

    Raises:
        Unusable: It cannot be had, or is larger than is allowed.
    """
    import httpx  # noqa: PLC0415

    try:
        async with asyncio.timeout(SECONDS), http.stream("GET", url) as answer:
            if not answer.is_success:
                raise Unusable(f"could not be fetched: HTTP {answer.status_code}")
            check_size(int(answer.headers.get("content-length", 0)))
            content = bytearray()
            async for chunk in answer.aiter_bytes():
                content += chunk
                check_size(len(content))
            return bytes(content)
    except httpx.TooManyRedirects:
        reason = f"more than {MAX_REDIRECTS} redirects"
    except (TimeoutError, httpx.TimeoutException):
        reason = f"it took longer than {SECONDS} s"
    except httpx.ConnectError:
        reason = "no connection to its host"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        # The text of an error may have the URL in it, whose query is a secret.
        reason = type(error).__name__
    raise Unusable(f"could not be fetched: {reason}")


def check_size(size: int) -> None:
    """Check that a medium is not too large.

    Raises:
        Unusable: It is.
    """
    if size > MAX_BYTES:
        raise Unusable(f"is larger than {MAX_BYTES >> 20} MiB")


def still_of(kind: str, content: bytes, width: int, height: int) -> Still | None:
    """What a medium (image, video or audio) shows in a film of this size: None for audio.

    Raises:
        Unusable: It is empty, of another kind, or cannot be decoded.
    """
    if not content:
        raise Unusable("is empty")
    if not _is(kind, content[:16]):
        raise Unusable(f"is no {kind} ({_FORMATS[kind]})")
    try:
        if kind == "image":
            return still_of_image(content, width, height)
        return still_of_video(content, width, height) if kind == "video" else None
    except Undecodable as reason:
        raise Unusable(str(reason)) from reason


def _is(kind: str, head: bytes) -> bool:
    if kind == "image":
        return image_decoder(head) is not None
    if kind == "video":
        return head[4:8] == b"ftyp"
    # An mp3 begins with its tags, or at once with a frame: eleven bits that are set.
    is_mp3 = head.startswith(b"ID3") or (head[0] == 0xFF and head[1:2] >= b"\xe0")
    return is_mp3 or (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE")
