"""One GET of a URL that others chose: over redirects, at addresses that were checked, with nothing of ours (httpx).

A host is resolved once. Each of its addresses is checked, and the request goes to one of those very addresses: resolved
again, a name may lead elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from prefect_loova._urls import addresses_of, is_public_address, url_problem
from prefect_loova.errors import VideoUrlRefusedError, redact

MAX_REDIRECTS = 3
FIRST_ADDRESS_SECONDS = 5.0
"""How long a connection to an address of a host may take while there are others to try, in seconds."""

_TELLING_HEADER = re.compile(
    r"(b'(?:location|content-location|link|refresh|set-cookie)',) b(?:'[^']*'|\"[^\"]*\")", re.IGNORECASE
)

_asking: ContextVar[bool] = ContextVar("_asking", default=False)


class _WithoutQuery(logging.Filter):
    """httpx logs each URL whole, and httpcore each header: here URLs are signed, so they lose their query.

    A `Location` may be relative, and a cookie may be a signature: the values of such headers are left out whole.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _asking.get():
            message = _TELLING_HEADER.sub(r"\1 b'...'", record.getMessage())
            record.msg, record.args = redact(message, 2000), ()
        return True


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_WithoutQuery())


class SlowAnswerError(Exception):
    """The head of an answer drips."""


class Fetch:
    """How to ask for what others chose.

    Args:
        http: Sends the requests; nothing of its headers, cookies and auth is used.
        allow_private: Whether `http` and addresses off the public internet are allowed.
        read_timeout: Seconds without a byte after which a connection counts as broken.
        is_look: Whether only to look: then plain `http` is taken.
    """

    def __init__(self, http: httpx.AsyncClient, *, allow_private: bool, read_timeout: float, is_look: bool) -> None:
        self._http = http
        self._allow_private = allow_private
        self._is_look = is_look
        self._read_timeout, self._connect_timeout = read_timeout, min(read_timeout, 15.0)

    @asynccontextmanager
    async def answer(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[httpx.Response, str]]:
        """The answer behind at most `MAX_REDIRECTS` redirects, its body unread, and the URL that gave it.

        Raises:
            VideoUrlRefusedError: The URL or a redirect leads where this package does not go.
            SlowAnswerError: The head of the answer did not end in time.
            httpx.TransportError: The host cannot be reached.
            OSError: Its name does not resolve.
        """
        within = self._connect_timeout + self._read_timeout
        for _ in range(MAX_REDIRECTS + 1):
            deadline = asyncio.timeout(within)
            try:
                async with deadline:
                    response = await self._ask(url, headers)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise SlowAnswerError(f"no whole answer within {within:g} s") from None
            try:
                if not response.has_redirect_location:
                    yield response, url
                    return
                url = _joined(url, response.headers["location"])
            finally:
                await response.aclose()
        raise refused(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _ask(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        is_checked, addresses = await self._checked(url)
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            request = self._request(url, headers, address, hurry=left > 0)
            try:
                response = await self._send(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if not left:
                    raise
            else:
                if is_checked:
                    _check_peer(response, url)
                return response
        raise OSError("the host has no address")

    async def _checked(self, url: str) -> tuple[bool, list[str | None]]:
        """Whether only public addresses are allowed, and which to ask in turn; None is the host as the URL has it."""
        problem = url_problem(url)
        if problem:
            raise refused(f"the URL {redact(url)} {problem}")
        if self._allow_private:
            return False, [None]
        if urlsplit(url).scheme != "https" and not self._is_look:
            raise refused(f"the URL {redact(url)} is not https")
        if _is_proxied(url):
            return False, [None]
        try:
            addresses = await addresses_of(url)
        except UnicodeError:
            raise refused(f"the URL {redact(url)} has a host that cannot be looked up") from None
        private = next((address for address in addresses if not is_public_address(address)), None)
        if private:
            raise refused(f"the URL {redact(url)} leads to the private address {private}")
        return True, [None] if _is_address(urlsplit(url).hostname or "") else list(addresses)

    def _request(self, url: str, headers: Mapping[str, str], address: str | None, *, hurry: bool) -> httpx.Request:
        connect = min(FIRST_ADDRESS_SECONDS, self._connect_timeout) if hurry else self._connect_timeout
        extensions: dict[str, Any] = {"timeout": httpx.Timeout(self._read_timeout, connect=connect).as_dict()}
        try:
            target = httpx.URL(url)
            if address is not None:
                # TLS and the server see the name. One request a connection: httpx would use it for any name there.
                headers = {**headers, "Host": target.netloc.decode("ascii"), "Connection": "close"}
                extensions["sni_hostname"] = target.raw_host.decode("ascii")
                target = target.copy_with(host=address)
            # Not client.build_request, which would add the client's own headers, cookies and auth.
            return httpx.Request("GET", target, headers=headers, extensions=extensions)
        except (httpx.InvalidURL, UnicodeError):
            raise refused(f"{redact(url)} is not a URL") from None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        token = _asking.set(True)
        try:
            return await self._http.send(request, stream=True, auth=None, follow_redirects=False)
        except httpx.RemoteProtocolError as error:
            # httpx reads the `Location` although it is not to follow it.
            if "location header" in str(error):
                raise refused(f"the URL redirects to something that is not a URL: {redact(error, 200)}") from None
            raise
        finally:
            _asking.reset(token)


def _joined(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise refused(f"the URL {redact(url)} redirects to something that is not a URL") from None


def _is_address(host: str) -> bool:
    """Whether a URL's host is an address, so that nothing is looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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
        raise refused(f"the URL {redact(url)} leads to the private address {peer[0]}")


def refused(message: str, status: int | None = None) -> VideoUrlRefusedError:
    """The error of a URL that is not followed, or that its host refuses. The video is paid for."""
    return VideoUrlRefusedError(message, http_status=status, credits_spent="yes")
