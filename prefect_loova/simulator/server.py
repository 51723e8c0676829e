"""Runs the simulator: two hosts on one event loop in a thread of their own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self

from uvicorn import Config
from uvicorn.server import ServerState

from prefect_loova.simulator.app import Api
from prefect_loova.simulator.faults import Fault, Faults
from prefect_loova.simulator.fetching import Fetching
from prefect_loova.simulator.ledger import Ledger
from prefect_loova.simulator.videos import VideoHost
from prefect_loova.simulator.wire import Connection


class LoovaSimulator:
    """A Loova on loopback, as a context manager: it runs from `with` (or `start`) until the end (or `close`)."""

    def __init__(
        self,
        *,
        api_key: str = "simulated-key",
        credits: float = 10_000,
        generation_seconds: float = 5,
        max_running: int = 6,
        host: str = "127.0.0.1",
        port: int = 0,
        video_port: int = 0,
        state: str | PathLike[str] | None = None,
        video_bytes: int | None = None,
        short_side: int = 480,
        url_lifetime: float = 86_400,
        video_origin: str | None = None,
        clock: Callable[[], float] = time.time,
        faults: Iterable[Fault | str] = (),
    ) -> None:
        """Set it up; nothing is opened yet.

        Args:
            api_key: The one key that it accepts.
            credits: Credits of the account at the start; a `state` that has some already keeps them.
            generation_seconds: How long a task runs.
            max_running: How many tasks may run at a time.
            host: The address to listen on.
            port: The API's port; 0 chooses one.
            video_port: The video host's port; 0 chooses one.
            state: A folder for tasks, credits and books, kept over a restart or a kill -9; None: memory.
            video_bytes: Pads every video with a `free` box to so many bytes, made while they are sent.
            short_side: The videos' shorter side, in pixels, to within a few.
            url_lifetime: How long a video's URL is valid, in seconds.
            video_origin: What video URLs begin with, where a proxy stands in front; by default the host name that the
                client used for the API, and the video port.
            clock: Gives the time, in seconds since 1970.
            faults: Faults from the start.
        """
        self.api_key = api_key
        self._host = host
        self._ports = (port, video_port)
        self._video_origin = video_origin
        self._faults = Faults()
        for fault in faults:
            self._faults.add(fault)
        self._open_books: Callable[[], Ledger] = lambda: Ledger(Path(state) if state else None, credits, clock)
        self._video_settings: dict[str, Any] = {
            "url_lifetime": url_lifetime,
            "video_bytes": video_bytes,
            "short_side": short_side,
        }
        self._api_settings: dict[str, Any] = {
            "api_key": api_key,
            "max_running": max_running,
            "generation_seconds": generation_seconds,
        }
        self._running: _Running | None = None
        self._last_ledger: dict[str, Any] = {}

    def start(self) -> Self:
        """Open the ports and the books, and serve.

        Raises:
            OSError: A port is taken, or the state folder cannot be made.
            sqlite3.Error: The books in the state folder cannot be opened.
        """
        with ExitStack() as opened:
            sockets = [opened.enter_context(socket.create_server((self._host, port))) for port in self._ports]
            self._books = self._open_books()
            opened.pop_all()
        self.port, self.video_port = (bound.getsockname()[1] for bound in sockets)
        videos = VideoHost(self._books, self._faults, **self._video_settings)
        self._fetching = Fetching(self._books, self._video_settings["short_side"])
        self._api = Api(
            self._books,
            self._faults,
            videos,
            self._fetching,
            video_origin=self._origin_of_videos,
            **self._api_settings,
        )
        self._running = _Running(list(zip((self._api.app, videos.app), sockets, strict=True)))
        self._fetching.resume()
        return self

    def close(self) -> None:
        """Stop at once, whatever is under way; what was billed stays in the books of a `state` folder."""
        if self._running:
            self._running.stop()
            self._running = None
            self._fetching.close()
            self._last_ledger = self._books.ledger()
            self._books.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """Scheme, host and port of the API, such as `http://127.0.0.1:8765`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What clients take for Loova's base URL: the origin and `/api`."""
        return f"{self.origin}/api"

    @property
    def ledger(self) -> dict[str, Any]:
        """The books, as `GET /_simulator/ledger` shows them: `totals`, `credits`, `tasks`, `requests`, `posts`.

        After `close` they are as they were then.
        """
        return self._books.ledger() if self._running else self._last_ledger

    def fail(self, fault: Fault | str | None = None, **fields: Any) -> Fault:
        """Misbehave: by a fault of `FAULTS` by name, or a `Fault`, with these fields changed, or by a new one of them.

        Examples:
            `fail("lost_reply")`, `fail("bad_gateway", on="poll", times=3)`, `fail(on="video", cut_at=100_000)`

        Raises:
            ValueError: There is no such fault, or a field is wrong.
        """
        return self._faults.add(fault, **fields)

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.clear()

    def advance(self, seconds: float) -> None:
        """Move the simulator's clock: tasks finish and URLs expire without waiting."""
        self._books.advance(seconds)

    def sha256(self, task_id: str) -> str:
        """The checksum of the whole video of a task, as hex digits; a second or more for each GiB of padding.

        Raises:
            KeyError: There is no such task, or it has no video: its media are still awaited, or have failed it.
        """
        task = self._books.task(task_id)
        if task is None or task.is_fetching or task.problem:
            raise KeyError(task_id)
        return str(self._api.checksum(task)["sha256"])

    def _origin_of_videos(self, api_host: str) -> str:
        host = f"[{api_host}]" if ":" in api_host else api_host
        return self._video_origin or f"http://{host}:{self.video_port}"


class _Running:
    """Applications that are served, each on its socket.

    uvicorn speaks HTTP; its `Server` is left out, as it takes 0.2 s to stop, and signals are not its business here.
    """

    def __init__(self, hosts: list[tuple[Any, socket.socket]]) -> None:
        self._hosts = hosts
        self._loop = asyncio.new_event_loop()
        self._connections = ServerState()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="loova-simulator", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
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
        servers = [await self._listen(app, opened) for app, opened in self._hosts]
        ready.set()
        await self._stopping.wait()
        for server in servers:
            server.close()
        for connection in list(self._connections.connections):
            connection.transport.abort()
        tasks = list(self._connections.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, asyncio.sleep(0), return_exceptions=True)

    async def _listen(self, app: Any, opened: socket.socket) -> asyncio.Server:
        config = Config(app, lifespan="off", ws="none", log_config=None)
        config.load()

        def connection() -> Connection:
            return Connection(config, self._connections, {}, self._loop)

        return await self._loop.create_server(connection, sock=opened, backlog=1024)
