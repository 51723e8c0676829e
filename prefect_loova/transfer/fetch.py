"""One GET of a URL from outside: redirects are followed, each address is checked, and no credentials are sent (httpx).

A host name is resolved once. Every address is checked, and the request goes to one of the checked addresses. If httpx
resolved the name again, it might get another address.
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
"""How long a connection to one address may take while the host has others to try, in seconds."""

_SECRET_HEADERS = re.compile(
    r"(b'(?:location|content-location|link|refresh|set-cookie)',) b(?:'[^']*'|\"[^\"]*\")", re.IGNORECASE
)
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")

_is_sending: ContextVar[bool] = ContextVar("_is_sending", default=False)


class _RedactSignatures(logging.Filter):
    """Removes signatures from the log records of this module's requests.

    httpx logs the whole URL of a request, and httpcore the headers of the response. The filter removes queries, and the
    values of headers that may hold a relative URL or a signature. Records of other requests are left unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_sending.get():
            message = _SECRET_HEADERS.sub(r"\1 b'...'", record.getMessage())
            record.msg, record.args = redact(message, 2000), ()
        return True


_redact_signatures = _RedactSignatures()


class SlowResponseError(Exception):
    """The head of a response, or its body, arrives too slowly."""


class Fetch:
    """Sends GET requests to URLs from outside.

    The first instance adds a filter to the loggers of httpx and httpcore, which otherwise log signed URLs. An import
    does not change them. A filter added twice counts once.

    Args:
        http: Sends the requests. Its own headers, cookies and auth are not used.
        allow_private: Whether to allow `http` and addresses off the public internet.
        read_timeout: Seconds without a byte after which a connection counts as broken.
        is_look: Whether the content is only inspected: then plain `http` is allowed.
    """

    def __init__(self, http: httpx.AsyncClient, *, allow_private: bool, read_timeout: float, is_look: bool) -> None:
        self._http = http
        self._allow_private = allow_private
        self._is_look = is_look
        self._read_timeout, self._connect_timeout = read_timeout, min(read_timeout, 15.0)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_redact_signatures)

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[httpx.Response, str]]:
        """Follow at most `MAX_REDIRECTS` redirects. Yield the response, with an unread body, and its URL.

        Raises:
            VideoUrlRefusedError: The URL or a redirect leads to an address that is not allowed.
            SlowResponseError: The head of the response did not arrive in time.
            httpx.TransportError: The host cannot be reached.
            OSError: Its name does not resolve.
        """
        seconds = self._connect_timeout + self._read_timeout
        for _ in range(MAX_REDIRECTS + 1):
            deadline = asyncio.timeout(seconds)
            try:
                async with deadline:
                    response = await self._get_once(url, headers)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise SlowResponseError(f"no complete response head within {seconds:g} s") from None
            try:
                if not response.has_redirect_location:
                    yield response, url
                    return
                try:
                    url = urljoin(url, response.headers["location"])
                except ValueError:
                    raise refused_url(f"the URL {redact(url)} redirects to something that is not a URL") from None
            finally:
                await response.aclose()
        raise refused_url(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _get_once(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        is_checked, addresses = await self._allowed_addresses(url)
        for number, address in enumerate(addresses, start=1):
            is_last = number == len(addresses)
            try:
                response = await self._send(self._request(url, headers, address, is_last=is_last))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if is_last:
                    raise
            else:
                if is_checked:
                    _check_peer(response, url)
                return response
        raise OSError("the host has no address")

    async def _allowed_addresses(self, url: str) -> tuple[bool, list[str | None]]:
        """Return whether only public addresses are allowed, and the addresses to try in order.

        None in place of an address means the host as it is in the URL.
        """
        problem = url_problem(url)
        if problem:
            raise refused_url(f"the URL {redact(url)} {problem}")
        if self._allow_private:
            return False, [None]
        if urlsplit(url).scheme != "https" and not self._is_look:
            raise refused_url(f"the URL {redact(url)} is not https")
        if _is_proxied(url):
            return False, [None]
        try:
            addresses = await addresses_of(url)
        except UnicodeError:
            raise refused_url(f"the URL {redact(url)} has a host name that cannot be resolved") from None
        private = next((address for address in addresses if not is_public_address(address)), None)
        if private:
            raise refused_url(f"the URL {redact(url)} leads to the private address {private}")
        return True, [None] if _is_address(urlsplit(url).hostname or "") else list(addresses)

    def _request(self, url: str, headers: Mapping[str, str], address: str | None, *, is_last: bool) -> httpx.Request:
        connect = self._connect_timeout if is_last else min(FIRST_ADDRESS_SECONDS, self._connect_timeout)
        extensions: dict[str, Any] = {"timeout": httpx.Timeout(self._read_timeout, connect=connect).as_dict()}
        try:
            target = httpx.URL(url)
            if address is not None:
                # TLS and the server get the name. The connection is closed after the request: httpx would reuse it for
                # any name at this address.
                headers = {**headers, "Host": target.netloc.decode("ascii"), "Connection": "close"}
                extensions["sni_hostname"] = target.raw_host.decode("ascii")
                target = target.copy_with(host=address)
            # client.build_request would add the client's own headers, cookies and auth.
            return httpx.Request("GET", target, headers=headers, extensions=extensions)
        except (httpx.InvalidURL, UnicodeError):
            raise refused_url(f"{redact(url)} is not a URL") from None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        token = _is_sending.set(True)
        try:
            return await self._http.send(request, stream=True, auth=None, follow_redirects=False)
        except httpx.RemoteProtocolError as error:
            # httpx parses the `Location` header even if it does not follow redirects.
            if "location header" in str(error):
                raise refused_url(f"the URL redirects to something that is not a URL: {redact(error, 200)}") from None
            raise
        finally:
            _is_sending.reset(token)


def _is_address(host: str) -> bool:
    """Return whether a URL's host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_proxied(url: str) -> bool:
    """Return whether httpx sends the request to a proxy, by the environment variables for proxies."""
    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.netloc)


def _check_peer(response: httpx.Response, url: str) -> None:
    """Refuse a response from a private address, even if the name resolved to a public one."""
    connection = response.extensions.get("network_stream")
    peer = connection.get_extra_info("server_addr") if connection is not None else None
    if peer and not is_public_address(str(peer[0])):
        raise refused_url(f"the URL {redact(url)} leads to the private address {peer[0]}")


def refused_url(message: str, status: int | None = None) -> VideoUrlRefusedError:
    """Return the error for a URL that is not allowed, or that its host refuses. The video is already paid for."""
    return VideoUrlRefusedError(message, http_status=status, credits_spent="yes")
