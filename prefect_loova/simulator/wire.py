"""What goes over the wire: answers of known length, and connections that break where a fault says so."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from email.utils import formatdate

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_loova.simulator.faults import Fault

_silent = logging.getLogger("prefect_loova.simulator")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False
# Windows has two shorts where others have two ints.
_NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Connection(H11Protocol):
    """One HTTP connection; its applications find the transport in `scope["state"]`, to close it as they please."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport for the requests of this connection."""
        # asyncio does this only for sockets that name their protocol; without it each answer takes 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = self.app_state | {"transport": transport}
        # uvicorn's own loggers belong to whoever else runs uvicorn in this process.
        self.logger, self.access_log = _silent, False
        super().connection_made(transport)


class Reply(Response):
    """An answer that may go wrong on its way."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes | memoryview],
        length: int | None = None,
        fault: Fault | None = None,
    ) -> None:
        """An answer with a body of `length` bytes (of the body's own length where it is bytes)."""
        self.status_code = status
        self.background = None
        self._chunks: Iterable[bytes | memoryview] = (body,) if isinstance(body, bytes) else body
        self._length = len(body) if isinstance(body, bytes) else length or 0
        self._fault = fault
        own = {name.lower(): value for name, value in (fault.headers if fault else {}).items()}
        date = formatdate(usegmt=True)
        fields = {"date": date} | dict(headers) | {"content-length": str(self._length)} | own
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or as much of it as the fault leaves."""
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
        # Without lingering, closing a socket throws away what is on its way and sends RST. What was sent goes first.
        await asyncio.sleep(0.05 if sent else 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
