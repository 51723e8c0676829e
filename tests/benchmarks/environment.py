"""The stage of the benchmarks: a simulated Loova, SeaweedFS and a Prefect server, each in a process of its own.

Only light modules are imported here: a contestant that does not use Prefect must not pay for it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
PLACES = 6
"""How many tasks Loova runs at once for one account."""

_QUIET_SECONDS = 0.5


class S3Place(Protocol):
    """Where an S3 server is, and who asks; `EmbeddedS3` is one."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str


@dataclass(frozen=True)
class Where:
    """What a contestant is told: where everything is, and how often to poll."""

    base_url: str
    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str
    poll_seconds: float
    api_key: str = "key"
    places: int = PLACES


class Environment:
    """All the servers, while they run."""

    def __init__(
        self,
        base_url: str,
        s3: S3Place,
        stored_bytes: Callable[[], int],
        prefect_api: str,
        prefect_pids: tuple[int, ...],
        tools: dict[str, str],
    ) -> None:
        self.base_url = base_url
        self.s3 = s3
        self._stored_bytes = stored_bytes
        self._prefect_api = prefect_api
        self._prefect_pids = prefect_pids
        self.tools = tools
        """The database, with its version."""

    def where(self, poll_seconds: float) -> Where:
        """For a contestant."""
        s3 = self.s3
        return Where(self.base_url, s3.endpoint_url, s3.access_key, s3.secret_key, s3.bucket, poll_seconds)

    def run(self, who: str, prompts: list[str], poll_seconds: float, **options: Any) -> dict[str, Any]:
        """Let a contestant make videos in a process of its own; what it cost there, and at the Prefect server."""
        spec = {"who": who, "prompts": prompts, "where": asdict(self.where(poll_seconds)), "options": options}
        cpu, stored = self._server_cpu(), self._stored_bytes()
        env = os.environ | {"PREFECT_API_URL": self._prefect_api, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.benchmarks.competitor"]
        done = subprocess.run(command, cwd=ROOT, env=env, input=json.dumps(spec), text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{who} failed:\n{done.stderr[-4000:]}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self._settle()
        return figures | {
            "server_cpu_seconds": self._server_cpu() - cpu,
            "database_bytes": self._stored_bytes() - stored,
        }

    def _settle(self) -> None:
        """Wait until the Prefect server has worked off what it was sent."""
        for _ in range(120):
            before = self._server_cpu()
            time.sleep(_QUIET_SECONDS)
            if self._server_cpu() - before < 0.1 * _QUIET_SECONDS:
                return

    def _server_cpu(self) -> float:
        """Of the Prefect server, and of PostgreSQL with the processes below it, those that have ended too."""
        return sum(map(_cpu_seconds, self._prefect_pids))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_cpu_seconds(int(child)) for child in children)


def _in_sqlite(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        pages, free, size = (
            opened.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


def _in_postgres(url: str) -> int:
    command = ["psql", "-Atc", "select pg_database_size('prefect')", url.replace("+asyncpg", "")]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@contextmanager
def stage(*options: str, on_postgres: bool = False) -> Iterator[Environment]:
    """Start everything.

    Args:
        options: Of the simulator.
        on_postgres: Whether the Prefect server keeps its data in PostgreSQL; else in SQLite, its default.
    """
    from prefect_loova.simulator.s3 import EmbeddedS3
    from tests.support.postgres import postgres
    from tests.support.prefect_server import PrefectServer

    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        s3 = opened.enter_context(EmbeddedS3(folder / "s3"))
        process, base_url = simulator("--short-side", "64", "--credits", "100000000", *options)
        opened.callback(process.wait)
        opened.callback(process.terminate)
        home = folder / "prefect"
        home.mkdir()
        database = opened.enter_context(postgres(durable=True)) if on_postgres else None
        server = opened.enter_context(PrefectServer(home, database.url if database else None))
        stored = partial(_in_postgres, database.url) if database else partial(_in_sqlite, home / "prefect.db")
        pids = (server.pid, database.pid) if database else (server.pid,)
        yield Environment(
            base_url, s3, stored, server.api_url, pids, {"PostgreSQL": database.version} if database else {}
        )


def simulator(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a simulator in its own process; its base URL is in the banner."""
    command = [sys.executable, "-m", "prefect_loova.simulator", "--port", "0", "--api-key", "key", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "/api" in line:
            return process, next(word for word in line.split() if "/api" in word).split("=")[-1].strip("'\"")
    raise SystemExit("the simulator did not start")


def place(base_url: str, s3: S3Place, poll_seconds: float = 0.1) -> dict[str, Any]:
    """What the flows are told: the blocks, and how often to poll."""
    from prefect_aws import AwsCredentials
    from prefect_aws.client_parameters import AwsClientParameters
    from prefect_aws.s3 import S3Bucket
    from pydantic import SecretStr

    from prefect_loova import LoovaCredentials

    aws = AwsCredentials(
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=SecretStr(s3.secret_key),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
    )
    return {
        "credentials": LoovaCredentials(api_key=SecretStr("key"), base_url=base_url),
        "bucket": S3Bucket(bucket_name=s3.bucket, credentials=aws),
        "poll_seconds": poll_seconds,
    }


def ledger(base_url: str) -> dict[str, Any]:
    """The simulator's books."""
    url = f"{base_url.removesuffix('/api')}/_simulator/ledger"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def rss_mib() -> float:
    """The resident set of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


def peak_mib(process: int | str = "self") -> float:
    """The largest that it was, by Linux's own count: `getrusage` would give a process that of the one it came from."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
