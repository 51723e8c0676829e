"""A run with `wait="suspend"` that is killed at a request to Prefect: paid once, saved, and no run stays suspended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from prefect_loova import LoovaCredentials, collect_videos, generate_video
from prefect_loova.jobs.context import JobTimes
from prefect_loova.simulator import LoovaSimulator
from tests.crash.conftest import EVERYTHING
from tests.integration.conftest import block_of
from tests.support.proxy import NetworkFault, Proxy

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]

SUSPEND = r"^POST .*/set_state"


class SuspendedRun:
    """Deployed runs of one request, whose process reaches Prefect through a proxy."""

    def __init__(self, client: PrefectClient, proxy: Proxy, deployment: UUID, loova: LoovaSimulator, bucket: Any):
        self.client, self.proxy, self.deployment, self.loova = client, proxy, deployment, loova
        self.bucket_of = bucket
        self.credentials = LoovaCredentials(
            api_key=SecretStr(loova.api_key),
            base_url=loova.base_url,
            job_times=JobTimes(take_over_after=1, doubt_after=1, lease=2, look_again=0.1),
        )
        self.bucket = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)

    async def create(self) -> UUID:
        credentials = await self.credentials.save("suspended", overwrite=True)
        bucket = await self.bucket.save("suspended", overwrite=True)
        parameters = {
            "request": {"prompt": f"a red kite, {self.loova.port}", "duration": 4},
            "credentials": {"$ref": {"block_document_id": str(credentials)}},
            "bucket": {"$ref": {"block_document_id": str(bucket)}},
            "poll_seconds": 0.1,
            "wait": "suspend",
            "concurrency_limit": "",
            "preview": "none",
        }
        return (await self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters)).id

    async def execute(self, run: UUID) -> None:
        """Run it in a process of its own, as a worker does. A process that ends before its run begins tries again."""
        settings = {
            "PREFECT_API_URL": f"{self.proxy.url}/api",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT__FLOW_RUN_ID": str(run),
        }
        command = [sys.executable, "-m", "prefect.engine"]
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                *command, env=dict(os.environ) | settings, stderr=subprocess.PIPE
            )
            self.proxy.kill_process(lambda pid=process.pid: pid)
            _, said = await asyncio.wait_for(process.communicate(), 60)
            state = (await self.client.read_flow_run(run)).state
            if process.returncode == -signal.SIGKILL or state is None or state.name != "Scheduled":
                return
            print(f"the run did not begin, exit code {process.returncode}:\n{said.decode()}")

    async def to_the_end(self, run: UUID) -> list[str]:
        """Collect, and execute what is resumed, as workers do. A run whose process died is started anew by a person."""
        states = []
        for _ in range(6):
            await collect_videos(self.credentials, self.bucket, preview="none", concurrency_limit="")
            state = (await self.client.read_flow_run(run)).state
            assert state is not None
            states.append(state.name)
            if state.is_completed():
                return states
            if not state.is_paused():
                run = run if state.is_scheduled() else await self.create()
                await self.execute(run)
        raise AssertionError(f"the run never completed: {states}")


@pytest.fixture
async def suspended(bucket, killable_prefect):
    with temporary_settings({PREFECT_API_URL: killable_prefect.api_url}):
        async with get_client() as client:
            port = urlsplit(str(client.api_url)).port
            assert port is not None
            deployment = await generate_video.ato_deployment("suspended", entrypoint_type=EntrypointType.MODULE_PATH)
            with Proxy(port) as proxy, LoovaSimulator(generation_seconds=0.2, short_side=64) as loova:
                yield SuspendedRun(client, proxy, await deployment.aapply(), loova, bucket)


async def test_a_run_that_is_killed_around_its_suspension_pays_once_and_ends(suspended):
    bought: list[bool] = []
    suspended.proxy.watch = lambda _: bought.append(suspended.loova.ledger["totals"]["posted"] > 0)
    run = await suspended.create()
    await suspended.execute(run)
    requests = [f"{seen.method} {seen.path}" for seen in suspended.proxy.seen]
    assert (await suspended.client.read_flow_run(run)).state.name == "Suspended"
    assert (await suspended.to_the_end(run))[-1] == "Completed"
    after = bought.index(True)
    suspends = max(at for at, line in enumerate(requests) if re.search(SUSPEND, line))
    points = [(at, when) for at in range(after, len(requests)) for when in ("before", "after")]
    if not EVERYTHING:
        points = [(suspends, "before"), (suspends, "after")]
    print(f"\n{len(points)} points of {len(requests)} requests, from {requests[after]}")
    for at, when in points:
        await killed_at(suspended, at, when, requests[at])


async def killed_at(suspended: SuspendedRun, at: int, when: Any, line: str) -> None:
    """Kill a run of another request at its n-th request to Prefect, and look at the end."""
    with LoovaSimulator(generation_seconds=0.2, short_side=64) as loova:
        # Another account: the job records of one account are not those of another.
        other = SuspendedRun(suspended.client, suspended.proxy, suspended.deployment, loova, suspended.bucket_of)
        suspended.proxy.clear_faults()
        suspended.proxy.inject(NetworkFault(what="kill", when=when, at=at))
        run = await other.create()
        await other.execute(run)
        suspended.proxy.clear_faults()
        states = await other.to_the_end(run)
        print(f"killed {when} {line}: {' '.join(states)}")
        assert loova.ledger["totals"]["posted"] == loova.ledger["totals"]["billed"] == 1, (line, when, states)
