"""Reads the content of one URL, in order and from one version, over broken connections and redirects (httpx).

A broken transfer resumes where it stopped, by `Range` with `If-Range`. It starts over if the content changed, or if the
server sends no validator (a strong `ETag` or a `Last-Modified`). Requests carry only the headers in `_HEADERS`: no API
key, no cookies and no credentials.
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
from prefect_loova.transfer.body import content_length, read_body
from prefect_loova.transfer.fetch import Fetch, SlowResponseError, refused_url

LONGEST_PAUSE = 60.0
"""The longest pause before a retry, in seconds. It also bounds `Retry-After`."""

LEAST_RATE = 8 * 1024
"""The fewest bytes per second that a connection must bring."""

SLOW_SECONDS = 60.0
"""How long a connection may be slower than that, in seconds."""

SLOW_TRIES = 3
"""How many connections of one download may be too slow."""

REFILL_BYTES = 64 * 1024
"""How many new bytes a connection must bring to reset the count of failed tries."""

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
_NOT_VIDEO = re.compile(r"\s*(text/html|application/(xhtml\+xml|([\w.-]+\+)?json|xml)|text/xml)\b", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_VALIDATORS = ("etag", "last-modified")
_RETRY_STATUSES = frozenset({408, 425, 429})


class StartOverError(Exception):
    """The bytes so far are useless: the content changed, or nothing shows that it did not. Read from the start."""


class _RetryError(Exception):
    """This request failed. Another one may succeed."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Download:
    """Reads one URL to its end, with a bounded number of retries.

    Args:
        url: The URL of the video.
        http: Sends the requests. Its own headers, cookies and auth are not used.
        allow_private: Whether to allow `http` and addresses off the public internet.
        max_bytes: The most bytes to accept.
        tries: How many requests in a row may fail. A connection that brings new bytes resets the count.
        read_timeout: Seconds without a byte after which a connection counts as broken.
        least_rate: The fewest bytes per second that a connection must bring. A slower one is closed after
            `slow_seconds`. The download fails after `SLOW_TRIES` of them.
        slow_seconds: The seconds of reading over which the rate is measured.
        is_look: Whether the content is only inspected: then plain `http` and any content type are allowed.
        sleep: Waits before a retry, in seconds.

    Attributes:
        announced: The length of the content in bytes, if the host sent it.
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
        self._slow_tries_left = SLOW_TRIES
        self._most_received = 0
        self._least_rate = least_rate
        self._slow_seconds = slow_seconds
        self._is_look = is_look
        self._read_timeout = read_timeout
        self._sleep = sleep
        self._failures = 0
        self._if_range: str | None = None
        self._validators: dict[str, str] = {}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content from its first byte to its last.

        Raises:
            StartOverError: Discard all chunks and call this again. It counts as a failed try.
            VideoUrlRefusedError: The host refuses, or a redirect leads to an address that is not allowed.
            IncompleteVideoError: The content is not a video by its type, is too large, or was cut short in every try.
            TransferError: No try brought a byte, or the host is too slow.
        """
        self.announced, self.received, self._if_range, self._validators = None, 0, None, {}
        while True:
            try:
                async with self._fetch.get(self._url, self._headers) as (response, url):
                    self._check_head(response, url)
                    async for chunk in self._read(response):
                        self.received += len(chunk)
                        self._check_size(self.received)
                        self._failures = 0
                        yield chunk
                if self.announced is None or self.received == self.announced:
                    return
                raise _RetryError("the host ended the transfer early")
            except StartOverError:
                await self._pause_before_retry("the content changed")
                raise
            except SlowResponseError as error:
                self._slow_tries_left -= 1
                if not self._slow_tries_left:
                    raise TransferError(
                        f"the video's host is too slow: {error}{self.where}", credits_spent="yes"
                    ) from None
                await self._pause_before_retry(str(error), was_slow=True)
            except _RetryError as error:
                await self._pause_before_retry(str(error), error.wait)
            except (httpx.TransportError, httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                await self._pause_before_retry(f"{type(error).__name__}: {error}")
            if self.received and self._if_range is None:
                raise StartOverError

    async def _read(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield the body at no less than the least rate. Only the time spent reading counts."""
        least = self._least_rate * self._slow_seconds
        async with aclosing(read_body(response, self._read_timeout)) as pieces:
            seconds, size = self._slow_seconds, 0
            while True:
                began = time.monotonic()
                deadline = asyncio.timeout(seconds)
                try:
                    async with deadline:
                        piece = await anext(pieces, None)
                except TimeoutError:
                    if not deadline.expired():
                        raise
                    raise SlowResponseError(f"{size} bytes within {self._slow_seconds:g} s") from None
                if piece is None:
                    return
                seconds, size = seconds - (time.monotonic() - began), size + len(piece)
                if size >= least:
                    seconds, size = self._slow_seconds, 0
                yield piece

    @property
    def where(self) -> str:
        """Return ` (GET at videos.example.com)`, for an error message."""
        return f" (GET at {host_of(self._url)})"

    @property
    def _headers(self) -> dict[str, str]:
        if self.received and self._if_range:
            return _HEADERS | {"Range": f"bytes={self.received}-", "If-Range": self._if_range}
        return _HEADERS

    def _check_head(self, response: httpx.Response, url: str) -> None:
        """Check status and headers, and store length and validators of the content."""
        status, where = response.status_code, redact(url)
        if status in _RETRY_STATUSES or status >= 500:
            raise _RetryError(f"HTTP {status}", retry_after(response.headers.get("retry-after"), most=LONGEST_PAUSE))
        if self.received and status in (200, 416):
            raise StartOverError
        if status != (206 if self.received else 200):
            hint = ": it has expired or was never valid" if status in (401, 403, 404, 410) else ""
            raise refused_url(f"the URL {where} returned HTTP {status}{hint}", status)
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise refused_url(f"{where} sent the video with a Content-Encoding that was not requested", status)
        if self.received:
            self._check_range(response)
            return
        content_type = response.headers.get("content-type", "")
        if _NOT_VIDEO.match(content_type) and not self._is_look:
            message = f"{where} returned {redact(content_type, 80)}, not a video"
            raise IncompleteVideoError(message, credits_spent="yes")
        self._if_range = _if_range(response)
        self._validators = {name: response.headers[name] for name in _VALIDATORS if name in response.headers}
        self.announced = content_length(response)
        if self.announced is not None:
            self._check_size(self.announced)

    def _check_range(self, response: httpx.Response) -> None:
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if not matched or int(matched[1]) != self.received:
            raise StartOverError
        total = self.announced if matched[3] == "*" else int(matched[3])
        changed = any(response.headers.get(name, value) != value for name, value in self._validators.items())
        if changed or total != (self.announced or total):
            raise StartOverError
        if total is not None:
            self.announced = total
            self._check_size(total)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise IncompleteVideoError(
                f"the video is larger than the bound of {self._max_bytes} bytes: raise max_bytes to accept it",
                at_least_bytes=size,
                credits_spent="yes",
            )
        if self.announced is not None and self.received > self.announced:
            raise IncompleteVideoError("the host sent more bytes than it announced", credits_spent="yes")

    async def _pause_before_retry(self, problem: str, wait: float | None = None, was_slow: bool = False) -> None:
        # Compared to the most bytes of any try: a host that cannot resume reaches the same byte again and again.
        if self.received >= self._most_received + REFILL_BYTES and not was_slow:
            self._tries_left = self._tries
        self._most_received = max(self._most_received, self.received)
        self._tries_left -= 1
        if self._tries_left <= 0:
            of = "" if self.announced is None else f" of {self.announced}"
            error_class = IncompleteVideoError if self.received else TransferError
            raise error_class(
                f"the transfer of the video stopped at byte {self.received}{of}: too many requests failed in a row, "
                f"the last one with {redact(problem, 200)}{self.where}",
                credits_spent="yes",
            )
        pause = backoff(self._failures, most=LONGEST_PAUSE)
        self._failures += 1
        await self._sleep(max(pause, wait or 0.0))


def _if_range(response: httpx.Response) -> str | None:
    """Return the value for `If-Range` that identifies this content (RFC 9110, 13.1.5), or None."""
    etag, modified = response.headers.get("etag"), response.headers.get("last-modified")
    if etag and etag.startswith('"'):
        return str(etag)
    try:
        # A date is a validator only if the content cannot have changed again within the same second.
        age = parsedate_to_datetime(response.headers["date"]) - parsedate_to_datetime(modified or "")
        return modified if age.total_seconds() >= 1 else None
    except (KeyError, ValueError, TypeError):
        return None
