"""The flow as a deployment: served by a process of its own, run through the API with blocks as parameters."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

SERVE = """
from prefect_loova import generate_video

if __name__ == "__main__":
    generate_video.serve(name="served", print_starting_message=True)
"""


@pytest.fixture
def served(prefect_server, tmp_path: Path) -> Iterator[None]:
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    env = dict(os.environ) | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen([sys.executable, str(script)], env=env, stdout=log, stderr=log)
        yield
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("s3_server", ["seaweedfs"], indirect=True)
async def test_a_served_flow_runs_with_blocks_as_parameters(served, place, loova):
    credentials = await place.credentials.save("for-the-deployment", overwrite=True)
    bucket = await place.bucket.save("for-the-deployment", overwrite=True)
    parameters = {
        "request": {"prompt": "a red kite", "duration": 4},
        "credentials": {"$ref": {"block_document_id": str(credentials)}},
        "bucket": {"$ref": {"block_document_id": str(bucket)}},
        "poll_seconds": 0.1,
    }
    for _ in range(120):
        try:
            run = await run_deployment("generate-video/served", parameters=parameters, timeout=90, poll_interval=0.5)
            break
        except ObjectNotFound:
            await asyncio.sleep(0.5)  # it is not served yet
    assert run.state.is_completed(), run.state.message
    assert run.name == "a-red-kite 16:9 4s"
    assert loova.ledger["totals"]["billed"] == 1
    assert loova.api_key not in run.model_dump_json()
