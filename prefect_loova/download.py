"""The bytes of one URL, in order and from one content, over broken connections and redirects (httpx).

A broken transfer goes on where it broke off, by `Range` with `If-Range`; where the server gives nothing that tells one
content from another, or the content changed, it starts over rather than mix two. Nothing is sent along but what stands
in `_HEADERS`: no API key, no cookie, no credentials.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from prefect_loova.client import USER_AGENT
from prefect_loova.errors import NotWholeVideoError, TransferError, VideoUrlRefusedError, shown
from prefect_loova.polling import backoff, retry_after
from prefect_loova.urls import is_public_address, private_address_of, url_problem

MAX_REDIRECTS = 3
LONGEST_PAUSE = 60.0
"""The longest pause before another try, in seconds, also where the host asks for more."""

PIECE_BYTES = 256 * 1024
"""The most that is read from the wire at a time: as much as asyncio does."""

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_NOT_VIDEO = re.compile(r"\s*(text/html|application/(xhtml\+xml|([\w.-]+\+)?json|xml)|text/xml)\b", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRY_AGAIN = frozenset({408, 425, 429})

_downloading: ContextVar[bool] = ContextVar("_downloading", default=False)


class _WithoutQuery(logging.Filter):
    """httpx logs each URL whole, and httpcore each `Location`: here they are signed, so they lose their query."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _downloading.get():
            record.msg, record.args = shown(record.getMessage(), 2000), ()
        return True


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_WithoutQuery())


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
        tries: How many requests may fail before this gives up.
        read_timeout: Seconds without a byte after which a connection counts as broken.
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
        is_look: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.announced: int | None = None
        self.received = 0
        self._url = url
        self._http = http
        self._allow_private = allow_private
        self._max_bytes = max_bytes
        self._tries_left = tries
        self._is_look = is_look
        self._timeout = httpx.Timeout(read_timeout, connect=min(read_timeout, 15.0)).as_dict()
        self._sleep = sleep
        self._failures = 0
        self._validator: str | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content from its first byte to its last.

        Raises:
            StartOverError: Throw away what came and call this again; that is one of the tries.
            VideoUrlRefusedError: The host refuses, or a redirect leads where this package does not go.
            NotWholeVideoError: It is not a video by its type, larger than allowed, or was cut short in every try.
            TransferError: No try brought a byte.
        """
        self.announced, self.received, self._validator = None, 0, None
        while True:
            try:
                async with self._open() as response:
                    self._read_head(response)
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
            except _BrokenOffError as error:
                await self._wait_for_next_try(str(error), error.wait)
            except (httpx.TransportError, httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                await self._wait_for_next_try(f"{type(error).__name__}: {error}")
            if self.received and self._validator is None:
                raise StartOverError

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx.Response]:
        """The answer behind at most `MAX_REDIRECTS` redirects, each address checked before and after connecting."""
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            check_address = await self._check_address(url)
            response = await self._send(self._request(url))
            try:
                if check_address:
                    _check_peer(response, url)
                if not response.has_redirect_location:
                    yield response
                    return
                url = urljoin(url, response.headers["location"])
            finally:
                await response.aclose()
        raise _refused(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _send(self, request: httpx.Request) -> httpx.Response:
        token = _downloading.set(True)
        try:
            return await self._http.send(request, stream=True, auth=None, follow_redirects=False)
        finally:
            _downloading.reset(token)

    async def _body(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body in pieces as they arrive, which are larger than those of httpx and take half its time.

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
            piece = await wire.read(min(left, PIECE_BYTES), self._timeout["read"])
            if not piece:
                return
            left -= len(piece)
            yield piece

    def _request(self, url: str) -> httpx.Request:
        headers = dict(_HEADERS)
        if self.received and self._validator:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": self._validator}
        try:
            # Not client.build_request, which would add the client's own headers, cookies and auth.
            return httpx.Request("GET", url, headers=headers, extensions={"timeout": self._timeout})
        except httpx.InvalidURL:
            raise _refused(f"{shown(url)} is not a URL") from None

    async def _check_address(self, url: str) -> bool:
        """Refuse a URL that must not be followed; tells whether the peer's address is to be checked as well."""
        problem = url_problem(url)
        if problem:
            raise _refused(f"the URL {shown(url)} {problem}")
        if self._allow_private:
            return False
        if urlsplit(url).scheme != "https" and not self._is_look:
            raise _refused(f"the URL {shown(url)} is not https")
        if _is_proxied(url):
            return False
        address = await private_address_of(url)
        if address:
            raise _refused(f"the URL {shown(url)} leads to the private address {address}")
        return True

    def _read_head(self, response: httpx.Response) -> None:
        """Check status and headers, and note length and validator of the content."""
        status, where = response.status_code, shown(response.request.url)
        if status in _TRY_AGAIN or status >= 500:
            raise _BrokenOffError(
                f"HTTP {status}", retry_after(response.headers.get("retry-after"), most=LONGEST_PAUSE)
            )
        if self.received and status in (200, 416):
            raise StartOverError
        if status != (206 if self.received else 200):
            hint = ": it has expired, or never was valid" if status in (401, 403, 404, 410) else ""
            raise _refused(f"the URL {where} answers HTTP {status}{hint}", status)
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _refused(f"{where} sends the video with a Content-Encoding that was not asked for", status)
        if self.received:
            self._read_range(response)
            return
        kind = response.headers.get("content-type", "")
        if _NOT_VIDEO.match(kind) and not self._is_look:
            raise NotWholeVideoError(f"{where} answers with {shown(kind, 80)}, not a video", credits_spent="yes")
        self._validator = _validator(response)
        self.announced = _length(response)
        if self.announced is not None:
            self._check_size(self.announced)

    def _read_range(self, response: httpx.Response) -> None:
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if not matched or int(matched[1]) != self.received:
            raise StartOverError
        total = self.announced if matched[3] == "*" else int(matched[3])
        tag = response.headers.get("etag")
        changed = bool(tag) and str(self._validator).startswith('"') and tag != self._validator
        if changed or total != (self.announced or total):
            raise StartOverError
        if total is not None:
            self.announced = total
            self._check_size(total)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise NotWholeVideoError(
                f"the video is larger than the bound of {self._max_bytes} bytes", credits_spent="yes"
            )
        if self.announced is not None and self.received > self.announced:
            raise NotWholeVideoError("the host sent more bytes than it announced", credits_spent="yes")

    async def _wait_for_next_try(self, problem: str, wait: float | None = None) -> None:
        self._tries_left -= 1
        if self._tries_left <= 0:
            of = "" if self.announced is None else f" of {self.announced}"
            kind = NotWholeVideoError if self.received else TransferError
            raise kind(
                f"the video's transfer broke off at byte {self.received}{of}, again and again; "
                f"the last time with {shown(problem, 200)}",
                credits_spent="yes",
            )
        pause = backoff(self._failures, most=LONGEST_PAUSE)
        self._failures += 1
        await self._sleep(max(pause, wait or 0.0))


def _is_proxied(url: str) -> bool:
    """Whether a configured proxy connects in our place, by the rules that httpx takes from the environment."""
    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.netloc)


def _check_peer(response: httpx.Response, url: str) -> None:
    """Refuse an answer from a private address: a name may resolve to another one than when it was checked."""
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    if peer and not is_public_address(str(peer[0])):
        raise _refused(f"the URL {shown(url)} leads to the private address {peer[0]}")


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


def _refused(message: str, status: int | None = None) -> VideoUrlRefusedError:
    return VideoUrlRefusedError(message, http_status=status, credits_spent="yes")
