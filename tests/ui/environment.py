"""The environment of the UI tests: a Prefect server, a simulated Loova, an S3 server, and videos made on them.

Each flow runs in its own process, as on a worker.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from prefect_loova.simulator import LoovaSimulator
from prefect_loova.simulator.s3 import EmbeddedS3
from tests.support.prefect_server import PrefectServer

ROOT = Path(__file__).parents[2]
API_KEY = "loova-key-that-nobody-may-see"


@dataclass
class Environment:
    """The servers of the UI tests.

    Attributes:
        server: The Prefect server, with both of its UIs.
        loova: The simulated Loova.
        variables: The environment variables of a process that runs a flow.
    """

    server: PrefectServer
    loova: LoovaSimulator
    variables: dict[str, str]

    def start(self, scenario: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a scenario of `tests/ui/scenario.py`."""
        command = [sys.executable, "-m", "tests.ui.scenario", scenario, *words]
        return subprocess.Popen(command, env=self.variables, cwd=ROOT, stdout=subprocess.PIPE)

    def run(self, scenario: str, *words: str) -> Any:
        """Run a scenario and return its result."""
        process = self.start(scenario, *words)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, scenario
        return json.loads(out.splitlines()[-1])

    def execute(self, run: str) -> None:
        """Execute a run in a process of its own, as a worker does, until it ends or is suspended."""
        command = [sys.executable, "-m", "prefect.engine"]
        process = subprocess.run(
            command, env=self.variables | {"PREFECT__FLOW_RUN_ID": run}, cwd=ROOT, timeout=300, check=False
        )
        assert process.returncode == 0, run

    def post(self, path: str, **body: Any) -> Any:
        """Send a request to Prefect's API."""
        request = urllib.request.Request(
            f"{self.server.api_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return json.load(response)

    def artifact(self, key: str) -> dict[str, Any]:
        """Return the latest artifact with a key."""
        found = self.post("/artifacts/filter", artifacts={"key": {"any_": [key]}}, sort="CREATED_DESC", limit=1)
        return dict(found[0]) if found else {}

    def address(self, ui: str, path: str) -> str:
        """Return the URL of a page in one of the two UIs, `v1` or `v2`."""
        start = self.server.api_url.removesuffix("/api")
        return f"{start}{'/v2' if ui == 'v2' else ''}{path}"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium without its background requests."""
    path = shutil.which("chromium")
    assert path, "Chromium is needed: apt install chromium"
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@contextmanager
def start_environment(folder: Path, *, short_side: int = 480) -> Iterator[Environment]:
    """Start the servers, and save the blocks.

    Args:
        folder: The folder of their files.
        short_side: The short side of the simulated videos, in pixels.
    """
    home = folder / "prefect"
    home.mkdir(parents=True)
    loova = LoovaSimulator(api_key=API_KEY, generation_seconds=1.0, short_side=short_side)
    with PrefectServer(home, shows_ui=True) as server, loova, EmbeddedS3(folder / "s3", bucket="my-videos") as s3:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LOOVA_", "PREFECT_"))}
        variables = kept | {
            "PREFECT_API_URL": server.api_url,
            "PREFECT_HOME": str(folder / "client"),
            "LOOVA_API_KEY": API_KEY,
            "LOOVA_BASE_URL": loova.base_url,
            "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        environment = Environment(server, loova, variables)
        environment.run("blocks")
        yield environment
