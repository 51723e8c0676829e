"""The simulator as a context manager: the API host and the video host, on one event loop in a thread."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self

from prefect_loova.simulator.app import Api
from prefect_loova.simulator.faults import Fault, Faults
from prefect_loova.simulator.http_server import HttpServer
from prefect_loova.simulator.ledger import Ledger
from prefect_loova.simulator.media_fetcher import MediaFetcher
from prefect_loova.simulator.rules import ExtraModel
from prefect_loova.simulator.videos import VideoHost


class LoovaSimulator:
    """A simulated Loova on loopback. As a context manager it runs inside the block; else from `start` to `close`."""

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
        extra_models: Mapping[str, ExtraModel] | None = None,
    ) -> None:
        """Store the settings; `start` opens ports and files.

        Args:
            api_key: The only accepted key.
            credits: The credits of a new account. An existing `state` keeps its own.
            generation_seconds: How long a task runs.
            max_running: How many tasks may run at a time.
            host: The address to listen on.
            port: The API's port; 0 chooses one.
            video_port: The video host's port; 0 chooses one.
            state: A folder for the ledger, which survives a restart and a kill -9; None: memory.
            video_bytes: Pads every video to this size with a `free` box, which is generated while it is sent.
            short_side: The approximate shorter side of the videos, in pixels.
            url_lifetime: How long a video's URL is valid, in seconds.
            video_origin: The origin of video URLs, for a simulator behind a proxy. By default it is the host name that
                the client used for the API, with the video port.
            clock: Returns the time, in seconds since 1970.
            faults: Faults that apply from the start.
            extra_models: Models to serve beside Loova's, by name.
        """
        self.api_key = api_key
        self._host = host
        self._ports = (port, video_port)
        self._video_origin = video_origin
        self._faults = Faults()
        for fault in faults:
            self._faults.add(fault)
        self._open_ledger: Callable[[], Ledger] = lambda: Ledger(Path(state) if state else None, credits, clock)
        self._video_settings: dict[str, Any] = {
            "url_lifetime": url_lifetime,
            "video_bytes": video_bytes,
            "short_side": short_side,
        }
        self._api_settings: dict[str, Any] = {
            "api_key": api_key,
            "max_running": max_running,
            "generation_seconds": generation_seconds,
            "extra_models": dict(extra_models or {}),
        }
        self._server: HttpServer | None = None
        self._last_snapshot: dict[str, Any] = {}

    def start(self) -> Self:
        """Open the ports and the ledger, and start to serve.

        Raises:
            OSError: A port is taken, or the state folder cannot be made.
            sqlite3.Error: The ledger in the state folder cannot be opened.
        """
        with ExitStack() as opened:
            sockets = [opened.enter_context(socket.create_server((self._host, port))) for port in self._ports]
            self._ledger = self._open_ledger()
            opened.pop_all()
        self.port, self.video_port = (listener.getsockname()[1] for listener in sockets)
        videos = VideoHost(self._ledger, self._faults, **self._video_settings)
        self._media_fetcher = MediaFetcher(self._ledger, self._video_settings["short_side"])
        self._api = Api(
            self._ledger,
            self._faults,
            videos,
            self._media_fetcher,
            video_origin=self._origin_of_videos,
            **self._api_settings,
        )
        self._server = HttpServer(list(zip((self._api.app, videos.app), sockets, strict=True)))
        self._media_fetcher.resume()
        return self

    def close(self) -> None:
        """Stop at once and abort open requests. A `state` folder keeps what was billed."""
        if self._server:
            self._server.stop()
            self._server = None
            self._media_fetcher.close()
            self._last_snapshot = self._ledger.snapshot()
            self._ledger.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """Return scheme, host and port of the API, such as `http://127.0.0.1:8765`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Return the base URL for a client: the origin and `/api`."""
        return f"{self.origin}/api"

    @property
    def ledger(self) -> dict[str, Any]:
        """Return the ledger as `GET /_simulator/ledger` shows it: `totals`, `credits`, `tasks`, `requests`, `posts`.

        After `close` it returns the last state.
        """
        return self._ledger.snapshot() if self._server else self._last_snapshot

    def fail(self, fault: Fault | str | None = None, **fields: Any) -> Fault:
        """Add a fault and return it.

        Args:
            fault: The name of a fault in `FAULTS`, or a `Fault`; None: a new one from the fields.
            fields: Fields of the fault, or changes to it.

        Examples:
            `fail("lost_reply")`, `fail("bad_gateway", on="poll", times=3)`, `fail(on="video", cut_at=100_000)`

        Raises:
            ValueError: No fault has this name, or a field is invalid.
        """
        return self._faults.add(fault, **fields)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def advance(self, seconds: float) -> None:
        """Move the simulator's clock forward, so that tasks finish and URLs expire without waiting."""
        self._ledger.advance(seconds)

    def sha256(self, task_id: str) -> str:
        """Return the SHA-256 of a task's whole video, as hex digits. It takes about a second for each GiB of padding.

        Raises:
            KeyError: There is no such task, or it has no video because its media are still fetched, or failed.
        """
        task = self._ledger.task(task_id)
        if task is None or task.is_fetching or task.problem:
            raise KeyError(task_id)
        return str(self._api.checksum(task)["sha256"])

    def _origin_of_videos(self, api_host: str) -> str:
        host = f"[{api_host}]" if ":" in api_host else api_host
        return self._video_origin or f"http://{host}:{self.video_port}"
