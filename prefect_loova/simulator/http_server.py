"""Serves ASGI applications over HTTP in a thread.

This is the only module that uses uvicorn's internals: `H11Protocol` and `ServerState`, which uvicorn does not document.
`uvicorn.Server` takes 0.2 s to stop, installs signal handlers, and hides the transport that a fault has to break.
`tests/unit/simulator/test_http_server.py` fails if a version of uvicorn changes what is used here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

# Faults make uvicorn log errors. Its own loggers belong to the program around the simulator, so connections use this
# logger, which drops everything and is not registered with `logging`.
_silent = logging.Logger("prefect_loova.simulator.uvicorn", logging.CRITICAL + 1)


class _Connection(H11Protocol):
    """One HTTP connection. Its applications get the transport as `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio sets this only for sockets with a named protocol. Without it each response takes 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = self.app_state | {"transport": transport}
        self.logger, self.access_log = _silent, False
        super().connection_made(transport)


class HttpServer:
    """Serves applications, each on its own listening socket, from construction until `stop`."""

    def __init__(self, hosts: list[tuple[Any, socket.socket]]) -> None:
        self._hosts = hosts
        self._loop = asyncio.new_event_loop()
        self._state = ServerState()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="loova-simulator", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Stop at once: close the sockets, abort the connections and cancel the requests."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run(ready))
        finally:
            ready.set()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _run(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        servers = [await self._listen(app, listener) for app, listener in self._hosts]
        ready.set()
        await self._stopping.wait()
        for server in servers:
            server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        requests = list(self._state.tasks)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, asyncio.sleep(0), return_exceptions=True)

    async def _listen(self, app: Any, listener: socket.socket) -> asyncio.Server:
        config = Config(app, lifespan="off", ws="none", log_config=None)
        config.load()
        return await self._loop.create_server(
            lambda: _Connection(config, self._state, {}, self._loop), sock=listener, backlog=1024
        )
