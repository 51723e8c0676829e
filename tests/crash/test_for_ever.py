"""An operation of S3 or a call of Loova answers for ever with the same: each step ends, asks little, and says where.

Pauses pass at once and put a clock forward, on which requests are counted. Answers without an end run in an event loop
whose clock is `SPEED` times as fast as the real one. What boto3 repeats by itself, with pauses, is off.
"""

from __future__ import annotations

import asyncio
import random
import re
import selectors
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import LoovaError
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.bucket_check import mark_checked
from prefect_loova.store.records import JobRecords
from tests.crash.conftest import EVERYTHING, SEED
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket, S3Server

FOR_EVER = 10**9
SPEED = 15.0
MAX_WAIT = 120.0
SAVE_SECONDS = 400.0
GRACE = 900.0
"""Seconds after its deadline in which a step ends: what is paid for is not given up at the first error of S3."""
A_MINUTE = 60
LANES = {None: 8, 9 * 1024**2: 4}
"""How many cells run side by side, by the size of the videos: in one piece, or in two parts."""

Cell = tuple[str, str, str]
OPERATIONS = {
    "PutObject of a record": ("s3", r"^PUT .*record\.json", "submit budget wait save collect decide"),
    "PutObject of the index": ("s3", r"^PUT .*/_open/[0-9a-f]{64}", "submit collect decide"),
    "PutObject of a day": ("s3", r"^PUT .*/_spend/[^/]*/", "submit budget collect"),
    "PutObject of a budget's turn": ("s3", r"^PUT .*/_spend/[^/]*\.json", "budget"),
    "PutObject of the queue": ("s3", r"^PUT .*/_open/queued/", "queue"),
    "PutObject of a video": ("s3", r"^PUT .*video\.mp4", "save collect"),
    "GetObject of a record": ("s3", r"^GET .*record\.json", "submit budget wait save collect doubts decide"),
    "GetObject of a budget's turn": ("s3", r"^GET .*/_spend/[^/]*\.json", "budget"),
    "GetObject of the queue": ("s3", r"^GET .*/_open/queued/", "collect"),
    "HeadObject": ("s3", r"^HEAD ", "again"),
    "DeleteObject": ("s3", r"^DELETE .*/_open/", "save collect decide"),
    "ListObjectsV2": ("s3", r"^GET .*list-type=2", "collect doubts budget"),
    "CreateMultipartUpload": ("s3", r"^POST .*[?&]uploads", "parts"),
    "UploadPart": ("s3", r"^PUT .*[?&]partNumber=", "parts"),
    "CompleteMultipartUpload": ("s3", r"^POST .*[?&]uploadId=", "parts"),
    "AbortMultipartUpload": ("s3", r"^DELETE .*[?&]uploadId=", "broken-parts"),
    "submit": ("api", r"^POST ", "submit collect"),
    "get_task": ("api", r"^GET .*/tasks", "wait save collect"),
    "get_credits": ("api", r"^GET .*/credits", "submit doubts"),
    "GET of the video": ("video", r"^GET ", "save collect"),
}
STATUSES = (400, 401, 403, 404, 409, 412, 416, 429, 500, 501, 503)
ANSWERS = {str(status): NetworkFault(what="answer", status=status, times=FOR_EVER) for status in STATUSES} | {
    "an empty body": NetworkFault(what="answer", status=200, times=FOR_EVER),
    "a wrong ETag": NetworkFault(what="wrong_etag", when="after", times=FOR_EVER),
    "no end": NetworkFault(what="drip", status=200, times=FOR_EVER),
}
CELLS: list[Cell] = [
    (operation, answer, step)
    for operation, (where, _, steps) in OPERATIONS.items()
    for answer in ANSWERS
    for step in steps.split()
    if where == "s3" or answer != "a wrong ETag"  # an ETag is S3's
]
HEART: list[Cell] = [
    ("submit", "429", "submit"),
    ("submit", "429", "collect"),
    ("get_task", "503", "wait"),
    ("GetObject of a record", "503", "submit"),
    ("PutObject of a record", "a wrong ETag", "submit"),
    ("PutObject of a record", "409", "submit"),
    ("PutObject of a budget's turn", "412", "budget"),
    ("PutObject of a budget's turn", "500", "budget"),
    ("PutObject of a video", "412", "save"),
    ("GET of the video", "503", "save"),
]
OPEN_GAPS: dict[Cell, str] = {}
"""Cells that are known to fail, with the reason: one that passes is an error as well."""

_numbers = count()


def _fixed() -> list[Cell]:
    """The heart, and two cells of each operation: at random, but the same in each run."""
    chance, some = random.Random(SEED), list(HEART)
    for operation in OPERATIONS:
        cells = [cell for cell in CELLS if cell[0] == operation and cell[1] != "no end"]
        some += chance.sample(cells, 2)
    return list(dict.fromkeys(some))


def _speed(cell: Cell) -> float:
    """What is slow here must not hide that nothing pauses: only the limits that end a call pass at speed."""
    return SPEED if cell[1] == "no end" else 1.0


class QuickLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs so many times as fast as the real one."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        selector = selectors.DefaultSelector()
        select = selector.select
        selector.select = lambda timeout=None: select(timeout / speed if timeout else timeout)  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return time.monotonic() * self.speed


class Clock:
    """A clock that is put forward by each pause."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.skipped = 0.0
        self.pauses = 0

    def __call__(self) -> float:
        return time.monotonic() * self.speed + self.skipped

    async def sleep(self, seconds: float) -> None:
        self.skipped += seconds
        self.pauses += 1
        await asyncio.sleep(0)


class Lane:
    """One Loova and the bucket, each behind a proxy of this lane; a prefix for each cell, one cell at a time."""

    def __init__(self, held: ExitStack, bucket: Bucket, video_bytes: int | None) -> None:
        server = bucket.server
        video = held.enter_context(Proxy(0))
        self.loova = held.enter_context(
            LoovaSimulator(
                generation_seconds=0, short_side=32, video_origin=video.url, credits=10**9, video_bytes=video_bytes
            )
        )
        video.target = self.loova.video_port
        self.proxies = {
            "s3": held.enter_context(Proxy(int(server.endpoint_url.rpartition(":")[2]))),
            "api": held.enter_context(Proxy(self.loova.port)),
            "video": video,
        }
        self.bucket = bucket
        self.s3 = replace(server, endpoint_url=self.proxies["s3"].url).client(retries={"total_max_attempts": 1})
        asyncio.run(self._warm_up())

    async def _warm_up(self) -> None:
        """Make the video and the first connections, so that nothing is slow later."""
        async with LoovaClient(self.loova.api_key, f"{self.loova.origin}/api") as client:
            jobs = VideoJobs(client, JobRecords(self.s3, self.bucket, f"warm-{next(_numbers)}", client.origin))
            await save_video(jobs, await submit_video(jobs, VideoRequest(prompt="warm", duration=4)))

    async def run(self, cell: Cell) -> list[str]:
        """What is wrong with one cell of the table."""
        operation, answer, step = cell
        where, pattern, _ = OPERATIONS[operation]
        request = VideoRequest(prompt=f"cell {next(_numbers)}", duration=4)
        clock = Clock(_speed(cell))
        seen = list[tuple[float, str]]()
        client = LoovaClient(self.loova.api_key, f"{self.proxies['api'].url}/api", timeout=45, sleep=clock.sleep)
        client.origin = self.loova.origin
        async with (
            client,
            LoovaClient(self.loova.api_key, f"{self.loova.origin}/api", timeout=900, submit_timeout=1800) as straight,
        ):
            records = JobRecords(self.s3, self.bucket, f"loova/{request.key[:12]}", client.origin, sleep=clock.sleep)
            times = JobTimes(take_over_after=0, doubt_after=0, fresh_for=100)
            most = 10**6 if step == "budget" else None
            jobs = VideoJobs(client, records, times=times, max_credits_per_day=most, sleep=clock.sleep, clock=clock)
            mark_checked(self.s3, self.bucket, f"{records.prefix}/_open/_probe")
            what = "give-up" if operation == "DeleteObject" else "submit-again"
            work = await self._ready(VideoJobs(straight, records, times=times), jobs, step, request, what)
            started = clock()
            clock.pauses = 0
            for name, proxy in self.proxies.items():
                proxy.watch = lambda line, name=name: seen.append((clock(), f"{name} {line}"))
            self.proxies[where].inject(replace(ANSWERS[answer], matching=pattern))
            if step == "broken-parts":
                self.proxies["s3"].inject(NetworkFault(what="answer", matching="^PUT .*partNumber=", times=FOR_EVER))
            try:
                async with asyncio.timeout(1.5 * MAX_WAIT if clock.speed == 1 else MAX_WAIT + 2 * GRACE):
                    errors = _reasons(await work())
            except LoovaError as error:
                errors = [str(error)]
            except TimeoutError:
                return ["it did not end"]
            except Exception as error:
                return [f"it ended with {error!r}"]
            finally:
                for proxy in self.proxies.values():
                    proxy.watch = None
                    proxy.clear_faults()
        return _wrong(cell, seen, clock() - started, clock.pauses, errors)

    async def _ready(
        self, straight: VideoJobs, jobs: VideoJobs, step: str, request: VideoRequest, what: str
    ) -> Callable[[], Awaitable[Any]]:
        """Bring a job to where a step begins, and return the step."""
        if step in ("submit", "budget"):
            if step == "budget":
                await submit_video(straight, request.model_copy(update={"take": 1}))
            return lambda: submit_video(jobs, request, max_wait=MAX_WAIT)
        if step == "queue":
            return lambda: enqueue(jobs, [request])
        if step in ("doubts", "decide"):
            stored = await jobs.records.create(JobRecord.claimed(request, jobs.loova.origin, {}))
            await jobs.records.index(stored.record)
            stored = await jobs.records.advance(stored, stored.record.move("begin"))
            await jobs.records.advance(stored, stored.record.move("doubt", reason="lost"))
            decision = Decision(what=what, who="a person", when=datetime.now(UTC), why="")
            return (lambda: find_doubts(jobs)) if step == "doubts" else lambda: decide(jobs, request.key, decision)
        submission = await submit_video(straight, request)
        if step == "wait":
            return lambda: wait_for_video(jobs, submission, max_wait=MAX_WAIT)
        if step == "collect":
            await enqueue(jobs, [request.model_copy(update={"take": 1})])
            return lambda: collect(jobs, save_seconds=SAVE_SECONDS)
        if step == "again":
            await save_video(straight, submission)
        return lambda: save_video(jobs, submission, max_wait=MAX_WAIT, max_seconds=SAVE_SECONDS)


def _reasons(result: Any) -> list[str]:
    return [reason for _, reason in result.problems] if isinstance(result, CollectedVideos) else []


def _wrong(cell: Cell, seen: list[tuple[float, str]], took: float, pauses: int, errors: list[str]) -> list[str]:
    operation, answer, _ = cell
    where, pattern, _ = OPERATIONS[operation]
    wrong = []
    disturbed = sum(re.search(f"{where} {pattern.removeprefix('^')}", line) is not None for _, line in seen)
    if not disturbed:
        wrong.append("it was not asked for")
    at = [when for when, _ in seen]
    most = max((sum(first <= other < first + 60 for other in at) for first in at), default=0)
    if most >= A_MINUTE:
        wrong.append(f"{most} requests in a minute")
    if pauses > len(seen) + 10:
        wrong.append(f"{pauses} pauses for {len(seen)} requests")
    if took > MAX_WAIT + GRACE:
        wrong.append(f"it took {took:.0f} s")
    posts = sum(line.startswith("api POST") for _, line in seen)
    if posts > 1 and (operation, answer) != ("submit", "429"):
        wrong.append(f"{posts} submits were sent")
    wrong += [f"the error does not say where: {one}" for one in errors if not _says_where(one, operation, where)]
    return [f"{one} ({took:.0f} s, {len(seen)} requests)" for one in wrong]


_VIDEO = r"GET at 127\.0\.0\.1|the URL http://127\.0\.0\.1\S+ returned|transfer of the video from 127\S+ to 127"
_S3 = r"\b(Put|Get|Head|Delete|List)Object|MultipartUpload|UploadPart|transfer of the video from 127\S+ to 127"


def _says_where(error: str, operation: str, where: str) -> bool:
    if where == "s3":
        return re.search(_S3, error) is not None
    request = {"submit": "POST /v1/video", "get_task": "GET /v1/tasks", "get_credits": "GET /v1/credits"}.get(operation)
    return (request is not None and request in error) or re.search(_VIDEO, error) is not None or "submit" in error


@pytest.fixture(scope="module")
def lanes(on_moto: S3Server) -> Iterator[dict[int | None, list[Lane]]]:
    with ExitStack() as held:
        bucket = on_moto.make_bucket()
        yield {size: [Lane(held, bucket, size) for _ in range(number)] for size, number in LANES.items()}
    # The bucket ends with moto: what was given up may be written after its last object was deleted.


async def _all(cells: list[Cell], lanes: dict[int | None, list[Lane]]) -> dict[Cell, list[str]]:
    found: dict[Cell, list[str]] = {}

    async def work(lane: Lane, waiting: deque[Cell]) -> None:
        while waiting:
            cell = waiting.popleft()
            try:
                found[cell] = await lane.run(cell)
            except Exception as error:
                found[cell] = [f"it could not be prepared: {error!r}"]

    small, large = lanes
    in_parts = deque(cell for cell in cells if "parts" in cell[2])
    others = deque(cell for cell in cells if "parts" not in cell[2])
    async with asyncio.TaskGroup() as group:
        for lane in lanes[small]:
            group.create_task(work(lane, others))
        for lane in lanes[large]:
            group.create_task(work(lane, in_parts))
    return found


def test_each_step_ends_in_few_requests_and_says_where_whatever_is_answered_for_ever(lanes) -> None:
    cells = CELLS if EVERYTHING else _fixed()
    used = time.process_time()
    found: dict[Cell, list[str]] = {}
    for speed in (1.0, SPEED):
        with asyncio.Runner(loop_factory=lambda speed=speed: QuickLoop(speed)) as runner:
            found |= runner.run(_all([cell for cell in cells if _speed(cell) == speed], lanes))
    assert set(found) == set(cells)
    print(f"\n{len(cells)} of {len(CELLS)} cells: {dict(Counter(step for *_, step in cells))}")
    used = time.process_time() - used
    print(f"{used:.0f} s of processor time")
    wrong = {cell: problems for cell, problems in found.items() if problems}
    for cell, problems in wrong.items():
        print(cell, *problems, sep="\n   ")
    assert set(wrong) == set(OPEN_GAPS) & set(cells)
    assert used < len(cells), "under a second for each cell, which takes minutes on its clock"
