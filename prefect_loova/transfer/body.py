"""The body of an httpx response, read in large pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx

PIECE_BYTES = 256 * 1024
"""The most bytes that one read takes from the connection, which is also asyncio's limit."""


def content_length(response: httpx.Response) -> int | None:
    """Return the length of the body in bytes, or None if the host does not send it."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() and "transfer-encoding" not in response.headers else None


async def read_body(response: httpx.Response, read_timeout: float) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces as they arrive.

    httpx reads at most 64 KiB at a time and passes each piece through several layers. Reading the connection directly
    takes half the processor time. The connection is in `extensions["network_stream"]`, which httpx documents for other
    uses. This relies on the following: httpx buffers only what it read together with the head, and yields it as the
    first piece. `tests/unit/transfer/test_body.py` fails if that changes.

    Args:
        response: A response with an unread body.
        read_timeout: Seconds without a byte after which the connection counts as broken.

    Raises:
        httpx.TransportError, httpcore.NetworkError, httpcore.TimeoutException: The connection broke.
    """
    connection: Any = response.extensions.get("network_stream") if response.http_version.startswith("HTTP/1") else None
    length = content_length(response)
    pieces = response.aiter_raw()  # held to the end: garbage collection of the iterator would close the connection
    async for piece in pieces:
        yield piece
        if connection is not None and length is not None:
            left = length - len(piece)
            break
    else:
        return
    while left > 0:
        piece = await connection.read(min(left, PIECE_BYTES), read_timeout)
        if not piece:
            return
        left -= len(piece)
        yield piece
