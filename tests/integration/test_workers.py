"""Deployments and two workers: the documented commands on a Prefect server of its own, and a worker killed with -9."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova.simulator import LoovaSimulator
from tests.integration.conftest import TIMES
from tests.support.docs_blocks import to_run
from tests.support.postgres import postgres
from tests.support.prefect_server import PrefectServer
from tests.support.processes import kill_with_all_its_children

ROOT = Path(__file__).parents[2]
ROWS = 60
BATCH = "generate-from-manifest/generate-from-manifest"
pytestmark = [pytest.mark.workers, pytest.mark.one_s3_server]


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=1, short_side=64) as simulator:
        yield simulator


@pytest.fixture
def credentials(loova: LoovaSimulator) -> LoovaCredentials:
    """Patient, as two workers and their server keep the machine busy: no answer is lost but by the kill."""
    return LoovaCredentials(
        api_key=SecretStr(loova.api_key), base_url=loova.base_url, timeout=20, submit_timeout=20, job_times=TIMES
    )


class Cluster:
    """A Prefect server, and the commands of docs/deploy.md."""

    def __init__(self, server: PrefectServer, home: Path) -> None:
        self.server, self.home = server, home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.env = kept | {
            "PREFECT_API_URL": server.api_url,
            "PREFECT_HOME": str(home),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def prefect(self, *words: str) -> str:
        done = subprocess.run(
            ["prefect", *words], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, code: str, cwd: Path) -> None:
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=self.env, cwd=cwd, timeout=300, check=True)

    @contextmanager
    def worker(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.home / f"{name}.log").open("ab") as log:
            command = ["prefect", "worker", "start", "--pool", "loova", "--name", name]
            process = subprocess.Popen(
                command, env=self.env, cwd=self.home, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            kill_with_all_its_children(process.pid)
            process.wait()

    async def runs(self) -> list[Any]:
        with temporary_settings({PREFECT_API_URL: self.server.api_url}):
            async with get_client() as client:
                return await client.read_flow_runs()

    async def until_ended(self, count: int, seconds: float = 240) -> list[Any]:
        until = time.monotonic() + seconds
        while True:
            ended = [run for run in await self.runs() if run.state is not None and run.state.is_final()]
            if len(ended) >= count:
                return sorted(ended, key=lambda run: run.start_time)
            assert time.monotonic() < until, self.told()
            await asyncio.sleep(0.5)

    def told(self) -> str:
        """The ends of the logs of the server and the workers."""
        logs = [self.server.log, *sorted(self.home.glob("*.log"))]
        return "\n\n".join(f"{log}\n{log.read_text()[-6000:]}" for log in logs if log.exists())


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """On Prefect's own SQLite, or on PostgreSQL (`make test-postgres`)."""
    with ExitStack() as stack:
        url = None
        if os.environ.get("TEST_ON_POSTGRES"):
            url = stack.enter_context(postgres()).url
        server = stack.enter_context(PrefectServer(tmp_path_factory.mktemp("server"), url))
        yield Cluster(server, tmp_path_factory.mktemp("home"))


async def deployed(cluster: Cluster, place: Any, manifest: str) -> None:
    """As docs/deploy.md says, with a prefect.yaml of one's own: another list, and polls for short generations."""
    with temporary_settings({PREFECT_API_URL: cluster.server.api_url}):
        await place.credentials.save("loova", overwrite=True)
        await place.bucket.save("loova", overwrite=True)
    config = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    (batch,) = [one for one in config["deployments"] if one["name"] == "generate-from-manifest"]
    batch["parameters"] |= {"manifest": manifest, "poll_seconds": 0.2, "max_credits": 5000}
    own = cluster.home / "prefect.yaml"
    own.write_text(yaml.safe_dump(config))
    cluster.prefect("work-pool", "create", "loova", "--type", "process")
    cluster.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(own))


def rows(bucket: Any, count: int) -> str:
    body = "prompt,duration\n" + "".join(f"video {number},4\n" for number in range(count))
    bucket.client.put_object(Bucket=bucket, Key="loova/prompts.csv", Body=body.encode())
    return f"s3://{bucket.name}/loova/prompts.csv"


def with_submits_on_their_way(loova: LoovaSimulator, count: int) -> None:
    """Wait until so many are bought whose answers are not given yet: a batch has 6 at once."""
    loova.fail("slow_reply", delay_seconds=15, times=6)
    before = loova.ledger["totals"]["billed"]
    until(lambda: loova.ledger["totals"]["billed"] >= before + count)


def run_by_hand(cluster: Cluster) -> None:
    cluster.prefect("deployment", "run", BATCH)


def saved(bucket: Any) -> int:
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="loova/")
    return sum(found["Key"].endswith("/video.mp4") for page in pages for found in page.get("Contents", []))


def decided(cluster: Cluster, bucket: Any, loova: LoovaSimulator, place: Any) -> int:
    """What a person does about the submit that the kill may have met: look into the dashboard, and decide."""
    dashboard = {task["request"]["prompt"]: task["task_id"] for task in loova.ledger["tasks"]}
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="loova/")
    keys = [found["Key"] for page in pages for found in page["Contents"] if found["Key"].endswith("/record.json")]
    records = [json.loads(bucket.client.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys]
    doubts = [record for record in records if record["attempts"][-1]["state"] == "in_doubt"]
    for record in doubts:
        task_id = dashboard.get(record["request"]["prompt"])
        # The workers may not list the records, so that the person vouches for it that no other job has the task.
        sure = ["--force", "--why", "the prompt in the dashboard is this job's"]
        decision = ["adopt", task_id, *sure] if task_id else ["submit-again"]
        words = [record["key"], *decision, "--credentials", "loova", "--s3-block", "loova", "--attempt", "1"]
        command = [sys.executable, "-m", "prefect_loova.resolve", *words]
        subprocess.run(command, env=cluster.env, cwd=ROOT, check=True, timeout=120)
    return len(doubts)


@contextmanager
def playground(cluster: Cluster, folder: Path) -> Iterator[str]:
    """The simulated place of docs/schedule.md; yields what it prints."""
    command = [sys.executable, "-m", "prefect_loova.playground", "--state", str(folder / "state")]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
        assert process.wait(60) == 0


def totals_of(base_url: str) -> dict[str, int]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(base_url.replace("/api", "/_simulator/ledger")) as answer:
        return dict(json.load(answer)["totals"])


async def test_a_schedule_without_an_account_buys_a_list_once(cluster: Cluster, tmp_path: Path) -> None:
    """As docs/schedule.md says, with a shorter interval."""
    for name in ("flows", "deployments"):
        (tmp_path / name).symlink_to(ROOT / name)
    with playground(cluster, tmp_path) as manifest:
        assert manifest == "s3://loova-simulated/loova/prompts.csv"
        for code in to_run("schedule.md", "bash"):
            shorter = code.replace("http://127.0.0.1:4200/api", cluster.server.api_url).replace("al 120", "al 20")
            cluster.shell(shorter, tmp_path)
        with cluster.worker("only"):
            ended = await cluster.until_ended(2)
        with temporary_settings({PREFECT_API_URL: cluster.server.api_url}):
            loova = await LoovaCredentials.aload("loova")
        totals = totals_of(loova.base_url)
    assert {(run.state.type.value, run.auto_scheduled) for run in ended} == {("COMPLETED", True)}
    assert (totals["posted"], totals["billed"]) == (3, 3)


async def test_two_workers_make_a_list_and_one_of_them_is_killed(cluster: Cluster, place, bucket, loova) -> None:
    await deployed(cluster, place, rows(bucket, ROWS))
    with ExitStack() as stack:
        first = stack.enter_context(cluster.worker("first"))
        run_by_hand(cluster)
        until(lambda: loova.ledger["totals"]["billed"] >= ROWS / 3)
        assert loova.ledger["totals"]["refused"] == 0
        with_submits_on_their_way(loova, 4)
        kill_with_all_its_children(first.pid)
        loova.clear_faults()
        killed_after = loova.ledger["totals"]["billed"]
        for name in ("second", "third"):
            stack.enter_context(cluster.worker(name))
        run_by_hand(cluster)
        await cluster.until_ended(1)
        doubts = decided(cluster, bucket, loova, place)
        print(f"\nkilled after {killed_after} billed; {doubts} in doubt, decided by a person")
        assert doubts >= 4
        run_by_hand(cluster)
        assert (await cluster.until_ended(2))[-1].state.is_completed()
        totals = loova.ledger["totals"]
        assert (totals["posted"] - totals["refused"], totals["billed"], saved(bucket)) == (ROWS, ROWS, ROWS)

        started = time.monotonic()
        run_by_hand(cluster)
        await cluster.until_ended(3)
        print(f"the same list again: {time.monotonic() - started:.0f} s, with the start of the run's process")
        assert loova.ledger["totals"]["billed"] == ROWS
        rows(bucket, ROWS + 3)
        run_by_hand(cluster)
        await cluster.until_ended(4)
        assert (loova.ledger["totals"]["billed"], saved(bucket)) == (ROWS + 3, ROWS + 3)


async def test_undisturbed_two_runs_at_once_meet_no_quota_refusal(cluster: Cluster, place, bucket, loova) -> None:
    """One by hand, one on schedule, on two workers."""
    await deployed(cluster, place, rows(bucket, ROWS))
    soon = datetime.now(UTC) + timedelta(seconds=60)
    words = ["--interval", "86400", "--anchor-date", soon.isoformat()]
    cluster.prefect("deployment", "schedule", "create", BATCH, *words)
    with cluster.worker("first"), cluster.worker("second"):
        await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() - 8)
        run_by_hand(cluster)
        ended = await cluster.until_ended(2)
    assert [run.state.type.value for run in ended] == ["COMPLETED", "COMPLETED"]
    assert {run.auto_scheduled for run in ended} == {True, False}
    totals = loova.ledger["totals"]
    assert (totals["posted"], totals["billed"], totals["refused"], saved(bucket)) == (ROWS, ROWS, 0, ROWS)
