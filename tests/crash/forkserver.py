"""Runs jobs of the core, each in a forked child that has imported everything already and that can be killed.

Reads one JSON object a line from stdin (the spec of a job, see `stage.spec_of`), and writes `{"started": id, "pid":
pid}` and `{"ended": id, "status": wait status}` lines to stdout. A spec with `warm` is run right here, before any fork:
what boto3, httpx and the job itself load and compute at first use is there for all.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.config import Config

from prefect_loova.client import LoovaClient
from prefect_loova.errors import LoovaError
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.handover import handed_over
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.records import JobRecords

Job = Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]

_SESSION = boto3.Session(aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1")


def _s3(spec: dict[str, Any]) -> Any:
    tries = spec.get("s3_tries", 2)
    config = Config(connect_timeout=2, read_timeout=2, retries={"mode": "standard", "total_max_attempts": tries})
    keys = {"aws_access_key_id": spec["access_key"], "aws_secret_access_key": spec["secret_key"]}
    return _SESSION.client("s3", endpoint_url=spec["s3"], config=config, **keys)


async def _job(spec: dict[str, Any]) -> dict[str, Any]:
    """Submit, wait and save one request, with every pause shortened by the spec's `hurry`.

    Before that comes what a person does about the job in doubt, if the spec has a `decision`.
    """

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds * spec["hurry"])

    s3 = _s3(spec)
    loova = LoovaClient(spec["api_key"], spec["api"], timeout=2, submit_timeout=spec["submit_timeout"], sleep=sleep)
    async with loova:
        records = JobRecords(s3, spec["bucket"], spec["prefix"], spec["origin"], sleep=sleep)
        loova.origin = spec["origin"]  # the proxy of each run has another port, the API behind it is the same
        jobs = VideoJobs(loova, records, times=JobTimes(**spec["times"]), sleep=sleep)
        request = VideoRequest(**spec["request"])
        if spec.get("decision"):
            await decide_as_told(jobs, request.key, **spec["decision"])
        with handed_over():
            submission = await submit_video(jobs, request, max_wait=spec["max_wait"])
            await wait_for_video(jobs, submission, max_wait=spec["max_wait"], poll_seconds=0.2)
            return (await save_video(jobs, submission, max_wait=spec["max_wait"]))[0].model_dump(mode="json")


async def decide_as_told(jobs: VideoJobs, key: str, what: Any, task_id: str | None) -> None:
    listed = [job.key for job in (await find_doubts(jobs)).in_doubt]
    if listed != [key]:
        raise AssertionError(f"in doubt is {key}, and the list of jobs in doubt has {listed}")
    decision = Decision(what=what, who="tests", when=datetime.now(UTC), why="the dashboard says so")
    await decide(jobs, key, decision, task_id)


def _child(spec: dict[str, Any], job: Job) -> None:
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    for noisy in ("botocore", "boto3", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.INFO)
    try:
        result = asyncio.run(job(spec))
    except LoovaError as error:
        known = {"task_id": error.task_id, "credits_spent": error.credits_spent, "message": str(error)}
        result = {"state": "error", "type": type(error).__name__} | known
        print(f"ended with {result}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        result = {"state": "crash", "type": "unexpected", "message": traceback.format_exc()}
    with open(spec["result"], "w") as file:  # noqa: PTH123
        json.dump(result, file)


def main(job: Job = _job) -> None:
    """Fork for each line until stdin ends."""
    children: dict[int, Any] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.005 if children else None)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                spec = json.loads(line)
                if spec.get("warm"):
                    asyncio.run(job(spec))
                    gc.freeze()  # so that no child copies these pages by counting references
                    _tell({"ended": spec["id"], "status": 0})
                    continue
                pid = os.fork()
                if pid == 0:
                    try:
                        _child(spec, job)
                    finally:
                        os._exit(0)
                children[pid] = spec["id"]
                _tell({"started": spec["id"], "pid": pid})
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _tell({"ended": children.pop(pid), "status": status})


def _tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
