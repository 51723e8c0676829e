"""A Prefect server, a simulated Loova and an S3 server, each for real, and videos made on them: what a person looks at.

Everything that runs a flow is a process of its own, as a worker would be.
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
    """Where the videos are made, and Prefect's API for those who look.

    Attributes:
        server: The Prefect server, with both of its UIs.
        loova: The simulated Loova.
        environment: What a process needs to run a flow there.
    """

    server: PrefectServer
    loova: LoovaSimulator
    environment: dict[str, str]

    def start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        """Begin one of the things that `tests/ui/scenario.py` does."""
        command = [sys.executable, "-m", "tests.ui.scenario", what, *words]
        return subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE)

    def play(self, what: str, *words: str) -> Any:
        """Do it to its end; returns what it says."""
        process = self.start(what, *words)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, what
        return json.loads(out.splitlines()[-1])

    def ask(self, path: str, **body: Any) -> Any:
        """Ask Prefect's API."""
        request = urllib.request.Request(
            f"{self.server.api_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def artifact(self, key: str) -> dict[str, Any]:
        """The latest artifact with a key."""
        found = self.ask("/artifacts/filter", artifacts={"key": {"any_": [key]}}, sort="CREATED_DESC", limit=1)
        return dict(found[0]) if found else {}

    def address(self, ui: str, path: str) -> str:
        """A page of one of the two UIs, `v1` or `v2`."""
        start = self.server.api_url.removesuffix("/api")
        return f"{start}{'/v2' if ui == 'v2' else ''}{path}"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without the calls home that it makes by itself."""
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
    """Start the servers, and make the blocks.

    Args:
        folder: Where they keep their files.
        short_side: Of the simulated videos, in pixels.
    """
    home = folder / "prefect"
    home.mkdir(parents=True)
    loova = LoovaSimulator(api_key=API_KEY, generation_seconds=1.0, short_side=short_side)
    with PrefectServer(home, shows_ui=True) as server, loova, EmbeddedS3(folder / "s3", bucket="my-videos") as s3:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LOOVA_", "PREFECT_"))}
        environment = kept | {
            "PREFECT_API_URL": server.api_url,
            "PREFECT_HOME": str(folder / "client"),
            "LOOVA_API_KEY": API_KEY,
            "LOOVA_BASE_URL": loova.base_url,
            "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        stage = Environment(server, loova, environment)
        stage.play("blocks")
        yield stage
