"""The project that `prefect-loova init` writes: it passes its own test, and deploys to a worker as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_loova import LoovaVideos
from prefect_loova.cli.init import PROJECT
from tests.integration.conftest import block_of

PREFECT = [sys.executable, "-m", "prefect"]
INIT = [sys.executable, "-m", "prefect_loova.cli", "init"]


def run(command: list[str], cwd: Path, env: dict[str, str] | None = None, seconds: float = 180) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_writes_a_project_and_overwrites_nothing(tmp_path: Path):
    run([*INIT, "videos"], tmp_path)
    folder = tmp_path / "videos"
    assert {path.name for path in folder.iterdir()} == set(PROJECT)
    assert str(folder) in (folder / "prefect.yaml").read_text()
    (folder / "flow.py").write_text("mine")
    again = subprocess.run([*INIT, "videos"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "has README.md, flow.py" in again.stderr
    assert (folder / "flow.py").read_text() == "mine"


@pytest.mark.workers
@pytest.mark.one_s3_server
def test_the_project_passes_its_test_and_a_worker_elsewhere_makes_its_videos(
    served, credentials, bucket, tmp_path, loova
):
    folder, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run([*INIT, str(folder)], elsewhere)
    run([sys.executable, "-m", "pytest", "-q"], folder)

    with temporary_settings({PREFECT_API_URL: served["PREFECT_API_URL"]}):
        may_list = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)
        LoovaVideos(credentials=credentials, bucket=may_list).save("loova", overwrite=True)
    run([*PREFECT, "work-pool", "create", "loova", "--type", "process"], folder, served)
    run([*PREFECT, "--no-prompt", "deploy", "--all"], folder, served)
    for name in ("nightly-videos/nightly-videos", "collect-videos/collect-videos"):
        run([*PREFECT, "deployment", "run", name], elsewhere, served)
        run([*PREFECT, "worker", "start", "--pool", "loova", "--run-once"], elsewhere, served)
    runs = httpx.post(f"{served['PREFECT_API_URL']}/flow_runs/filter", json={}, trust_env=False, timeout=30).json()
    ended = {run["name"]: run["state"]["type"] for run in runs if run["deployment_id"] and run["start_time"]}
    assert len(ended) == 2 and set(ended.values()) == {"COMPLETED"}, ended
    assert loova.ledger["totals"]["billed"] == 2
