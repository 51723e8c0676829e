"""The TLS context of all connections of a process."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def tls_context() -> ssl.SSLContext:
    """Return httpx's default context, loaded once per process.

    Loading takes 20 ms and a few MiB, and each Prefect task has its own client.
    """
    return httpx.create_ssl_context()
