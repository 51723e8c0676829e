"""Rules for URLs that this package sends on or follows: their form, what of them is shown, and where they lead."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from prefect_loova._redaction import hide_secrets

# IANA's special-purpose registries, https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-. Python's
# `is_global` changed between 3.11 and 3.14, and takes 64:ff9b::10.0.0.1 and 2002:a00:1:: for public.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        """
        0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
        192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
        2001::/23 2001:db8::/32 3fff::/20
        """.split(),  # noqa: SIM905
    )
)
# All else of IPv6 is not: ::a.b.c.d, 64:ff9b:1::/48, fc00::/7, fe80::/10. Teredo is in 2001::/23.
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_MAPPED, _NAT64 = ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96")

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
    if (
        any(not 0 < len(label) < 64 for label in parts.hostname.removesuffix(".").split("."))
        and ":" not in parts.hostname
    ):
        return "must be a URL with a host whose names between the dots have 1 to 63 characters"
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
    shown = hide_secrets(shown)  # a proxy's path may hold another URL, encoded
    return f"{shown}{mark}..." if mark and not shown.endswith("?...") else shown


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet, by IANA's tables: the same on every Python."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _MAPPED or ip in _NAT64:
            return is_public_address(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None:
            return is_public_address(str(ip.sixtofour))
        if ip not in _PUBLIC_IPV6:
            return False
    return not any(ip in network for network in _NOT_PUBLIC)


def is_private_host(url: str) -> bool:
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


async def addresses_of(url: str) -> list[str]:
    """The addresses that the URL's host resolves to, in the order in which they should be tried.

    Raises:
        OSError: The name does not resolve.
        UnicodeError: It is no name.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname or "", port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
