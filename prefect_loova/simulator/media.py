"""Fetches a reference medium by its URL, and checks its type by its first bytes.

Never sends a request to a host that is reserved for examples (RFC 2606, RFC 6761).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect_loova.simulator.stills import Still, UndecodableError, image_decoder, still_of_image, still_of_video

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


class UnusableMediumError(Exception):
    """A medium makes its task fail. The message follows the name of the medium."""


@dataclass(frozen=True)
class Medium:
    """A reference medium of a request."""

    name: str
    """Its place in the request: `image_urls.0`, or `files.1` for a file of a form."""
    kind: str
    url: str | None

    @property
    def is_fetched(self) -> bool:
        """Return whether the simulator fetches it: it has a URL, and its host is not reserved."""
        return self.url is not None and not is_example(self.url)


@dataclass(frozen=True)
class CheckedMedium:
    """The result of checking a medium: a still (none for audio) or a problem."""

    name: str
    still: Still | None = None
    problem: str | None = None


def media_of(request: dict[str, Any]) -> list[Medium]:
    """Return all media of a request body: images, videos, audios; of each kind the URLs, then the files."""
    media = []
    for kind in _FORMATS:
        media += [Medium(f"{kind}_urls.{n}", kind, url) for n, url in enumerate(request.get(f"{kind}_urls", []))]
        files = enumerate(request.get("files", []))
        media += [Medium(f"files.{n}", kind, None) for n, file in files if file["media_type"].startswith(f"{kind}/")]
    return media


def is_example(url: str) -> bool:
    """Return whether the URL's host is reserved: example.com, .net and .org, .example, .test and .invalid."""
    labels = (urlsplit(url).hostname or "").rstrip(".").split(".")
    return labels[-1] in ("example", "test", "invalid") or (
        labels[-2:-1] == ["example"] and labels[-1] in ("com", "net", "org")
    )


async def fetch(http: httpx.AsyncClient, url: str) -> bytes:
    """Return the content behind a URL.

    Raises:
        UnusableMediumError: It cannot be fetched, or is larger than `MAX_BYTES`.
    """
    import httpx  # noqa: PLC0415

    try:
        async with asyncio.timeout(SECONDS), http.stream("GET", url) as response:
            if not response.is_success:
                raise UnusableMediumError(f"could not be fetched: HTTP {response.status_code}")
            check_size(int(response.headers.get("content-length", 0)))
            content = bytearray()
            async for chunk in response.aiter_bytes():
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
        # The text of the error may contain the URL, whose query may be a secret.
        reason = type(error).__name__
    raise UnusableMediumError(f"could not be fetched: {reason}")


def check_size(size: int) -> None:
    """Check that a medium is not too large.

    Raises:
        UnusableMediumError: It is larger than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise UnusableMediumError(f"is larger than {MAX_BYTES >> 20} MiB")


def still_of(kind: str, content: bytes, width: int, height: int) -> Still | None:
    """Return the picture that a video of this size shows of a medium; None for audio.

    Raises:
        UnusableMediumError: The content is empty, of another kind, or cannot be decoded.
    """
    if not content:
        raise UnusableMediumError("is empty")
    if not _starts_as(kind, content[:16]):
        raise UnusableMediumError(f"is not {kind} data ({_FORMATS[kind]})")
    try:
        if kind == "image":
            return still_of_image(content, width, height)
        return still_of_video(content, width, height) if kind == "video" else None
    except UndecodableError as reason:
        raise UnusableMediumError(str(reason)) from reason


def _starts_as(kind: str, head: bytes) -> bool:
    if kind == "image":
        return image_decoder(head) is not None
    if kind == "video":
        return head[4:8] == b"ftyp"
    # An mp3 starts with a tag or with the eleven set bits of a frame.
    is_mp3 = head.startswith(b"ID3") or (head[0] == 0xFF and head[1:2] >= b"\xe0")
    return is_mp3 or (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE")
