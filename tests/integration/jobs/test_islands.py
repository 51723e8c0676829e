"""One bad thing stops nothing else: each poison beside 20 good jobs, which all end within a bounded number of passes.

On a real S3 server, with the simulator, over the wire.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.attempts import Lease
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.budget import DailyBudget, today
from prefect_loova.store.records import JobRecords
from tests.integration.jobs.workers import FOR_EVER, TIMES, Workers
from tests.support.proxy import NetworkFault, Proxy

pytestmark = pytest.mark.one_s3_server

PASSES = 5
"""Enough for 20 good jobs with 6 places: 8 are bought, 12 are queued."""

GOOD = [VideoRequest(prompt=f"good {number}", duration=4) for number in range(20)]
BAD = VideoRequest(prompt="poison", duration=4)
DEEP = b"[" * 200_000
FIRST = "0" * 64
"""A key that sorts before all others, so that its entry is the oldest of those of one second."""


@dataclass
class Place:
    """Where a poison is put."""

    workers: Workers
    proxy: Proxy
    drip: Proxy
    settings: dict[str, Any] = field(default_factory=dict)
    collector: dict[str, Any] = field(default_factory=dict)

    def put(self, key: str, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.workers.bucket.client.put_object(Bucket=self.workers.bucket, Key=key, Body=body)

    def entry(self, content: Any = None, **changes: Any) -> None:
        """The oldest entry of the queue."""
        known = {
            "format": 1,
            "api_origin": self.workers.loova.origin,
            "request": BAD.model_dump(mode="json"),
            "max_paid_attempts": 1,
        }
        self.put(f"loova/_open/queued/{FIRST}", known | changes if content is None else content)

    def record(self, content: Any, key: str = BAD.key) -> None:
        """A job that is in the index of open jobs."""
        self.put(f"loova/_open/{key}", {"key": key})
        self.put(f"loova/{key}/record.json", content)

    def attempt(self, **facts: Any) -> dict[str, Any]:
        record = JobRecord.claimed(BAD, self.workers.loova.origin, {}).model_dump(mode="json")
        record["attempts"][0] |= facts
        return record

    async def bought(self, request: VideoRequest = BAD) -> None:
        async with self.workers.worker() as jobs:
            await submit_video(jobs, request)


Poison = Callable[[Place], Any]


def _queued_with_record(content: Callable[[Place], Any]) -> Poison:
    async def put(place: Place) -> None:
        place.put(f"loova/{BAD.key}/record.json", content(place))
        async with place.workers.worker() as jobs:
            await enqueue(jobs, [BAD])

    return put


def _open_task(**fault: Any) -> Poison:
    async def put(place: Place) -> None:
        await place.bought()
        place.workers.loova.fail(**({"on": "poll", "prompt": "poison", "times": None} | fault))

    return put


def _refused(status: int) -> Poison:
    async def put(place: Place) -> None:
        async with place.workers.worker() as jobs:
            await enqueue(jobs, [BAD])
        answer = {"code": status, "message": "refused", "data": None}
        place.workers.loova.fail(on="submit", prompt="poison", times=None, apply=False, status=status, envelope=answer)

    return put


async def _six_unusable(place: Place) -> None:
    for number in range(6):
        await place.bought(VideoRequest(prompt=f"poison {number}", duration=4))
    place.workers.loova.fail(on="poll", prompt="poison", times=None, body="not JSON")
    place.settings["times"] = TIMES.model_copy(update={"may_run": 0})


async def _slow_hosts(place: Place) -> None:
    for number in range(3):
        await place.bought(VideoRequest(prompt=f"poison {number}", duration=4))
    place.drip.inject(NetworkFault(what="drip", status=200, headers=(("Content-Type", "video/mp4"),), times=FOR_EVER))
    place.workers.loova.fail(on="video", prompt="poison", times=None, redirect_to=f"{place.drip.url}/video.mp4")
    place.collector["save_seconds"] = 6.0


async def _too_dear(place: Place) -> None:
    dear = VideoRequest(prompt="poison", duration=15)
    async with place.workers.worker() as jobs:
        await enqueue(jobs, [dear])
        spent = sum(one.credits for one in await DailyBudget(_lister(place, jobs)).costs_on(today()))
    place.settings["max_credits_per_day"] = spent + dear.estimate_credits() - 1


def _lister(place: Place, jobs: VideoJobs) -> JobRecords:
    return JobRecords(place.workers.bucket.client, place.workers.bucket, "loova", jobs.loova.origin)


async def _denied_abort(place: Place) -> None:
    """A good job whose last saver left an upload that may not be aborted."""
    async with place.workers.worker() as jobs:
        key = GOOD[0].key
        lease = Lease(holder="gone", seconds=0, upload_id="left", object_key=f"loova/{key}/video.mp4")
        await jobs.records.change(key, lambda record: record.move("succeed").move("lease", saving=lease))
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    place.proxy.inject(
        NetworkFault(what="answer", status=403, body=denied, matching="^DELETE .*uploadId=", times=FOR_EVER)
    )


def _s3_answers(status: int, what: str) -> Poison:
    async def put(place: Place) -> None:
        await place.bought()
        code = {403: "AccessDenied", 500: "InternalError", 400: "InvalidRequest"}[status]
        body = f"<Error><Code>{code}</Code></Error>".encode()
        matching = f"^{what}.*{BAD.key}/record"
        place.proxy.inject(NetworkFault(what="answer", status=status, body=body, matching=matching, times=FOR_EVER))

    return put


POISONS: dict[str, Poison] = {
    "a garbage queue entry": lambda place: place.entry(b"\x00garbage"),
    "a queue entry that is a list": lambda place: place.entry([1]),
    "a queue entry of a newer format": lambda place: place.entry(format=2),
    "a queue entry of another API": lambda place: place.entry(api_origin="http://127.0.0.1:1"),
    "a queue entry with endless paid attempts": lambda place: place.entry(max_paid_attempts=float("inf")),
    "a queue entry without a request": lambda place: place.entry(request=None),
    "a queue entry of JSON nested deeply": lambda place: place.entry(DEEP),
    "a queued request whose record is corrupt": _queued_with_record(lambda _: b"{"),
    "a queued request whose record is newer": _queued_with_record(lambda _: {"format": 2}),
    "a queued request whose record is nested deeply": _queued_with_record(lambda _: DEEP),
    "a queued request that is refused with 403": _refused(403),
    "a queued request that is refused with 413": _refused(413),
    "a queued request that is refused with 451": _refused(451),
    "a queued request that is refused with 404": _refused(404),
    "a queued request that is dearer than what is left of the day": _too_dear,
    "an open job whose record is corrupt": lambda place: place.record(b"not JSON"),
    "an open job whose record is newer": lambda place: place.record({"format": 2}),
    "an open job whose record is nested deeply": lambda place: place.record(DEEP),
    "an open job in an unknown state": lambda place: place.record(place.attempt(state="archived")),
    "a doubt without times": lambda place: place.record(place.attempt(state="in_doubt", times={})),
    "a submit without times": lambda place: place.record(
        place.attempt(state="submitting", times={}, post_timeout_seconds=0)
    ),
    "a purchase without a task id": lambda place: place.record(place.attempt(state="submitted")),
    "an entry of the index without a record": lambda place: place.put(f"loova/_open/{FIRST}", {"key": FIRST}),
    "a task that answers 403": _open_task(status=403, envelope={"code": 403, "message": "Forbidden", "data": None}),
    "a task that answers 500": _open_task(status=500),
    "a task that Loova forgot": _open_task(status=404, envelope={"code": 404, "message": "not found", "data": None}),
    "a task whose answer is nested deeply": _open_task(body="[" * 200_000),
    "six tasks that answer nothing usable for too long": _six_unusable,
    "a video that is gone": _open_task(on="video", status=404),
    "a video that is no video": _open_task(on="video", body="nothing of the kind"),
    "three video hosts at one byte a second": _slow_hosts,
    "an abort that is denied": _denied_abort,
    "a record that S3 denies": _s3_answers(403, "GET"),
    "a record that S3 always fails to read": _s3_answers(500, "GET"),
    "a record that S3 always fails to write": _s3_answers(500, "PUT"),
}


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0, short_side=32) as simulator:
        yield simulator


@pytest.fixture
async def place(workers: Workers, proxy: Proxy) -> AsyncIterator[Place]:
    with Proxy(workers.loova.video_port) as drip:
        yield Place(workers, proxy, drip)


async def one_pass(place: Place) -> CollectedVideos:
    async with AsyncExitStack() as held:
        settings = {"times": TIMES} | place.settings
        s3 = place.workers.bucket.server
        client = replace(s3, endpoint_url=place.proxy.url).client(retries={"total_max_attempts": 1})
        jobs = await held.enter_async_context(place.workers.worker(s3=client, **settings))
        return await collect(jobs, **place.collector)


@pytest.mark.parametrize("poison", POISONS)
async def test_twenty_good_jobs_end_beside(poison: str, place: Place) -> None:
    put, bought = POISONS[poison], 18 if "dearer" in poison else 8
    async with place.workers.worker() as jobs:
        for request in GOOD[:bought]:
            await submit_video(jobs, request)
    if (waits := put(place)) is not None:
        await waits
    async with place.workers.worker() as jobs:
        await enqueue(jobs, GOOD[bought:])
    saved = set[str]()
    unreadable, told = _unreadable(place, poison), list[Any]()
    for _ in range(PASSES):
        found = await one_pass(place)
        saved |= {video.key for video in found.saved}
        told += [*found.problems, *found.failed, *found.in_doubt]
        if {request.key for request in GOOD} <= saved:
            break
    assert {request.key for request in GOOD} <= saved
    assert place.workers.totals["billed"] == len(place.workers.loova.ledger["tasks"])
    is_silent = poison in ("an entry of the index without a record", "an abort that is denied") or "dearer" in poison
    assert is_silent == (not told)
    for name, body in unreadable.items():
        assert place.workers.bytes_of(name) == body


UNTOUCHED = ("garbage", "newer", "another API", "endless", "without a request", "nested deeply", "a list", "corrupt")


def _unreadable(place: Place, poison: str) -> dict[str, bytes]:
    """What nobody here can read: it must stay as it is."""
    if not any(word in poison for word in UNTOUCHED) or "task" in poison:
        return {}
    names = {f"loova/_open/queued/{FIRST}", f"loova/{BAD.key}/record.json"} & place.workers.keys
    assert names
    return {name: place.workers.bytes_of(name) for name in names}
