"""Ten plain Prefect flows at once on a server with SQLite: the time of each round, and how often it was locked.

.venv/bin/python tests/benchmarks/sqlite.py --rounds 5
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.prefect_server import PrefectServer

PLAIN_FLOW = """
from prefect import flow, task

@task
def step(number: int) -> int:
    return number

@flow
def plain() -> int:
    return sum(step(number) for number in range(3))

plain()
"""


def main() -> None:
    """Print a line for each round, and the count of locked statements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10, help="flows at once")
    options = parser.parse_args()
    names = ("prefect", "aiosqlite", "sqlalchemy", "fastapi")
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    with tempfile.TemporaryDirectory() as folder, PrefectServer(Path(folder)) as server:
        env = dict(os.environ) | {"PREFECT_API_URL": server.api_url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        for number in range(options.rounds):
            began = time.monotonic()
            runs = [subprocess.Popen([sys.executable, "-c", PLAIN_FLOW], env=env) for _ in range(options.runs)]
            failed = sum(run.wait() != 0 for run in runs)
            print(f"round {number + 1}: {time.monotonic() - began:.1f} s, {failed} failed", flush=True)
        log = "".join(path.read_text(errors="replace") for path in Path(folder).rglob("*.log"))
        print(f"database is locked: {log.count('database is locked')} times")


if __name__ == "__main__":
    main()
