"""A bucket, a simulated Loova, and workers at them, without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import (
    InDoubtError,
)
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.records import JobRecords
from tests.support.proxy import Proxy
from tests.support.s3_servers import Bucket

MIB = 1024**2
TIMES = JobTimes(take_over_after=1, doubt_after=1, lease=2, look_again=0.05)
AT_ONCE = JobTimes(take_over_after=0, doubt_after=0, lease=2, look_again=0.05)
PATIENT = JobTimes(take_over_after=1000, doubt_after=1000, lease=1000, look_again=0.05)
REQUEST = VideoRequest(prompt="a job", duration=4)
KEY = REQUEST.key
RECORD, VIDEO, OPEN = f"loova/{KEY}/record.json", f"loova/{KEY}/video.mp4", f"loova/_open/{KEY}"
PUT_RECORD = r"^PUT .*record\.json"
FOR_EVER = 10**6


class Clock:
    """Time that passes only while somebody sleeps; the simulator's passes with it."""

    def __init__(self, loova: LoovaSimulator | None = None) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._loova = loova

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        if self._loova:
            self._loova.advance(seconds)
        await asyncio.sleep(0)


async def until(is_so: Callable[[], Any]) -> None:
    """Look again until it is so."""
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


def record_writes(proxy: Proxy) -> int:
    return sum(seen.method == "PUT" and "record.json" in seen.path for seen in proxy.seen)


class Workers:
    """A bucket and a simulated Loova, and workers at them."""

    def __init__(self, bucket: Bucket, loova: LoovaSimulator) -> None:
        self.bucket = bucket
        self.loova = loova

    @asynccontextmanager
    async def worker(
        self,
        s3: Any = None,
        times: JobTimes = TIMES,
        submit_timeout: float = 5,
        base_url: str | None = None,
        **settings: Any,
    ) -> AsyncIterator[VideoJobs]:
        pauses = Clock().sleep
        loova = LoovaClient(
            self.loova.api_key, base_url or self.loova.base_url, timeout=3, submit_timeout=submit_timeout, sleep=pauses
        )
        loova.origin = self.loova.origin
        async with loova:
            records = JobRecords(s3 or self.bucket.limited_client, self.bucket, "loova", loova.origin, sleep=pauses)
            yield VideoJobs(loova, records, times=times, by={"host": "a test"}, **settings)

    async def submit(self, max_wait: float = 5, max_paid_attempts: int = 1, **settings: Any) -> Submission:
        async with self.worker(**settings) as jobs:
            return await submit_video(jobs, REQUEST, max_wait=max_wait, max_paid_attempts=max_paid_attempts)

    async def wait(self, submission: Submission, max_wait: float = 5, **settings: Any) -> Any:
        async with self.worker(**settings) as jobs:
            return await wait_for_video(jobs, submission, max_wait=max_wait, poll_seconds=0.05)

    async def save(self, submission: Submission, **settings: Any) -> SavedVideo:
        names = ("upload_options", "max_bytes", "max_wait", "max_seconds")
        given = {name: settings.pop(name) for name in names if name in settings}
        clock = Clock()
        async with self.worker(**({"sleep": clock.sleep} | settings)) as jobs:
            saved, _ = await save_video(jobs, submission, **({"max_wait": 0} | given))
            return saved

    async def finished(self) -> Submission:
        """A submission whose video is made, and noted as made."""
        submission = await self.submit()
        await self.wait(submission)
        return submission

    async def decide(
        self,
        what: Any,
        task_id: str | None = None,
        times: JobTimes = TIMES,
        attempt: int | None = None,
        key: str = KEY,
        force: bool = False,
        why: str = "looked in the dashboard",
        s3: Any = None,
    ) -> JobRecord:
        decision = Decision(what=what, who="a person", when=datetime.now(UTC), why=why)
        # To adopt a task, all records have to be listed.
        s3 = s3 or (self.bucket.client if what == "adopt" else None)
        async with self.worker(s3=s3, times=times) as jobs:
            return await decide(jobs, key, decision, task_id, attempt=attempt, force=force)

    async def change(self, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        async with self.worker() as jobs:
            return (await jobs.records.change(KEY, change)).record

    async def leave(self, *moves: str, **facts: Any) -> None:
        """Leave a record behind, as a worker that died would."""
        async with self.worker() as jobs:
            record = JobRecord.claimed(REQUEST, self.loova.origin, {"host": "a dead one"})
            await jobs.records.index(record)
            for move in moves:
                record = record.move(move, **facts)  # type: ignore[arg-type]
            await jobs.records.create(record)

    @property
    def record(self) -> JobRecord:
        return JobRecord.model_validate_json(
            self.bucket.client.get_object(Bucket=self.bucket, Key=RECORD)["Body"].read()
        )

    @property
    def states(self) -> list[str]:
        return [attempt.state for attempt in self.record.attempts]

    @property
    def keys(self) -> set[str]:
        found = self.bucket.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        index_of_days = "loova/_spend/"
        return {one["Key"] for one in found if not one["Key"].startswith(index_of_days)}

    @property
    def uploads(self) -> list[str]:
        found = self.bucket.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [one["UploadId"] for one in found]

    @property
    def totals(self) -> dict[str, int]:
        return self.loova.ledger["totals"]

    @property
    def task_ids(self) -> list[str]:
        return [task["task_id"] for task in self.loova.ledger["tasks"]]

    def bytes_of(self, key: str = VIDEO) -> bytes:
        return self.bucket.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    async def until_posted(self) -> None:
        await until(lambda: self.totals["posted"] > 0)


@cache
def through(proxy: Proxy, bucket: Bucket, *keys: str) -> Any:
    """A client whose requests pass the proxy: of a user with the minimal policy, or with these keys."""
    server = replace(bucket.server, endpoint_url=proxy.url)
    return server.client_of(*(keys or bucket.limited_keys), retries={"total_max_attempts": 1}, read_timeout=5)


async def in_doubt(workers: Workers) -> None:
    workers.loova.fail("lost_reply")
    with pytest.raises(InDoubtError, match=r"Up to .* credits may be spent"):
        await workers.submit()
    assert workers.states == ["in_doubt"]
    assert workers.totals["billed"] == 1
