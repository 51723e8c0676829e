"""Rules for URLs that this package sends on or follows: their form, what of them is shown, and where they lead."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from prefect_loova.redaction import hidden

_LOCAL_NAMES = re.compile(r"(^|\.)(localhost|local|internal|lan|home\.arpa)$")


def origin(url: str) -> str:
    """Scheme, host and port of a URL: what tells one API from another."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme.lower()}://{host}{port}"


def url_problem(url: str) -> str | None:
    """What is wrong with a URL that Loova shall fetch, or None."""
    if any(character.isspace() or ord(character) < 0x20 or "\ud800" <= character <= "\udfff" for character in url):
        return "must be a URL without spaces or control characters"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises on a port that is no number)
    except ValueError:
        return "must be a URL"
    if parts.scheme.lower() not in ("https", "http"):
        return "must be an https:// or http:// URL"
    if not parts.hostname:
        return "must be a URL with a host"
    if parts.username or parts.password:
        return "must be a URL without a user name or password in it"
    return None


def without_secrets(url: str) -> str:
    """What may be shown of a URL, well-formed or not: no query, no fragment, no user name and no password."""
    shown, mark, _ = re.match(r"([^?#]*)([?#]?)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        parts = urlsplit(shown)
        parts.port  # noqa: B018  (raises on a port that is no number, but perhaps a password)
        harmless = bool(parts.netloc) and "@" not in parts.netloc and not parts.netloc.endswith(":")
    except ValueError:
        harmless = False
    if not harmless:
        shown = re.sub(r"^([^/@]*//)?.*@", r"\1...@", shown, flags=re.DOTALL)
    shown = hidden(shown)  # a proxy's path may hold another URL, encoded
    return f"{shown}{mark}..." if mark and not shown.endswith("?...") else shown


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


def names_private_host(url: str) -> bool:
    """Whether the URL's host is, by its name alone, not on the public internet (no look-up is made)."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        return not is_public_address(host)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f000001 and 2130706433 are addresses to a resolver.
        return not is_public_address(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return "." not in host or _LOCAL_NAMES.search(host) is not None


async def private_address_of(url: str) -> str | None:
    """The first address that the URL's host resolves to and that is not public, or None.

    Raises:
        OSError: The name does not resolve.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname or "", port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    return next((address for address in addresses if not is_public_address(address)), None)
