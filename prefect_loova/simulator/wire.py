"""Responses of known length, and connections that break where a fault says so."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from email.utils import formatdate

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prefect_loova.simulator.faults import Fault

# The option is two shorts on Windows and two ints elsewhere.
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Reply(Response):
    """A response that a fault may delay, cut or drop."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes | memoryview],
        length: int | None = None,
        fault: Fault | None = None,
    ) -> None:
        """Set up the response.

        Args:
            status: The HTTP status.
            headers: The headers, without `Date` and `Content-Length`.
            body: The body, whole or in chunks.
            length: The length of a body in chunks, in bytes.
            fault: What goes wrong.
        """
        self.status_code = status
        self.background = None
        self._chunks: Iterable[bytes | memoryview] = (body,) if isinstance(body, bytes) else body
        self._length = len(body) if isinstance(body, bytes) else length or 0
        self._fault = fault
        of_fault = {name.lower(): value for name, value in (fault.headers if fault else {}).items()}
        date = formatdate(usegmt=True)
        fields = {"date": date} | dict(headers) | {"content-length": str(self._length)} | of_fault
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, or the part of it that the fault leaves."""
        fault = self._fault
        if fault and fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        if fault and fault.drops:
            return await _hang_up(scope, receive, reset=fault.reset)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            return await send({"type": "http.response.body"})
        left = self._length if fault is None or fault.cut_at is None else slice(fault.cut_at).indices(self._length)[1]
        cut = left < self._length
        for chunk in self._chunks:
            part = chunk[:left]
            left -= len(part)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if left <= 0 and cut:
                return await _hang_up(scope, receive, reset=bool(fault and fault.reset), sent=True)
        await send({"type": "http.response.body"})


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool, sent: bool = False) -> None:
    transport: asyncio.Transport = scope["state"]["transport"]
    if reset:
        # Without lingering, a close discards unsent bytes and sends RST. The pause lets sent bytes leave first.
        await asyncio.sleep(0.05 if sent else 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
