"""PostgreSQL from Debian's package, on loopback, in a folder of its own, for a Prefect server to lean on."""

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
    """A PostgreSQL that runs: the URL of its database for Prefect, its first process, and its version."""

    url: str
    pid: int
    version: str


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """Start it. PostgreSQL refuses to run as root: then as `postgres`.

    Args:
        durable: Whether it waits for the disk at each commit, as by default; tests can do without.

    Not in a folder of pytest's: each run of pytest closes those of all to other users.
    """
    tools = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if tools is None:
        raise SystemExit("PostgreSQL is not here (Debian, Ubuntu: apt install postgresql)")
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
