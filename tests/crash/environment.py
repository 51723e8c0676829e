"""Where a schedule is played: the fork server, a simulator, S3, and a proxy on each wire between them and the job."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from tests.crash.faults import Wire
from tests.support.proxy import NetworkFault, Proxy, Seen
from tests.support.s3_servers import S3Server

API_KEY = "sk-simulated-secret-key"
HURRY = 0.2
TIMES = {"take_over_after": 1.0, "doubt_after": 0.5, "fresh_for": 5.0, "lease": 1.0, "look_again": 0.5}
REQUEST = VideoRequest(prompt="A crash", duration=4)


class ForkServer:
    """The process that forks the jobs; its answers come to futures.

    Args:
        script: What the process runs, beside this file.
        env: Its environment; this process's, if not given.
    """

    def __init__(self, script: str = "forkserver.py", env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
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


@dataclass(frozen=True)
class Run:
    """One run of the command."""

    result: dict[str, Any]
    requests: int
    disturbed: bool
    """Whether anything was done to it, or something of an earlier run was still under way when it began; a server that
    takes a second on a busy machine is a fault too."""

    @property
    def state(self) -> str:
        return "in_doubt" if self.result.get("type") == "InDoubtError" else str(self.result["state"])


def spec_of(
    s3: S3Server, bucket: str, prefix: str, urls: Mapping[Wire, str], folder: Path, **others: Any
) -> dict[str, Any]:
    """What the fork server is told of a job.

    Args:
        s3: The S3 server,
        bucket: the bucket, and
        prefix: where in it the job is.
        urls: Where the job reaches Loova's API and S3.
        folder: Where its log and its result go.
        others: What is otherwise than usual.
    """
    usual = {
        "api": f"{urls['api']}/api",
        "origin": "http://loova.simulated",
        "api_key": API_KEY,
        "s3": urls["s3"],
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "bucket": bucket,
        "prefix": prefix,
        "request": REQUEST.model_dump(mode="json"),
        "times": TIMES,
        "submit_timeout": 1.5,
        "hurry": HURRY,
        "max_wait": 30,
        "log": str(folder / "log"),
        "result": str(folder / "result"),
    }
    return usual | others


class Environment:
    """One job with everything around it, as a context manager.

    Args:
        forks: Starts the job.
        s3: The S3 server,
        bucket: the bucket, and
        prefix: where in it this schedule has its own place.
        video_bytes: The size of the video, for those that need several parts.
        others: What of the job's spec is otherwise than usual.
    """

    def __init__(
        self,
        forks: ForkServer,
        s3: S3Server,
        bucket: str,
        prefix: str,
        video_bytes: int | None = None,
        **others: Any,
    ) -> None:
        self.s3, self.bucket, self.prefix = s3, bucket, prefix
        self.client = s3.client()
        self.proxies: dict[Wire, Proxy] = {name: Proxy(0) for name in ("api", "s3", "video")}
        self.loova = LoovaSimulator(
            api_key=API_KEY,
            generation_seconds=0.1,
            short_side=64,
            video_bytes=video_bytes,
            video_origin=self.proxies["video"].url,
        )
        self.runs: list[Run] = []
        self.posts: list[str | None] = []
        """What the record said when a submit came by, for each."""
        self.noted: set[str] = set()
        """The task ids that stood in the record when somebody first asked for them."""
        self._forks, self._others = forks, others
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        for proxy in self.proxies.values():
            self._opened.enter_context(proxy)
        self._opened.enter_context(self.loova)
        targets = {
            "api": self.loova.port,
            "s3": urlsplit(self.s3.endpoint_url).port or 0,
            "video": self.loova.video_port,
        }
        for name, proxy in self.proxies.items():
            proxy.target = targets[name]
        self.proxies["api"].watch = self._watch
        folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        urls: dict[Wire, str] = {name: proxy.url for name, proxy in self.proxies.items()}
        self.spec = spec_of(self.s3, self.bucket, self.prefix, urls, folder, **self._others)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def seen(self) -> dict[Wire, list[Seen]]:
        """All requests that came by."""
        return {name: proxy.seen for name, proxy in self.proxies.items()}

    @property
    def story(self) -> str:
        """What all runs logged."""
        log = Path(self.spec["log"])
        return log.read_text(errors="replace") if log.exists() else ""

    @property
    def place(self) -> str:
        """Where everything of the job is in the bucket."""
        return f"{self.prefix}/{REQUEST.key}/"

    def inject(self, faults: Mapping[Wire, Iterable[NetworkFault]]) -> None:
        """Do this from now on."""
        for name, some in faults.items():
            self.proxies[name].inject(*some)

    def clear_faults(self) -> None:
        """Remove all faults."""
        for proxy in self.proxies.values():
            proxy.clear_faults()

    def run(self, **others: Any) -> Run:
        """Run the command once."""
        before = {name: len(seen) for name, seen in self.seen.items()}
        under_way = not all(proxy.is_quiet for proxy in self.proxies.values())
        result = Path(self.spec["result"])
        result.unlink(missing_ok=True)
        pid, end = self._forks.start(self.spec | others)
        for proxy in self.proxies.values():
            proxy.kill_process(lambda: pid.result(10))
        try:
            end.result(90)
            ended = json.loads(result.read_text()) if result.exists() else {"state": "killed"}
        except TimeoutError:
            ended = {"state": "hangs"}
        came = [seen for name, all_seen in self.seen.items() for seen in all_seen[before[name] :]]
        run = Run(ended, len(came), under_way or any(seen.took is None or seen.took > 1 for seen in came))
        self.runs.append(run)
        return run

    def run_in_peace(self, decision: dict[str, Any] | None = None) -> Run:
        """Run the command with nothing done to it, a person's decision first; again where the machine was too slow."""
        run = self.run(decision=decision)
        for _ in range(3):
            if run.state in ("saved", "in_doubt") or not run.disturbed:
                break
            run = self.run()
            if run.state == "in_doubt" and decision:
                run = self.run(decision=decision)
        return run

    def wait_until_quiet(self) -> None:
        """Wait until no request is under way, not even one of a client that is gone."""
        until = time.monotonic() + 20
        while not all(proxy.is_quiet for proxy in self.proxies.values()):
            assert time.monotonic() < until, "a request is under way for 20 s"
            time.sleep(0.01)

    def record(self) -> dict[str, Any] | None:
        """The job's record, as S3 has it."""
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=f"{self.place}record.json")["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return None
        return json.loads(body)

    def _watch(self, line: str) -> None:
        if line.startswith("POST"):
            record = self.record()
            self.posts.append(record and record["attempts"][-1]["state"])
        elif "task_id=" in line and not self.noted:
            self.noted |= task_ids(self.record())


def task_ids(record: dict[str, Any] | None) -> set[str]:
    """The Loova tasks that a record knows."""
    return {attempt["task_id"] for attempt in (record or {}).get("attempts", []) if attempt.get("task_id")}
