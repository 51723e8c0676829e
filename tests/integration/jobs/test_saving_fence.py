"""A worker that was stopped at any point of saving, and goes on after another one saved, changes nothing any more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prefect_loova.models.results import Submission
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import FOR_EVER, MIB, VIDEO, Workers, through, until
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket

SIZES = {"in one piece": None, "in parts": 12 * MIB}


@pytest.fixture(params=SIZES)
def workers(request: pytest.FixtureRequest, bucket: Bucket) -> Iterator[Workers]:
    size = SIZES[request.param]
    with LoovaSimulator(generation_seconds=0, short_side=64, video_bytes=size) as loova:
        yield Workers(bucket, loova)


@contextmanager
def saver(workers: Workers, submission: Submission, proxy: Proxy) -> Iterator[subprocess.Popen[str]]:
    """A process that saves the video, with its way to S3 through the proxy."""
    spec = {
        "s3": proxy.url,
        "keys": workers.bucket.limited_keys,
        "api_key": workers.loova.api_key,
        "base_url": workers.loova.base_url,
        "bucket": workers.bucket.name,
        "submission": submission.model_dump(mode="json"),
        "lease": 1.0,
    }
    command = [sys.executable, "-m", "tests.integration.jobs.saver", json.dumps(spec)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def object_of(workers: Workers) -> tuple[str, str]:
    """Whose copy stands in the bucket, and since when."""
    head = workers.bucket.client.head_object(Bucket=workers.bucket, Key=VIDEO)
    return head["Metadata"]["copy-id"], str(head["LastModified"])


class Stopped:
    """Stops the process with SIGSTOP when S3 has answered its n-th request of a kind, before it has the answer."""

    def __init__(self, proxy: Proxy, method: str, path: str, number: int) -> None:
        self.now = threading.Event()
        self._proxy, self._method, self._path, self._left = proxy, method, path, number
        self.process: subprocess.Popen[str] | None = None
        proxy.answered = self._answered

    def _answered(self, line: str) -> None:
        if line.startswith(self._method) and self._path in line:
            self._left -= 1
            if self._left == 0:
                assert self.process is not None
                os.kill(self.process.pid, signal.SIGSTOP)
                self.now.set()


DENIED = NetworkFault(
    what="answer",
    status=403,
    matching="^DELETE .*uploadId",
    body=b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
    times=FOR_EVER,
)

# After which answer of S3 the saver is stopped: each that it gets up to its last one before the object is there.
MOMENTS = {
    "it has the lease": ("PUT", "record.json", 1),
    "its first renewal is written": ("PUT", "record.json", 2),
    "its second renewal is written": ("PUT", "record.json", 3),
    "its upload began": ("POST", "?uploads", 1),
    "its second part is stored": ("PUT", "partNumber", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("may_abort", [True, False], ids=["uploads may be aborted", "no upload may be aborted"])
async def test_a_saver_that_was_stopped_does_not_write_over_its_successors_object(
    workers: Workers, proxy: Proxy, moment: str, may_abort: bool
) -> None:
    submission = await workers.finished()
    stopped = Stopped(proxy, *MOMENTS[moment])
    try:
        with saver(workers, submission, proxy) as process:
            stopped.process = process
            await until(lambda: stopped.now.is_set() or process.poll() is not None)
            if not stopped.now.is_set():
                assert process.returncode == 0  # it has no such moment
                return
            await asyncio.sleep(2.2)  # its lease runs out
            with Proxy(proxy.target) as of_successor:
                if not may_abort:
                    of_successor.inject(DENIED)
                s3 = through(of_successor, workers.bucket)
                saved = await workers.save(submission, s3=s3, max_wait=20, sleep=asyncio.sleep)
            before, record = object_of(workers), workers.record
            os.kill(process.pid, signal.SIGCONT)
            told = json.loads((await asyncio.to_thread(process.communicate, None, 60))[0])
    finally:
        proxy.answered = None
    assert told == {"sha256": saved.sha256}
    assert object_of(workers) == before
    assert workers.record == record
    assert workers.uploads == [] or not may_abort


async def test_a_put_that_arrives_after_the_successors_changes_nothing(workers: Workers, proxy: Proxy) -> None:
    """The bytes may lie in a proxy or a socket while the worker is long dead."""
    submission = await workers.finished()
    proxy.inject(NetworkFault(what="drop", matching=r"^(PUT|POST) .*video\.mp4(\?uploadId.*)?$", seconds=4.0))
    with saver(workers, submission, proxy) as process:
        await until(lambda: any(seen.fault for seen in proxy.seen))
        os.kill(process.pid, signal.SIGKILL)
        await workers.save(submission, max_wait=20, sleep=asyncio.sleep)
        before = object_of(workers)
        await until(lambda: proxy.is_quiet)
    assert object_of(workers) == before
