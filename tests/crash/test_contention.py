"""Ten processes ask for one request at the same time: one payment, one video, whatever becomes of the payer."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from prefect_loova.simulator import LoovaSimulator
from tests.crash.conftest import EVERYTHING, SEED
from tests.crash.environment import API_KEY, REQUEST, ForkServer, spec_of
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import S3Server

WORKERS = 10
ROUNDS = 50 if EVERYTHING else 3
ROUNDS_WITH_A_KILL = 50 if EVERYTHING else 2
PATIENT = {"take_over_after": 10.0, "doubt_after": 10.0, "fresh_for": 10.0, "lease": 20.0, "look_again": 0.5}
"""Nobody is dead here, however slow the machine is."""
HASTY = {"take_over_after": 1.0, "doubt_after": 1.0, "fresh_for": 5.0, "lease": 2.0, "look_again": 0.5}


@dataclass
class Worker:
    """One process, its way to Loova and to S3, and its pid."""

    folder: Path
    proxies: dict[str, Proxy] = field(default_factory=dict)
    pid: Future[int] = field(default_factory=Future)

    def result(self) -> dict[str, Any]:
        path = self.folder / "result"
        return json.loads(path.read_text()) if path.exists() else {"state": "killed"}


@contextmanager
def a_loova(post_seconds: float) -> Iterator[LoovaSimulator]:
    """A Loova that takes its time to answer a submit."""
    with LoovaSimulator(api_key=API_KEY, generation_seconds=0.1, short_side=64) as loova:
        loova.fail(on="submit", delay_seconds=post_seconds)
        yield loova


def race(
    forks: ForkServer, s3: S3Server, place: tuple[str, str], urls: list[dict], workers: list[Worker], **others: Any
) -> None:
    """Start all at once, and wait for them."""
    ends = []
    for worker, ways in zip(workers, urls, strict=True):
        pid, end = forks.start(spec_of(s3, *place, ways, worker.folder, max_wait=60, **others))
        pid.add_done_callback(lambda done, worker=worker: worker.pid.set_result(done.result()))
        ends.append(end)
    for end in ends:
        end.result(120)


@pytest.fixture(scope="module")
def bucket(s3_server) -> Iterator[str]:
    """One for all rounds, each below a prefix of its own."""
    made = s3_server.make_bucket()
    yield made.name
    made.remove()


def test_ten_processes_with_one_request_pay_once_and_share_the_video(forks, s3_server, bucket):
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, a_loova(chance.uniform(0, 0.6)) as loova:
            workers = [Worker(Path(folder) / str(each)) for each in range(WORKERS)]
            for worker in workers:
                worker.folder.mkdir()
            urls = [{"api": loova.origin, "s3": s3_server.endpoint_url}] * WORKERS
            race(forks, s3_server, (bucket, f"race-{number}"), urls, workers, times=PATIENT, submit_timeout=20)
            results = [worker.result() for worker in workers]
            assert [result for result in results if "sha256" not in result] == [], f"round {number}, seed {SEED}"
            assert {result["sha256"] for result in results} == {loova.sha256(results[0]["task_id"])}
            assert [result["reused"] for result in results].count(False) == 1
            totals = loova.ledger["totals"]
            assert (totals["posted"], totals["billed"]) == (1, 1), f"round {number}, seed {SEED}"
    print(f"\n{ROUNDS} rounds of {WORKERS} processes on {s3_server.name}: one payment each, seed {SEED}")


def test_where_the_payer_is_killed_the_others_have_its_video_or_are_in_doubt(forks, s3_server, bucket):
    chance = random.Random(SEED)
    ended: Counter[str] = Counter()
    for number in range(ROUNDS_WITH_A_KILL):
        on_post = NetworkFault(what="kill", when=chance.choice(["before", "after", "mid_reply"]), matching="^POST")
        after_it = NetworkFault(what="kill", when=chance.choice(["before", "after"]), at=chance.randint(0, 8))
        fault = chance.choice([on_post, after_it, after_it])
        ended[_round_with_a_kill(forks, s3_server, (bucket, f"kill-{number}"), fault)] += 1
    print(f"\n{ROUNDS_WITH_A_KILL} rounds on {s3_server.name} whose payer was killed: {dict(ended)}, seed {SEED}")


def _round_with_a_kill(forks: ForkServer, s3: S3Server, place: tuple[str, str], fault: NetworkFault) -> str:
    """Kill whoever pays, at its submit or at one of its requests to S3 after that; tells how the others ended."""
    with ExitStack() as stack:
        loova = stack.enter_context(a_loova(0.2))
        workers = []
        for _ in range(WORKERS):
            worker = Worker(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            ports = {"api": loova.port, "s3": urlsplit(s3.endpoint_url).port or 0}
            worker.proxies = {name: stack.enter_context(Proxy(port)) for name, port in ports.items()}
            for proxy in worker.proxies.values():
                proxy.kill_process(worker.pid.result)
            _kill_at(worker, fault)
            workers.append(worker)
        urls = [{name: proxy.url for name, proxy in worker.proxies.items()} for worker in workers]
        race(forks, s3, place, urls, workers, times=HASTY, submit_timeout=2)
        told = f"{place}, {fault}, seed {SEED}"
        results = [worker.result() for worker in workers]
        states = Counter("in_doubt" if one.get("type") == "InDoubtError" else one["state"] for one in results)
        record = json.loads(
            s3.client().get_object(Bucket=place[0], Key=f"{place[1]}/{REQUEST.key}/record.json")["Body"].read()
        )
        attempt, totals = record["attempts"][-1], loova.ledger["totals"]
        assert (totals["posted"] <= 1, totals["billed"] <= 1, len(record["attempts"])) == (True, True, 1), told
        assert set(states) <= {"saved", "in_doubt", "killed"} and states["killed"] <= 1, f"{results}, {told}"
        if attempt["state"] == "in_doubt":
            assert not states["saved"], told
            return "in doubt"
        assert attempt["state"] == "saved" and attempt["task_id"] == loova.ledger["tasks"][0]["task_id"], told
        # On a slow machine the payer may be late enough to be doubted, and write its task after all.
        assert not states["in_doubt"] or "in_doubt" in attempt["times"], told
        assert {one["sha256"] for one in results if one["state"] == "saved"} == {attempt["video"]["sha256"]}, told
        return "saved"


def _kill_at(worker: Worker, fault: NetworkFault) -> None:
    if fault.matching:
        worker.proxies["api"].inject(fault)
        return

    def arm(line: str) -> None:
        if line.startswith("POST"):
            worker.proxies["s3"].inject(fault)

    worker.proxies["api"].watch = arm
