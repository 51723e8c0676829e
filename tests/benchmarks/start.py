"""What a start costs: importing the package over importing Prefect, and a deployed run up to its paid POST.

    make bench-start
    make bench-start ARGS="--rounds 5 --runs 2"
    make bench-start ARGS="--postgres"

Imports: processes of their own, by turns, bytecode compiled; the seconds are those of the statements alone. The plain
flow is `peers/prefect_submit.py`: it uses Prefect, its S3 block, httpx and boto3. `our flow of tasks` is that of
docs/one-video.md, and `generate_video` our own flow: both have all of that too.

A deployed run: a Prefect server (on SQLite, or on PostgreSQL) on loopback, one process worker, a simulated Loova,
SeaweedFS. Runs of `flows/generate_video.py` and of the plain flow by turns, one at a time. Counted from when the worker
takes a run up (its state `Pending`) to when the POST arrives; `Running` is when Prefect's engine starts the flow.

The last rows count the runs of over 1.5 s from `Running` to the POST, whatever their reason was, and the writes that
found SQLite's database locked. The server answers 503 to such a write, and Prefect's client asks again after 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.simulator.s3 import EmbeddedS3
from tests.benchmarks.lost_reply import PEERS_FOLDER
from tests.benchmarks.report import ROOT, finish
from tests.support.postgres import postgres
from tests.support.prefect_server import PrefectServer

PREFECT, OURS = "import prefect", "import prefect, prefect_loova"
PLAIN, TASKS, FLOW = "plain flow", "our flow of tasks", "generate_video"
_BLOCKS = "import boto3, httpx\nfrom prefect import flow, task\nfrom prefect_aws.s3 import S3Bucket\n"
FILE = "import runpy\nrunpy.run_path('{}')"
STATEMENTS = {
    PREFECT: PREFECT,
    OURS: OURS,
    "the parts of a plain flow": _BLOCKS,
    PLAIN: FILE.format(PEERS_FOLDER / "prefect_submit.py"),
    TASKS: FILE.format(PEERS_FOLDER / "loova_submit.py"),
    FLOW: "from prefect_loova import generate_video",
}
TIMED = """
import sys, time
started = time.perf_counter()
exec(compile(sys.argv[1], "statements", "exec", dont_inherit=True), {"__name__": "statements"})
print(time.perf_counter() - started)
"""
POOL = "start"
MOST_EXTRA = 0.15
MOST_EXTRA_TO_POST = 0.3


def imports(rounds: int) -> dict[str, list[float]]:
    """The seconds of each statement, by turns; the first round, which fills the caches, is left out."""
    compileall.compile_dir(ROOT / "prefect_loova", quiet=2)
    found: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    for number in range(rounds + 1):
        for name, statements in STATEMENTS.items():
            command = [sys.executable, "-c", TIMED, statements]
            done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
            if number:
                found[name].append(float(done.stdout))
    return found


def prefect_yaml(parameters: dict[str, dict[str, Any]]) -> str:
    """The deployments, as JSON, which is YAML too."""
    entrypoints = {
        FLOW: "flows/generate_video.py:generate_video",
        PLAIN: "tests/benchmarks/peers/prefect_submit.py:plain",
    }
    deployments = [
        {"name": name, "entrypoint": entrypoints[name], "work_pool": {"name": POOL}, "parameters": parameters[name]}
        for name in entrypoints
    ]
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    return json.dumps({"name": POOL, "pull": pull, "deployments": deployments})


async def store_blocks(loova: LoovaSimulator, s3: EmbeddedS3) -> None:
    aws = AwsCredentials(
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=SecretStr(s3.secret_key),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
    )
    await S3Bucket(bucket_name=s3.bucket, credentials=aws).asave("loova")
    await LoovaCredentials(api_key=SecretStr(loova.api_key), base_url=loova.base_url).asave("loova")
    await Secret(value=loova.api_key).asave("loova-key")


@contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as file:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # seen once, with no run left: nothing is measured any more
            process.kill()
            process.wait()


async def one_run(name: str, parameters: dict[str, Any], loova: LoovaSimulator, prompt: str) -> dict[str, float]:
    """Run a deployment to its end; the seconds between its states and its POST."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(name)
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        until = time.monotonic() + 240
        while run.state is None or not run.state.is_final():
            assert time.monotonic() < until, f"{name} did not end"
            await asyncio.sleep(0.5)  # seldom, as it asks the server that is measured
            run = await client.read_flow_run(run.id)
        assert run.state.is_completed(), run.state
        at = {state.type.value: state.timestamp for state in reversed(await client.read_flow_run_states(run.id))}
    posted = next(task["created_at"] for task in loova.ledger["tasks"] if task["request"]["prompt"] == prompt)
    post = datetime.fromtimestamp(posted, UTC)
    return {
        "taken_up_to_running": (at["RUNNING"] - at["PENDING"]).total_seconds(),
        "running_to_post": (post - at["RUNNING"]).total_seconds(),
        "taken_up_to_post": (post - at["PENDING"]).total_seconds(),
    }


def deployed_runs(runs: int, *, on_postgres: bool = False) -> tuple[dict[str, list[dict[str, float]]], int]:
    """Both deployments by turns; the first run of each, which writes bytecode and makes the limit, is left out.

    Return the seconds of the runs, and how many writes found the database locked.
    """
    found: dict[str, list[dict[str, float]]] = {PLAIN: [], FLOW: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "server").mkdir()
        with (
            postgres() if on_postgres else nullcontext() as database,
            EmbeddedS3(folder / "s3") as s3,
            LoovaSimulator(api_key="key", generation_seconds=0.1, short_side=64) as loova,
            PrefectServer(folder / "server", database.url if database else None, logs_retries=True) as server,
            temporary_settings({PREFECT_API_URL: server.api_url}),
        ):
            asyncio.run(store_blocks(loova, s3))
            bucket = {"$ref": {"block_document_slug": "s3-bucket/loova"}}
            credentials = {"$ref": {"block_document_slug": "loova-credentials/loova"}}
            ours = {"credentials": credentials, "bucket": bucket, "poll_seconds": 0.1, "request": {"prompt": "-"}}
            plain = {"bucket": bucket, "base_url": loova.base_url, "prompt": "-"}
            (folder / "prefect.yaml").write_text(prefect_yaml({FLOW: ours, PLAIN: plain}))
            kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            environment = kept | {
                "PREFECT_API_URL": server.api_url,
                "PREFECT_HOME": str(folder / "home"),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "PYTHONDONTWRITEBYTECODE": "",
            }
            for words in (
                ["work-pool", "create", POOL, "--type", "process"],
                ["--no-prompt", "deploy", "--all", "--prefect-file", str(folder / "prefect.yaml")],
            ):
                command = [sys.executable, "-m", "prefect", *words]
                subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            with worker(environment, folder / "worker.log"):
                for number in range(runs + 1):
                    for name, deployment in ((PLAIN, "plain/plain flow"), (FLOW, "generate-video/generate_video")):
                        prompt = f"{name} {number}"
                        given = {"prompt": prompt} if name == PLAIN else {"request": {"prompt": prompt}}
                        seconds = asyncio.run(one_run(deployment, given, loova, prompt))
                        if number:
                            found[name].append(seconds)
            locked = server.log.read_text(errors="replace").count("database is locked")
    return found, locked


def main() -> None:
    parser = argparse.ArgumentParser(description="What a start costs.")
    parser.add_argument("--rounds", type=int, default=21, help="processes for each import")
    parser.add_argument("--runs", type=int, default=7, help="runs of each deployment")
    parser.add_argument("--postgres", action="store_true", help="keep the server's data in PostgreSQL")
    args = parser.parse_args()
    seconds = imports(args.rounds)
    runs, locked = deployed_runs(args.runs, on_postgres=args.postgres)

    def extra(name: str, over: str) -> float:
        return statistics.median(ours - base for ours, base in zip(seconds[name], seconds[over], strict=True))

    def ratio(name: str, over: str) -> float:
        return statistics.median(seconds[name]) / statistics.median(seconds[over])

    rows: list[list[str | float | int | None]] = []
    for name in STATEMENTS:
        over_prefect = [extra(name, PREFECT), ratio(name, PREFECT)] if name != PREFECT else [None, None]
        over_plain = [extra(name, PLAIN), ratio(name, PLAIN)] if name in (TASKS, FLOW) else [None, None]
        rows.append([f"import: {name}", statistics.median(seconds[name]), *over_prefect, *over_plain])
    medians = {
        name: {step: statistics.median(run[step] for run in runs[name]) for step in runs[name][0]} for name in runs
    }
    for step in medians[FLOW]:
        ours, plain = medians[FLOW][step], medians[PLAIN][step]
        rows.append([f"deployed, {step.replace('_', ' ')}: plain flow", plain, None, None, None, None])
        rows.append(
            [f"deployed, {step.replace('_', ' ')}: generate_video", ours, None, None, ours - plain, ours / plain]
        )
    late = {name: sum(run["running_to_post"] > 1.5 for run in runs[name]) for name in runs}
    for name, count in late.items():
        rows.append([f"runs held up over 1.5 s, of {args.runs}: {name}", count, None, None, None, None])
    rows.append(["writes that found the database locked", locked, None, None, None, None])
    finish(
        "start",
        f"Medians of {args.rounds} processes and {args.runs} runs, in seconds; the Prefect server is on "
        f"{'PostgreSQL' if args.postgres else 'SQLite'}",
        ["", "seconds", "over import prefect", "ratio", "over a plain flow", "ratio"],
        rows,
        aims={
            f"import prefect_loova adds at most {MOST_EXTRA} s to import prefect": extra(OURS, PREFECT) <= MOST_EXTRA,
            f"a flow of our tasks takes at most {MOST_EXTRA} s more to import than a plain flow": extra(TASKS, PLAIN)
            <= MOST_EXTRA,
            f"generate_video takes at most {MOST_EXTRA} s more to import than a plain flow": extra(FLOW, PLAIN)
            <= MOST_EXTRA,
            f"the POST of generate_video leaves at most {MOST_EXTRA_TO_POST} s later after Running than a plain "
            "flow's": medians[FLOW]["running_to_post"] - medians[PLAIN]["running_to_post"] <= MOST_EXTRA_TO_POST,
        },
        figures={"import_seconds": seconds, "deployed_runs": runs, "locked": locked},
        packages=["prefect-aws", "pydantic", "av"],
    )


if __name__ == "__main__":
    main()
