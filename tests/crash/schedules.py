"""One schedule of harm: run a job until it ends, then hold the servers' own books against the invariants."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect_loova.models import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from tests.proxy import Harm, Proxy, Seen
from tests.s3_servers import S3Server

Wire = Literal["api", "s3", "video"]
API_KEY = "sk-simulated-secret-key"
HURRY = 0.2
TIMES = {"take_over_after": 1.0, "doubt_after": 0.5, "fresh_for": 5.0, "lease": 1.0, "look_again": 0.5}
MOST_RUNS = 8
MOST_REQUESTS = 600


class ForkServer:
    """The process that forks the jobs; its answers come to futures."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._pids: dict[int, Future[int]] = {}
        self._ends: dict[int, Future[int]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, spec: dict[str, Any]) -> tuple[Future[int], Future[int]]:
        """Start a job: its pid, and the wait status that it ends with."""
        with self._lock:
            number = next(self._ids)
            self._pids[number], self._ends[number] = Future(), Future()
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(spec | {"id": number}).encode() + b"\n")
            self._process.stdin.flush()
            return self._pids[number], self._ends[number]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "pid" in message:
                self._pids[message["started"]].set_result(message["pid"])
            else:
                self._ends[message["ended"]].set_result(message["status"])


@dataclass
class Outcome:
    """How a schedule ended."""

    state: str
    runs: int
    billed: int
    seen: dict[Wire, list[Seen]]
    broken: list[str] = field(default_factory=list)
    story: str = ""


def run_schedule(
    forks: ForkServer,
    s3: S3Server,
    bucket: str,
    prefix: str,
    harms: dict[Wire, Iterable[Harm]],
    video_bytes: int | None = None,
) -> Outcome:
    """Run a job through harm until it ends saved or in doubt.

    Args:
        forks: Starts the job.
        s3: The S3 server, and
        bucket: the bucket, and
        prefix: where in it this schedule has its own place.
        harms: What is done on which wire; counted over all runs.
        video_bytes: The size of the video, for those that need several parts.
    """
    with ExitStack() as stack:
        proxies: dict[Wire, Proxy] = {name: stack.enter_context(Proxy(0)) for name in ("api", "s3", "video")}
        loova = stack.enter_context(
            LoovaSimulator(
                api_key=API_KEY,
                generation_seconds=0.1,
                short_side=64,
                video_bytes=video_bytes,
                video_origin=proxies["video"].url,
            )
        )
        targets = {"api": loova.port, "s3": urlsplit(s3.endpoint_url).port or 0, "video": loova.video_port}
        for name, proxy in proxies.items():
            proxy.target = targets[name]
            proxy.harm(*harms.get(name, ()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        job = _Job(forks, s3, bucket, prefix, proxies, folder)
        result: dict[str, Any] = {"state": "never ran"}
        runs = 0
        while runs < MOST_RUNS and not (result["state"] == "saved" or result.get("type") == "InDoubtError"):
            runs += 1
            result = job.run()
        state = "in_doubt" if result.get("type") == "InDoubtError" else str(result["state"])
        seen = {name: proxy.seen for name, proxy in proxies.items()}
        outcome = Outcome(state, runs, loova.ledger["totals"]["billed"], seen, story=job.story())
        outcome.broken = list(_broken(outcome, result, loova, job))
        return outcome


class _Job:
    """The command that is run again and again."""

    def __init__(
        self, forks: ForkServer, s3: S3Server, bucket: str, prefix: str, proxies: dict[Wire, Proxy], folder: Path
    ) -> None:
        self.request = VideoRequest(prompt=f"crash {prefix}", duration=4)
        self.s3, self.bucket, self.prefix = s3, bucket, prefix
        self.log = folder / "log"
        self._forks, self._proxies, self._result = forks, proxies, folder / "result"
        self.spec = {
            "api": f"{proxies['api'].url}/api",
            "origin": "http://loova.simulated",
            "api_key": API_KEY,
            "s3": proxies["s3"].url,
            "access_key": s3.access_key,
            "secret_key": s3.secret_key,
            "bucket": bucket,
            "prefix": prefix,
            "request": self.request.model_dump(mode="json"),
            "times": TIMES,
            "submit_timeout": 1.0,
            "hurry": HURRY,
            "max_wait": 30,
            "log": str(self.log),
            "result": str(self._result),
        }

    def run(self) -> dict[str, Any]:
        self._result.unlink(missing_ok=True)
        pid, end = self._forks.start(self.spec)
        for proxy in self._proxies.values():
            proxy.kill_process(lambda: pid.result(10))
        try:
            end.result(90)
        except TimeoutError:
            return {"state": "hangs"}
        return json.loads(self._result.read_text()) if self._result.exists() else {"state": "killed"}

    def story(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _broken(outcome: Outcome, result: dict[str, Any], loova: LoovaSimulator, job: _Job) -> Iterable[str]:
    """The invariants that do not hold, in words."""
    client = job.s3.client()
    key = job.request.key
    if outcome.state not in ("saved", "in_doubt"):
        yield f"it never ended: {result}"
        return
    if sum(len(seen) for seen in outcome.seen.values()) > MOST_REQUESTS:
        yield "it took too many requests"
    record = json.loads(client.get_object(Bucket=job.bucket, Key=f"{job.prefix}/{key}/record.json")["Body"].read())
    ledger = loova.ledger
    if ledger["totals"]["billed"] > 1:
        yield f"{ledger['totals']['billed']} tasks were billed for one request"
    if len(record["attempts"]) != 1:
        yield f"there are {len(record['attempts'])} attempts that nobody allowed"
    attempt = record["attempts"][-1]
    if attempt["state"] != outcome.state:
        yield f"the record says {attempt['state']}, the run {outcome.state}"
    if outcome.state == "in_doubt" and "submitting" not in attempt["times"]:
        yield "it is in doubt without ever having been submitted"
    answered = any(seen.method == "POST" and seen.status == 200 and not seen.harm for seen in outcome.seen["api"])
    for task in ledger["tasks"]:
        if outcome.state == "saved" and attempt.get("task_id") != task["task_id"]:
            yield f"task {task['task_id']} is billed, and the record has {attempt.get('task_id')}"
        if answered and task["task_id"] != attempt.get("task_id") and task["task_id"] not in outcome.story:
            # A kill between the answer and its write leaves it to the log, which has it before.
            yield f"the client received task {task['task_id']}, and neither its record nor its log has it"
    yield from _broken_objects(outcome, loova, job, client, attempt)
    for secret in (API_KEY, job.s3.secret_key, "signature="):
        if secret in outcome.story or secret in json.dumps(record):
            yield f"{secret!r} stands in the log or the record"


def _broken_objects(
    outcome: Outcome, loova: LoovaSimulator, job: _Job, client: Any, attempt: dict[str, Any]
) -> Iterable[str]:
    place = f"{job.prefix}/{job.request.key}/"
    listed = client.list_objects_v2(Bucket=job.bucket, Prefix=place).get("Contents", [])
    videos = [entry["Key"] for entry in listed if entry["Key"].endswith(".mp4")]
    if outcome.state == "saved" and videos != [f"{place}video.mp4"]:
        yield f"it is saved, and the bucket has {videos}"
    for video in videos:
        digest = hashlib.sha256(client.get_object(Bucket=job.bucket, Key=video)["Body"].read()).hexdigest()
        if digest not in (loova.sha256(task["task_id"]) for task in loova.ledger["tasks"]):
            yield f"{video} is not what Loova served"
        if outcome.state == "saved" and digest != attempt["video"]["sha256"]:
            yield f"{video} has another checksum than the record"
    uploads = client.list_multipart_uploads(Bucket=job.bucket, Prefix=place).get("Uploads", [])
    if uploads:
        yield f"{len(uploads)} multipart uploads were left behind"
    entries = client.list_objects_v2(Bucket=job.bucket, Prefix=f"{job.prefix}/_open/").get("Contents", [])
    if outcome.state == "in_doubt" and not entries:
        yield "it is in doubt, and the index of open jobs does not know it"
