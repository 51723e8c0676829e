"""A Prefect server in its own process, with a fixed port and database, that can be killed and restarted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect_loova.simulator import supervisor

CACHE = Path(__file__).parents[2] / ".pytest_cache"
START_SECONDS = 120.0

# `prefect server start` runs the server in a child process, which would survive a kill -9.
SERVE = """
import socket, sys, uvicorn
config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])
"""


class PrefectServer:
    """A context manager. `kill` is kill -9, and `start` uses the same database again.

    Args:
        home: The folder of the database and the log.
        database_url: Another database than SQLite in `home`.
        shows_ui: Whether to serve the UI too.
        logs_retries: Whether the log shows each locked database, to which the server answers 503.
        services: Whether all its background services run. Without, it is as in Prefect's own test harness: no scheduler
            and no late runs, but events and automations.
    """

    def __init__(
        self,
        home: Path,
        database_url: str | None = None,
        *,
        shows_ui: bool = False,
        logs_retries: bool = False,
        services: bool = True,
    ) -> None:
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self._home = home
        self.log: Path = home / "server.log"
        self._settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url} if database_url else {}
        if logs_retries:
            self._settings["PREFECT_SERVER_LOG_RETRYABLE_ERRORS"] = "true"
        if shows_ui:
            self._settings["PREFECT_SERVER_UI_API_URL"] = self.api_url
        if not services:
            self._settings["PREFECT__SERVER_EPHEMERAL"] = "1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it responds."""
        if not self._settings.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") and not any(self._home.iterdir()):
            shutil.copytree(_new_home(), self._home, dirs_exist_ok=True)
        self._run()

    def _run(self) -> None:
        env = os.environ | {"PREFECT_HOME": str(self._home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        for name in (
            "PREFECT_API_URL",
            "PREFECT_API_DATABASE_CONNECTION_URL",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        ):
            env.pop(name, None)
        env |= self._settings
        with self.log.open("ab") as log:
            held = self._socket.fileno()
            command = [sys.executable, "-c", SERVE, str(held)]
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, pass_fds=[held])
        self._socket.close()
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server (kill -9) if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._socket = _bound(self.port)

    def close(self) -> None:
        """Kill the server, and give its port away."""
        self.kill()
        self._socket.close()

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the server was started and not killed."""
        return self._process is not None

    def _answers(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.api_url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bound(port: int) -> socket.socket:
    """Return a socket that holds a port and does not listen. The server of another test could take a port that is free.

    Prefect binds its port only at the end of its start. Until then the other server would respond on it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held


def _new_home() -> Path:
    """A home with the tables and block types of a new server, which take half the time of its start.

    It is made once for each version of Prefect.
    """
    kept = CACHE / f"prefect-{version('prefect')}"
    CACHE.mkdir(exist_ok=True)
    with supervisor.locked(CACHE / "prefect.lock", START_SECONDS):
        if not kept.exists():
            made = kept.with_suffix(".new")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            server = PrefectServer(made)
            server._run()
            server.close()
            server.log.unlink()
            made.rename(kept)
    return kept
