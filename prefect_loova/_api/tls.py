"""Whose certificates are trusted, by all connections of a process."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def tls_context() -> ssl.SSLContext:
    """What httpx trusts by default, loaded once: it takes 20 ms and a few MiB, and each task has its own client."""
    return httpx.create_ssl_context()
