"""Rules for URLs that this package sends to Loova or follows: syntax, redaction, and addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from prefect_loova._redaction import hide_secrets

# IANA's special-purpose registries, https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-. Python's
# `is_global` changed between 3.11 and 3.14, and is true for 64:ff9b::10.0.0.1 and 2002:a00:1::.
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
# Other IPv6 addresses are not public: ::a.b.c.d, 64:ff9b:1::/48, fc00::/7, fe80::/10. Teredo is in 2001::/23.
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_MAPPED, _NAT64 = ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96")

_LOCAL_NAMES = re.compile(r"(^|\.)(localhost|local|internal|lan|home\.arpa)$")


def origin(url: str) -> str:
    """Return scheme, host and port of a URL, which identify an API."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme.lower()}://{host}{port}"


def url_problem(url: str) -> str | None:
    """Return the problem with a URL that Loova shall download, or None."""
    if any(character.isspace() or ord(character) < 0x20 or "\ud800" <= character <= "\udfff" for character in url):
        return "must be a URL without spaces or control characters"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises on a port that is not a number)
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
    """Return a URL for messages, well-formed or not: without query, fragment, user name and password."""
    base, mark, _ = re.match(r"([^?#]*)([?#]?)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        parts = urlsplit(base)
        parts.port  # noqa: B018  (raises on a port that is not a number, but perhaps a password)
        is_safe = bool(parts.netloc) and "@" not in parts.netloc and not parts.netloc.endswith(":")
    except ValueError:
        is_safe = False
    if not is_safe:
        base = re.sub(r"^([^/@]*//)?.*@", r"\1...@", base, flags=re.DOTALL)
    base = hide_secrets(base)  # the path of a proxy's URL may contain another URL, encoded
    return f"{base}{mark}..." if mark and not base.endswith("?...") else base


def is_public_address(address: str) -> bool:
    """Return whether an IP address is public by IANA's tables, the same on every version of Python."""
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
    """Return whether the name of a URL's host shows that it is not public. No DNS lookup is made."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        return not is_public_address(host)
    except ValueError:
        pass
    try:
        # Resolvers accept 127.1, 0x7f000001 and 2130706433 as addresses.
        return not is_public_address(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return "." not in host or _LOCAL_NAMES.search(host) is not None


async def addresses_of(url: str) -> list[str]:
    """Return the addresses of a URL's host, in the order in which to try them.

    Raises:
        OSError: The name does not resolve.
        UnicodeError: The name is invalid.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    entries = await asyncio.get_running_loop().getaddrinfo(parts.hostname or "", port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))
