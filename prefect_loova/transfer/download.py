"""The bytes of one URL, in order and from one content, over broken connections and redirects (httpx).

A broken transfer goes on where it broke off, by `Range` with `If-Range`; where the server gives nothing that tells one
content from another, or the content changed, it starts over rather than mix two. Nothing is sent along but what stands
in `_HEADERS`: no API key, no cookie, no credentials.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from email.utils import parsedate_to_datetime

import httpcore
import httpx

from prefect_loova._timing import backoff, retry_after
from prefect_loova.client import USER_AGENT
from prefect_loova.errors import IncompleteVideoError, TransferError, redact
from prefect_loova.store.errors import host_of
from prefect_loova.transfer.fetch import Fetch, SlowAnswerError, refused

LONGEST_PAUSE = 60.0
"""The longest pause before another try, in seconds, also where the host asks for more."""

PIECE_BYTES = 256 * 1024
"""The most that is read from the wire at a time: as much as asyncio does."""

LEAST_RATE = 8 * 1024
"""The fewest bytes per second that a connection must bring, while it is read."""

SLOW_SECONDS = 60.0
"""For how long a connection may be slower than that, in seconds."""

SLOW_TRIES = 3
"""How many connections of one download may be too slow."""

REFILL_BYTES = 64 * 1024
"""How many new bytes a connection must have brought for a break not to count: the tries begin again at their number."""

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_NOT_VIDEO = re.compile(r"\s*(text/html|application/(xhtml\+xml|([\w.-]+\+)?json|xml)|text/xml)\b", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TELLS_CONTENTS = ("etag", "last-modified")
_TRY_AGAIN = frozenset({408, 425, 429})


class StartOverError(Exception):
    """What came so far is of no use: the content changed, or nothing tells whether it did. Read from the start."""


class _BrokenOffError(Exception):
    """This connection is of no more use, another one may be."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Download:
    """One URL that is read until its end, however often the connection breaks, within a number of tries.

    Args:
        url: Where the video is.
        http: Sends the requests; nothing of its headers, cookies and auth is used.
        allow_private: Whether `http` and addresses off the public internet are allowed.
        max_bytes: The most bytes to accept.
        tries: How many requests in a row may fail before this gives up; a connection that brought new bytes begins the
            count again.
        read_timeout: Seconds without a byte after which a connection counts as broken.
        least_rate: The fewest bytes per second that a connection must bring. One that brings less for `slow_seconds` is
            given up; after `SLOW_TRIES` of them the download ends.
        slow_seconds: Over how many seconds of reading the rate is taken.
        is_look: Whether only to look: then plain `http` and any announced type are taken.
        sleep: How to wait between two tries, in seconds.

    Attributes:
        announced: The content's length in bytes, if the host has said it.
        received: The bytes read since the start, or since starting over.
    """

    def __init__(
        self,
        url: str,
        http: httpx.AsyncClient,
        *,
        allow_private: bool,
        max_bytes: int,
        tries: int = 10,
        read_timeout: float = 30.0,
        least_rate: float = LEAST_RATE,
        slow_seconds: float = SLOW_SECONDS,
        is_look: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.announced: int | None = None
        self.received = 0
        self._url = url
        self._fetch = Fetch(http, allow_private=allow_private, read_timeout=read_timeout, is_look=is_look)
        self._max_bytes = max_bytes
        self._tries = self._tries_left = tries
        self._slow_left = SLOW_TRIES
        self._furthest = 0
        self._least_rate = least_rate
        self._slow_seconds = slow_seconds
        self._is_look = is_look
        self._read_timeout = read_timeout
        self._sleep = sleep
        self._failures = 0
        self._validator: str | None = None
        self._seen: dict[str, str] = {}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content from its first byte to its last.

        Raises:
            StartOverError: Throw away what came and call this again; that is one of the tries.
            VideoUrlRefusedError: The host refuses, or a redirect leads where this package does not go.
            IncompleteVideoError: It is not a video by its type, larger than allowed, or was cut short in every try.
            TransferError: No try brought a byte, or the host is too slow.
        """
        self.announced, self.received, self._validator, self._seen = None, 0, None, {}
        while True:
            try:
                async with self._fetch.answer(self._url, self._headers) as (response, url):
                    self._read_head(response, url)
                    async for chunk in self._body(response):
                        self.received += len(chunk)
                        self._check_size(self.received)
                        self._failures = 0
                        yield chunk
                if self.announced is None or self.received == self.announced:
                    return
                raise _BrokenOffError("the host ended the transfer early")
            except StartOverError:
                await self._wait_for_next_try("other content than before")
                raise
            except SlowAnswerError as error:
                self._slow_left -= 1
                if not self._slow_left:
                    raise TransferError(
                        f"the video's host is too slow: {error}{self.where}", credits_spent="yes"
                    ) from None
                await self._wait_for_next_try(str(error), was_slow=True)
            except _BrokenOffError as error:
                await self._wait_for_next_try(str(error), error.wait)
            except (httpx.TransportError, httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                await self._wait_for_next_try(f"{type(error).__name__}: {error}")
            if self.received and self._validator is None:
                raise StartOverError

    async def _body(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body in pieces as they arrive, at no less than the least rate. Only time spent reading counts."""
        least = self._least_rate * self._slow_seconds
        async with aclosing(self._pieces(response)) as pieces:
            left, seen = self._slow_seconds, 0
            while True:
                began = time.monotonic()
                deadline = asyncio.timeout(left)
                try:
                    async with deadline:
                        piece = await anext(pieces, None)
                except TimeoutError:
                    if not deadline.expired():
                        raise
                    raise SlowAnswerError(f"{seen} bytes within {self._slow_seconds:g} s") from None
                if piece is None:
                    return
                left, seen = left - (time.monotonic() - began), seen + len(piece)
                if seen >= least:
                    left, seen = self._slow_seconds, 0
                yield piece

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body in pieces, which are larger than those of httpx and take half its time.

        Once httpx has handed on what came with the head, all else of a body of known length is still on the wire.
        """
        wire = response.extensions.get("network_stream") if response.http_version.startswith("HTTP/1") else None
        left, pieces = _length(response), response.aiter_raw()
        async for piece in pieces:
            yield piece
            if wire is not None and left is not None:
                left -= len(piece)
                break
        else:
            return
        while left > 0:
            piece = await wire.read(min(left, PIECE_BYTES), self._read_timeout)
            if not piece:
                return
            left -= len(piece)
            yield piece

    @property
    def where(self) -> str:
        """` (GET at videos.example.com)`, for an error."""
        return f" (GET at {host_of(self._url)})"

    @property
    def _headers(self) -> dict[str, str]:
        if self.received and self._validator:
            return _HEADERS | {"Range": f"bytes={self.received}-", "If-Range": self._validator}
        return _HEADERS

    def _read_head(self, response: httpx.Response, url: str) -> None:
        """Check status and headers, and note length and validator of the content."""
        status, where = response.status_code, redact(url)
        if status in _TRY_AGAIN or status >= 500:
            raise _BrokenOffError(
                f"HTTP {status}", retry_after(response.headers.get("retry-after"), most=LONGEST_PAUSE)
            )
        if self.received and status in (200, 416):
            raise StartOverError
        if status != (206 if self.received else 200):
            hint = ": it has expired, or never was valid" if status in (401, 403, 404, 410) else ""
            raise refused(f"the URL {where} answers HTTP {status}{hint}", status)
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise refused(f"{where} sends the video with a Content-Encoding that was not asked for", status)
        if self.received:
            self._read_range(response)
            return
        kind = response.headers.get("content-type", "")
        if _NOT_VIDEO.match(kind) and not self._is_look:
            raise IncompleteVideoError(f"{where} answers with {redact(kind, 80)}, not a video", credits_spent="yes")
        self._validator = _validator(response)
        self._seen = {name: response.headers[name] for name in _TELLS_CONTENTS if name in response.headers}
        self.announced = _length(response)
        if self.announced is not None:
            self._check_size(self.announced)

    def _read_range(self, response: httpx.Response) -> None:
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if not matched or int(matched[1]) != self.received:
            raise StartOverError
        total = self.announced if matched[3] == "*" else int(matched[3])
        changed = any(response.headers.get(name, seen) != seen for name, seen in self._seen.items())
        if changed or total != (self.announced or total):
            raise StartOverError
        if total is not None:
            self.announced = total
            self._check_size(total)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise IncompleteVideoError(
                f"the video is larger than the bound of {self._max_bytes} bytes: max_bytes allows more",
                at_least_bytes=size,
                credits_spent="yes",
            )
        if self.announced is not None and self.received > self.announced:
            raise IncompleteVideoError("the host sent more bytes than it announced", credits_spent="yes")

    async def _wait_for_next_try(self, problem: str, wait: float | None = None, was_slow: bool = False) -> None:
        # Further than ever: a host that cannot go on where it broke off gets there once.
        if self.received >= self._furthest + REFILL_BYTES and not was_slow:
            self._tries_left = self._tries
        self._furthest = max(self._furthest, self.received)
        self._tries_left -= 1
        if self._tries_left <= 0:
            of = "" if self.announced is None else f" of {self.announced}"
            kind = IncompleteVideoError if self.received else TransferError
            raise kind(
                f"the video's transfer broke off at byte {self.received}{of}, again and again; "
                f"the last time with {redact(problem, 200)}{self.where}",
                credits_spent="yes",
            )
        pause = backoff(self._failures, most=LONGEST_PAUSE)
        self._failures += 1
        await self._sleep(max(pause, wait or 0.0))


def _length(response: httpx.Response) -> int | None:
    """The body's length in bytes, if the host says it."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() and "transfer-encoding" not in response.headers else None


def _validator(response: httpx.Response) -> str | None:
    """What tells this content from another one for `If-Range` (RFC 9110, 13.1.5), or None."""
    etag, modified = response.headers.get("etag"), response.headers.get("last-modified")
    if etag and etag.startswith('"'):
        return str(etag)
    try:
        # A date is a validator only if the content cannot have changed again within the same second.
        age = parsedate_to_datetime(response.headers["date"]) - parsedate_to_datetime(modified or "")
        return modified if age.total_seconds() >= 1 else None
    except (KeyError, ValueError, TypeError):
        return None
