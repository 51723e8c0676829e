"""The Prefect server of a command: the configured one, or a temporary one that Ctrl-C does not end too early."""

from __future__ import annotations

import atexit
import contextvars
import logging
import signal
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

from prefect_loova.cli.interrupts import at_end
from prefect_loova.cli.output import busy
from prefect_loova.errors import LoovaError, redact

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

# On a slow machine the first start takes long. The telemetry logs a traceback if the database is locked.
_SETTINGS: dict[Any, Any] = {
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180,
}


class NoPrefectServerError(LoovaError):
    """The Prefect server cannot be reached, or a temporary one does not start. Nothing was bought."""


def need_server() -> None:
    """Check that the configured server answers, or start a temporary one.

    Raises:
        NoPrefectServerError: There is no server.
    """
    url = PREFECT_API_URL.value()
    if url:
        _check(url)
    elif PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        _start()


def _check(url: str) -> None:
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if isinstance(problem, httpx.TransportError):
        reason = redact(problem) or type(problem).__name__
        raise NoPrefectServerError(
            f"the Prefect server at {redact(url, 200)} cannot be reached ({reason}); nothing was bought. Start it "
            "(prefect server start), or unset PREFECT_API_URL: then the command starts a temporary server"
        )


def _start() -> None:
    """Start a temporary server, as Prefect does it, but such that the terminal's Ctrl-C does not reach it.

    A child process inherits the signals that its thread blocks. Without this, the server would end before the flow has
    reported its last state, and Prefect would wait for it.
    """
    from prefect.server.api.server import SubprocessASGIServer  # noqa: PLC0415  (only a temporary server needs it)

    server = SubprocessASGIServer()
    if server.running:
        return
    failures: list[Exception] = []

    def start() -> None:
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with temporary_settings(set_defaults=_SETTINGS):
                server.start()
        except Exception as error:
            failures.append(error)

    at_end.append(partial(_stop, server))
    starting = threading.Thread(target=contextvars.copy_context().run, args=(start,), daemon=True)
    starting.start()
    with busy("Starting a temporary Prefect server"):
        while starting.is_alive():
            starting.join(0.5)  # with a timeout, Ctrl-C interrupts it on Windows too
    if "level" not in get_current_settings().logging.model_fields_set:
        # When the process exits, Prefect logs that the server ends. What is registered last runs first.
        atexit.register(logging.getLogger("prefect").setLevel, logging.WARNING)
    if failures:
        raise NoPrefectServerError(f"Prefect's temporary server did not start: {redact(failures[0])}")


def _stop(server: SubprocessASGIServer) -> None:
    process = server.server_process
    if process is None:
        return
    process.terminate()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
