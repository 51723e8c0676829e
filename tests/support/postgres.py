"""A PostgreSQL server from Debian's package on loopback, as the database of a Prefect server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Postgres(NamedTuple):
    """A running PostgreSQL: the database URL for Prefect, the main process, and the version."""

    url: str
    pid: int
    version: str


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Start PostgreSQL. It refuses to run as root, so root runs it as the user `postgres`.

    Its folder is not a temporary folder of pytest, because pytest denies other users access to those.

    Args:
        durable: Whether each commit waits for the disk, as by default. Tests do not need that.
    """
    tools = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if tools is None:
        raise SystemExit("PostgreSQL is not installed (Debian, Ubuntu: apt install postgresql)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = "postgres" if os.geteuid() == 0 else None
    data = Path(tempfile.mkdtemp(prefix="prefect-loova-postgres-"))
    if user:
        shutil.chown(data, user, user)

    def run(tool: str, *words: str) -> None:
        command = [str(tools / tool), *words]
        subprocess.run(command, user=user, cwd=data, check=True, stdout=subprocess.DEVNULL)

    try:
        with _running(run, data, port, "" if durable else " -c fsync=off"):
            pid = int((data / "postmaster.pid").read_text().split()[0])
            version = (data / "PG_VERSION").read_text().strip()
            yield Postgres(f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect", pid, version)
    finally:
        shutil.rmtree(data)


@contextmanager
def _running(run: Callable[..., None], data: Path, port: int, more: str) -> Iterator[None]:
    run("initdb", "--pgdata", str(data), "--username", "prefect", "--auth", "trust", "--encoding", "UTF8")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=''{more}"
    run("pg_ctl", "start", "--pgdata", str(data), "--wait", "--log", str(data / "log"), "--options", options)
    try:
        run("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "prefect", "prefect")
        yield
    finally:
        run("pg_ctl", "stop", "--pgdata", str(data), "--mode", "fast")
