"""Every kind of answer to a submit: what it means, and how many POSTs are sent.

The expectation is written from the rules in docs/answers.md: each message and each place bears what it means, by hand,
and no pattern of the package is used.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from prefect_loova._api.responses import ApiResponse, parse_submit
from prefect_loova.client import LoovaClient
from prefect_loova.errors import ContentRefusedError, InDoubtError, LoovaError, RejectedError, TooManyRunningTasksError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.bucket_check import mark_checked
from prefect_loova.store.prefix import PROBES
from prefect_loova.store.records import JobRecords
from tests.unit.jobs.test_protocol import MemoryS3

Outcome = Literal["bought", "refused", "content refused", "wait", "doubt"]

STATUSES = [200, 201, 202, 206, 300, 302, 303, 307, 400, 401, 402, 403, 404, 408, 409, 413, 422, 425, 429, 451, 499,
            500, 501, 502, 503, 504, 520]  # fmt: skip
CODES: list[Any] = [200, 201, 202, 0, 1, -1, 302, 400, 401, 402, 403, 404, 408, 409, 425, 429, 499, 500, 503, 599, 600,
                    1001, 10001, 50000, "200", "10001", 400.0, 200.5, None, "x", True, [200], 10**40]  # fmt: skip
Meaning = Literal["nothing", "refusal", "taken", "going on", "limit", "limit, and taken"]
MESSAGES: list[tuple[Any, Meaning]] = [
    (None, "nothing"),
    ("", "nothing"),
    ("  ", "nothing"),
    ("success", "nothing"),
    ("Success", "nothing"),
    ({"text": "no"}, "nothing"),
    ("The prompt was refused by moderation", "refusal"),
    ("Insufficient credits", "refusal"),
    ("Authentication failed", "refusal"),
    ("提示词包含违规内容", "refusal"),
    ("Task created", "taken"),
    ("TASK CREATED", "taken"),
    ("Your request was accepted", "taken"),
    ("queued", "taken"),
    ("delayed", "taken"),
    ("任务已创建", "taken"),
    ("排队中", "taken"),
    ("Auftrag erstellt", "taken"),
    ("Tâche créée", "taken"),
    ("Tarea creada", "taken"),
    ("タスクを受け付けました", "taken"),
    ("작업이 생성되었습니다", "taken"),
    ("pending", "going on"),
    ("Processing", "going on"),
    ("Submitted", "going on"),
    ("in progress", "going on"),
    ("任务处理中", "going on"),
    ("處理中", "going on"),
    ("Em processamento", "going on"),
    ("Too many running tasks: at most 6", "limit"),
    ("Rate limit exceeded", "limit"),
    ("Too many running tasks: your request is delayed and queued", "limit, and taken"),
]
Place = Literal["nowhere", "documented", "hidden"]
BODIES: dict[str, tuple[dict[str, Any], Place, bool]] = {
    # What is in the envelope beside code and message, whether it may name a task, whether there is data.
    "data null": ({"data": None}, "nowhere", False),
    "no data": ({}, "nowhere", False),
    "data {}": ({"data": {}}, "nowhere", False),
    "data with nulls": ({"data": {"task_id": None, "status": None}}, "nowhere", False),
    "data with a reason": ({"data": {"reason": "too long"}}, "nowhere", True),
    "data.task_id": ({"data": {"task_id": "t-1", "status": "running"}}, "documented", True),
    "data.task_id, a number": ({"data": {"task_id": 77}}, "documented", True),
    "data.record_id": ({"data": {"record_id": "r-1", "status": "queued"}}, "hidden", True),
    "data.id": ({"data": {"id": 5}}, "hidden", True),
    "data.taskId": ({"data": {"taskId": "t-1"}}, "hidden", True),
    "data.uuid": ({"data": {"uuid": "0b7e"}}, "hidden", True),
    "data.job": ({"data": {"job": "abc"}}, "hidden", True),
    "data.task.task_id": ({"data": {"task": {"task_id": "t-1"}}}, "hidden", True),
    "data.a.b.c.generationId": ({"data": {"a": {"b": [{"c": {"generationId": "g"}}]}}}, "hidden", True),
    "data.ids": ({"data": {"ids": ["abc"]}}, "hidden", True),
    "data under a name that says nothing": ({"data": {"handled_by": "cgt-20261127-8fz2"}}, "hidden", True),
    "data a text": ({"data": "t-1"}, "hidden", True),
    "data a number": ({"data": 17}, "hidden", True),
    "data a list": ({"data": [{"task_id": "t-1"}]}, "hidden", True),
    "task_id beside data": ({"data": None, "task_id": "t-1"}, "hidden", False),
    "id beside data": ({"data": None, "id": 12}, "hidden", False),
    "result.taskID beside data": ({"data": None, "result": {"taskID": "t-1"}}, "hidden", False),
    "task_id of a type that is none": ({"data": {"task_id": ["t-1"]}}, "hidden", True),
    "status running": ({"data": {"status": "running"}}, "hidden", True),
}


def expected(http: int, code: Any, meaning: Meaning, place: Place, has_data: bool) -> Outcome:
    """What docs/answers.md says of such an answer."""
    if place == "documented":
        return "bought"
    if place == "hidden" or not (http == 200 or 300 <= http < 500):
        return "doubt"
    number = (
        int(code) if type(code) in (int, float, str) and str(code).replace(".0", "").lstrip("-").isdigit() else None
    )
    number = None if number is not None and abs(number) > 10**15 else number
    both = (http, number)
    if any(one in (408, 409, 425, 499) or (one is not None and 500 <= one < 600) for one in both):
        return "doubt"
    if 429 in both:
        return "doubt" if meaning in ("taken", "limit, and taken") else "wait"
    if meaning == "limit, and taken":
        return "doubt"
    if meaning == "limit":
        return "wait"
    if number is not None and number < 400 and meaning in ("taken", "going on"):
        return "doubt"
    if 400 <= http < 500 or 300 <= http < 400 or (number is not None and 400 <= number < 500):
        return "refused"
    if number is None or meaning == "nothing":
        return "doubt"
    return "refused" if number == 200 or not has_data else "doubt"


ROWS = list(itertools.product(STATUSES, CODES, MESSAGES, BODIES))


def body_of(code: Any, message: Any, body: str) -> bytes:
    envelope = {"code": code, "trace_id": "trace-1", "message": message} | BODIES[body][0]
    return json.dumps(envelope, ensure_ascii=False).encode()


def outcome_of(http: int, body: bytes) -> Outcome:
    try:
        parse_submit(ApiResponse.parse(http, body))
    except TooManyRunningTasksError:
        return "wait"
    except RejectedError:
        return "refused"
    except InDoubtError:
        return "doubt"
    return "bought"


def test_every_answer_of_the_grid_means_what_the_rules_say() -> None:
    wrong = []
    seen = dict.fromkeys(("bought", "refused", "wait", "doubt"), 0)
    for number, (http, code, (message, meaning), body) in enumerate(ROWS):
        if number % 61 != 0 and (http not in (200, 202, 429) or code not in (200, 400, 429, 10001)):
            continue  # The rows that differ most are read all; every 61st of the others.
        what = expected(http, code, meaning, *BODIES[body][1:])
        seen[what] += 1
        if outcome_of(http, body_of(code, message, body)) != what:
            wrong.append((http, code, message, body, what))
    assert wrong[:20] == []
    assert min(seen.values()) > 400, seen


# On the wire.


@dataclass
class Loova:
    """A server on loopback that gives one answer to each submit, and counts them."""

    answer: bytes = b""
    status: int = 200
    posts: int = 0
    port: int = 0
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
                await reader.readexactly(length)
                status, answer = 404, b"{}"
                if head.startswith("post"):
                    self.posts += 1
                    status, answer = self.status, self.answer
                where = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{where}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Loova]:
    loova = Loova()
    server = await asyncio.start_server(loova.serve, "127.0.0.1", 0)
    loova.port = server.sockets[0].getsockname()[1]
    try:
        yield loova
    finally:
        server.close()
        for writer in loova.connections:
            writer.close()


class Time:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def asked(loova: Loova, s3: MemoryS3, time: Time, number: int) -> Outcome:
    """What a job comes to, asked for once with a minute to wait for a free place."""
    request = VideoRequest(prompt=f"row {number}", duration=4)
    mark_checked(s3, "bucket", f"loova/{PROBES}")  # the model of S3 has no multipart uploads
    async with LoovaClient("key", f"http://127.0.0.1:{loova.port}/api", read_tries=1) as client:
        records = JobRecords(s3, "bucket", "loova", client.origin)
        jobs = VideoJobs(client, records, sleep=time.sleep, clock=time, wall=time)
        try:
            await submit_video(jobs, request, max_wait=60)
        except TooManyRunningTasksError:
            return "wait"
        except ContentRefusedError:
            return "content refused"
        except RejectedError:
            return "refused"
        except InDoubtError:
            return "doubt"
        return "bought"


def on_the_wire() -> list[tuple[int, tuple[Any, ...]]]:
    """A few hundred rows: each status, code, message and body with those that differ most."""
    plain = {
        "http": 200,
        "code": 200,
        "message": ("The prompt was refused by moderation", "refusal"),
        "body": "data null",
    }
    rows = {}
    for http, code, message, body in itertools.product(STATUSES, CODES, MESSAGES, BODIES):
        row = {"http": http, "code": code, "message": message, "body": body}
        if sum(repr(row[name]) != repr(plain[name]) for name in plain) <= 1 or (
            http in (200, 202, 429)
            and repr(code) in ("200", "429", "10001")
            and message[1] in ("nothing", "limit", "limit, and taken")
            and message[0]
            in (None, "Rate limit exceeded", "Too many running tasks: your request is delayed and queued")
            and body in ("data null", "data.task_id", "data.record_id", "data.task.task_id", "task_id beside data")
        ):
            rows[repr((http, code, message, body))] = (http, code, message, body)
    return list(enumerate(rows.values()))


@pytest.mark.parametrize("part", range(4))
async def test_on_the_wire_only_a_limit_is_retried_and_a_doubt_is_never_submitted_again(part: int) -> None:
    time = Time()
    s3, wrong, rows = MemoryS3(time), [], on_the_wire()
    assert len(rows) > 200
    async with serving() as loova:
        for number, (http, code, (message, meaning), body) in rows[part::4]:
            what = expected(http, code, meaning, *BODIES[body][1:])
            is_redirect = 300 <= http < 400 and not (isinstance(code, int) and 400 <= code < 500)
            if (
                what == "refused"
                and isinstance(message, str)
                and re.search("moderation|违规", message)
                and not is_redirect
                and not {http, code} & {401, 402}
            ):
                what = "content refused"
            loova.status, loova.answer, loova.posts = http, body_of(code, message, body), 0
            got, first = await asked(loova, s3, time, number), loova.posts
            again, posts = (await asked(loova, s3, time, number), loova.posts) if what != "wait" else (got, first)
            most = {"bought": (1, 1), "doubt": (1, 1), "refused": (1, 2), "content refused": (1, 1)}
            right = first >= 3 if what == "wait" else (first, posts) == most[what]
            if (got, again) != (what, what) or not right:
                wrong.append((http, code, message, body, what, got, again, first, posts))
    assert wrong == []


async def test_the_two_answers_that_paid_many_times_are_in_doubt_after_one_post() -> None:
    """A limit "may reject or delay": what may name a task was delayed."""
    delayed = "Too many running tasks: your request is delayed and queued"
    answers = [
        (200, json.dumps({"code": 200, "message": delayed, "data": {"record_id": "r-1", "status": "queued"}})),
        (429, json.dumps({"code": 429, "message": "Too many", "data": {"task": {"task_id": "t-1"}}})),
        (202, json.dumps({"code": 200, "message": "Task created", "data": None})),
    ]
    time = Time()
    s3 = MemoryS3(time)
    async with serving() as loova:
        for number, (status, answer) in enumerate(answers):
            loova.status, loova.answer, loova.posts = status, answer.encode(), 0
            for _ in range(5):
                assert await asked(loova, s3, time, number) == "doubt"
            assert loova.posts == 1


def test_a_doubt_shows_where_the_answer_may_name_a_task() -> None:
    for body, shown in (
        ({"code": 200, "message": "no", "data": {"record_id": "r-1"}}, "data.record_id: 'r-1'"),
        ({"code": 429, "message": "no", "data": {"task": {"task_id": "t-1"}}}, "data.task.task_id: 't-1'"),
        ({"code": 400, "message": "no", "data": None, "jobId": 7}, "jobId: '7'"),
    ):
        with pytest.raises(LoovaError, match=shown) as caught:
            parse_submit(ApiResponse.parse(200, json.dumps(body).encode()))
        assert isinstance(caught.value, InDoubtError)
