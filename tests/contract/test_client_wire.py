"""LoovaClient on real sockets: its requests, retries and connections, and broken responses."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from prefect_loova.client import DEFAULT_BASE_URL, LoovaClient
from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InvalidRequestError,
    LoovaError,
    NotSentError,
    RejectedError,
    TaskNotFoundError,
    UnexpectedResponseError,
)
from prefect_loova.models.request import VideoRequest

KEY = "key-0123456789/secret+"
CITY = VideoRequest(prompt="A futuristic city at sunset")
SUBMITTED = {"task_id": "record_id", "status": "running", "created_at": "2024-01-01T12:00:00Z", "credits_cost": 12.0}
RUNNING = {"task_id": "record_id", "status": "running", "result": None}
CREDITS = {"api_available_credits": 47995, "api_total_credits": 51000}

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


def answer(
    data: Any = None, code: int = 200, message: str | None = "success", status: int = 200, **headers: str
) -> bytes:
    body = {"code": code, "trace_id": "trace_xxx", "message": message, "data": data}
    return http(status, json.dumps(body).encode(), **headers)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


def first(part: bytes, then: Behaviour) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(part)
        await then(writer)

    return behave


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await asyncio.sleep(0.02)


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" " * 65536)
        await writer.drain()


@dataclass
class Request:
    """What arrived."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Server:
    """A server on loopback that answers from a script; its last line is repeated."""

    script: list[bytes | Behaviour]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                step = self.script[min(len(self.requests), len(self.script) - 1)]
                self.requests.append(Request(head[0], headers, body, connection))
                if isinstance(step, bytes):
                    writer.write(step)
                else:
                    await step(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*script: bytes | Behaviour) -> AsyncIterator[Server]:
    server = Server(list(script))
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Pauses(list[float]):
    """A sleep that does not sleep."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


# What goes out.


async def test_a_submit_is_the_request_of_the_quickstart() -> None:
    async with serving(answer(SUBMITTED)) as server, LoovaClient(f" {KEY}\n", server.base_url + "/") as loova:
        task = await loova.submit_video(CITY)
    [request] = server.requests
    assert request.line == "POST /api/v1/video/seedance-2 HTTP/1.1"
    assert json.loads(request.body) == {
        "model": "seedance_2_0",
        "prompt": "A futuristic city at sunset",
        "function_mode": "omni_reference",
        "ratio": "16:9",
        "duration": 5,
        "image_urls": [],
        "audio_urls": [],
        "video_urls": [],
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"] == f"prefect-loova/{version('prefect-loova')}"
    assert (task.task_id, task.credits_cost) == ("record_id", 12.0)


async def test_reads_are_the_requests_of_the_reference() -> None:
    async with serving(answer(RUNNING), answer(CREDITS)) as server, LoovaClient(KEY, server.base_url) as loova:
        await loova.get_task("record_id")
        balance = await loova.get_credits()
    assert balance.available == 47995
    lines = [request.line for request in server.requests]
    assert lines == ["GET /api/v1/tasks?task_id=record_id HTTP/1.1", "GET /api/v1/credits HTTP/1.1"]
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["user-agent"].startswith("prefect-loova/")


async def test_a_task_id_cannot_change_the_request_that_asks_for_it() -> None:
    async with serving(answer(RUNNING | {"task_id": None})) as server, LoovaClient(KEY, server.base_url) as loova:
        await loova.get_task("a&b=c#d/../ \r\nX: y")
    [request] = server.requests
    verb, target, _ = request.line.split(" ")
    assert (verb, urlsplit(target).path) == ("GET", "/api/v1/tasks")
    assert parse_qs(urlsplit(target).query) == {"task_id": ["a&b=c#d/../ \r\nX: y"]}
    assert "x" not in request.headers


async def test_each_submit_has_a_connection_of_its_own_and_reads_share_one() -> None:
    script = [answer(SUBMITTED), answer(RUNNING), answer(SUBMITTED), answer(RUNNING)]
    async with serving(*script) as server, LoovaClient(KEY, server.base_url) as loova:
        for _ in range(2):
            await loova.submit_video(CITY)
            await loova.get_task("record_id")
    assert [request.connection for request in server.requests] == [1, 2, 3, 2]


# A submit is sent once.

HTML = b"<html><body>Bad Gateway</body></html>"
LOST: dict[str, bytes | Behaviour] = {
    "closed without an answer": close,
    "reset without an answer": reset,
    "closed within the head": first(b"HTTP/1.1 200 OK\r\nContent-Le", close),
    "closed within the body": first(answer(SUBMITTED)[:-20], close),
    "reset within the body": first(answer(SUBMITTED)[:-20], reset),
    "reset after the head": first(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", reset),
    "never answered": silence,
    "answered by drips for ever": drip,
    "answered without end": flood,
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTML": http(200, HTML, Content_Type="text/html"),
    "empty": http(200),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "half of the JSON": http(200, b'{"code": 200, "data": {"task_id": '),
    "not the encoding it says": http(200, b"{}", Content_Encoding="gzip"),
    "no data": answer(None),
    "408": answer(None, 408, "timeout", 408),
    "409": http(409),
    **{f"{status} with HTML": http(status, HTML, Retry_After="0") for status in (500, 502, 503, 504)},
    **{f"{status} in HTTP and envelope": answer(None, status, "no", status) for status in (500, 502, 503, 504)},
    **{f"{code} in the envelope": answer(None, code, "no") for code in (500, 502, 503, 504)},
}


@pytest.mark.parametrize("name", LOST)
async def test_a_submit_without_a_clear_answer_is_sent_once_and_in_doubt(name: str) -> None:
    pauses = Pauses()
    async with (
        serving(LOST[name], answer(SUBMITTED)) as server,
        LoovaClient(KEY, server.base_url, submit_timeout=0.4, sleep=pauses) as loova,
    ):
        async with asyncio.timeout(3):
            with pytest.raises(InDoubtError) as caught:
                await loova.submit_video(CITY)
        await asyncio.sleep(0.05)
        assert len(server.requests) == 1
        assert server.connections == 1
    assert caught.value.credits_spent == "maybe"
    assert "credits spent: maybe" in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize(
    "part",
    [answer(SUBMITTED)[:-20], answer(SUBMITTED)[:-75], http(200, answer(SUBMITTED)[60:-2] + b" " * 5_000_000)],
    ids=["all but the end", "to the task id", "too long"],
)
async def test_a_doubt_shows_the_task_that_a_lost_answer_names_in_what_arrived(part: bytes) -> None:
    async with (
        serving(first(part, close)) as server,
        LoovaClient(KEY, server.base_url, submit_timeout=5) as loova,
    ):
        with pytest.raises(InDoubtError, match="record_id") as caught:
            await loova.submit_video(CITY)
    assert caught.value.task_id is None
    assert len(server.requests) == 1


async def test_garbage_from_a_server_does_not_make_an_error_large() -> None:
    garbage = b"HTTP/9 " + b"x" * 60_000 + b"\r\n\r\n"
    async with serving(garbage) as server, LoovaClient(KEY, server.base_url, sleep=Pauses()) as loova:
        for call in (loova.submit_video(CITY), loova.get_credits()):
            with pytest.raises(LoovaError) as caught:
                await call
            assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("error", ["ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "CloseError",
                                   "RemoteProtocolError", "LocalProtocolError", "DecodingError"])  # fmt: skip
async def test_an_error_after_connecting_is_a_doubt(error: str) -> None:
    posts = []

    def send(request: httpx.Request) -> httpx.Response:
        posts.append(request)
        raise getattr(httpx, error)("lost")

    async with LoovaClient(KEY, transport=httpx.MockTransport(send)) as loova:
        with pytest.raises(InDoubtError):
            await loova.submit_video(CITY)
    assert len(posts) == 1


@pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"])
async def test_an_error_before_connecting_has_sent_nothing(error: str) -> None:
    posts = []

    def send(request: httpx.Request) -> httpx.Response:
        posts.append(request)
        raise getattr(httpx, error)("refused")

    async with LoovaClient(KEY, transport=httpx.MockTransport(send)) as loova:
        with pytest.raises(NotSentError) as caught:
            await loova.submit_video(CITY)
    assert len(posts) == 1
    assert caught.value.credits_spent == "no"


async def test_a_refused_connection_has_sent_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with LoovaClient(KEY, f"http://127.0.0.1:{taken.getsockname()[1]}") as loova:
            with pytest.raises(NotSentError):
                await loova.submit_video(CITY)


async def test_a_name_that_does_not_resolve_has_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with LoovaClient(KEY) as loova:
        with pytest.raises(NotSentError, match=r"https://api\.loova\.ai"):
            await loova.submit_video(CITY)


async def test_a_broken_tls_handshake_has_sent_nothing() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, LoovaClient(KEY, f"https://127.0.0.1:{port}") as loova:
        with pytest.raises(NotSentError):
            await loova.submit_video(CITY)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_a_submit_is_not_followed(status: int) -> None:
    async with serving(answer(SUBMITTED)) as elsewhere:
        async with (
            serving(http(status, b"", Location=elsewhere.base_url)) as server,
            LoovaClient(KEY, server.base_url) as loova,
        ):
            with pytest.raises(RejectedError):
                await loova.submit_video(CITY)
            with pytest.raises(UnexpectedResponseError):
                await loova.get_credits()
        assert len(server.requests) == 2
        assert elsewhere.connections == 0


async def test_a_task_id_with_an_error_status_is_a_purchase() -> None:
    reply = answer(SUBMITTED, 500, "Internal error", 500)
    async with serving(reply) as server, LoovaClient(KEY, server.base_url) as loova:
        assert (await loova.submit_video(CITY)).task_id == "record_id"


# Reads are asked again.

BROKEN: dict[str, bytes | Behaviour] = {
    "closed": close,
    "reset within the body": first(answer(RUNNING)[:-20], reset),
    "silent": silence,
    **{str(status): http(status, HTML) for status in (408, 425, 429, 500, 502, 503, 504)},
    "503 in the envelope": answer(None, 503, "no"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_failed_read_is_retried_after_a_pause(name: str) -> None:
    pauses = Pauses()
    async with (
        serving(BROKEN[name], BROKEN[name], answer(RUNNING)) as server,
        LoovaClient(KEY, server.base_url, timeout=0.1, sleep=pauses) as loova,
    ):
        assert (await loova.get_task("record_id")).state == "running"
    assert len(server.requests) == 3
    assert len(pauses) == 2
    assert 0 < pauses[0] <= 0.5 <= pauses[1] <= 1


@pytest.mark.parametrize("tries", [1, 4])
async def test_a_read_fails_after_its_tries(tries: int) -> None:
    pauses = Pauses()
    async with (
        serving(answer(None, 503, "busy", 503)) as server,
        LoovaClient(KEY, server.base_url, read_tries=tries, sleep=pauses) as loova,
    ):
        with pytest.raises(UnexpectedResponseError) as caught:
            await loova.get_task("record_id")
    assert len(server.requests) == tries
    assert len(pauses) == tries - 1
    assert (caught.value.task_id, caught.value.trace_id, caught.value.http_status) == ("record_id", "trace_xxx", 503)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("86400", 300, 300),
        (timedelta(seconds=280), 1, 280),
        (timedelta(days=9), 300, 300),
        ("soon", 0.25, 0.5),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_of_a_read_is_honoured_up_to_a_bound(
    status: int, value: str | timedelta, least: float, most: float
) -> None:
    pauses = Pauses()
    if isinstance(value, timedelta):
        value = f"{datetime.now(UTC) + value:%a, %d %b %Y %H:%M:%S} GMT"
    async with (
        serving(http(status, Retry_After=value), answer(CREDITS)) as server,
        LoovaClient(KEY, server.base_url, sleep=pauses) as loova,
    ):
        await loova.get_credits()
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(None, 401, "Authentication failed", 401), AuthenticationError),
        (answer(None, 401, "Authentication failed"), AuthenticationError),
        (answer(None, 404, "Task not found", 404), TaskNotFoundError),
        (answer(None, 404, "Task not found"), TaskNotFoundError),
        (answer(None), UnexpectedResponseError),
        (http(200, HTML), UnexpectedResponseError),
    ],
)
async def test_a_permanent_error_is_not_retried(reply: bytes, kind: type[LoovaError]) -> None:
    async with serving(reply) as server, LoovaClient(KEY, server.base_url, sleep=Pauses()) as loova:
        with pytest.raises(LoovaError) as caught:
            await loova.get_task("record_id")
    assert type(caught.value) is kind
    assert caught.value.task_id == "record_id"
    assert len(server.requests) == 1


async def test_a_read_that_drips_ends_in_time() -> None:
    async with serving(drip) as server, LoovaClient(KEY, server.base_url, timeout=0.1, read_tries=1) as loova:
        async with asyncio.timeout(2):
            with pytest.raises(UnexpectedResponseError):
                await loova.get_credits()


async def test_a_client_that_was_not_entered_says_how_to_use_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await LoovaClient(KEY).get_credits()


# The key.

ECHO = f"the key {KEY} of Bearer {KEY} is wrong"
ECHOES: list[bytes | Behaviour] = [
    answer(None, 401, ECHO, 401),
    answer(None, 400, ECHO, 400),
    answer(None, 200, ECHO),
    answer(None, 500, ECHO, 500),
    answer(None, 429, ECHO),
    http(400, json.dumps({"code": 400, "message": ECHO, "trace_id": KEY}).replace("/", r"\/").encode()),
    http(400, json.dumps({"code": 400, "message": ECHO}).replace("k", r"\u006b").encode()),
    http(302, b"", Location=f"https://h.test/{KEY}"),
    first(f"HTTP/1.1 200 OK\r\nX: {KEY}\r\nContent-Length: 9\r\n\r\n".encode(), close),
    f"{KEY}\r\n\r\n".encode(),
]


@pytest.mark.parametrize("reply", ECHOES, ids=[f"echo {number}" for number in range(len(ECHOES))])
async def test_the_key_is_in_no_error_and_no_log_even_if_the_server_echoes_it(
    reply: bytes | Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "httpcore")  # it logs the headers of answers at DEBUG
    told = []
    async with serving(reply) as server, LoovaClient(KEY, server.base_url, sleep=Pauses()) as loova:
        for call in (loova.submit_video(CITY), loova.get_task("t"), loova.get_credits()):
            with pytest.raises(LoovaError) as caught:
                await call
            error = caught.value
            told += [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
        told += [repr(loova), str(loova)]
    assert len(server.requests) >= 3
    for text in [*told, caplog.text, *(record.getMessage() for record in caplog.records)]:
        assert KEY not in text
        assert "0123456789" not in text


async def test_the_key_is_not_in_the_reason_of_a_failed_task() -> None:
    result = {"status": "failed", "error_message": ECHO}
    reply = answer({"status": KEY, "result": result})
    async with serving(reply) as server, LoovaClient(KEY, server.base_url) as loova:
        task = await loova.get_task("record_id")
    assert task.state == "failed"
    assert KEY not in repr(task)


@pytest.mark.parametrize("key", ["data", "task_id", "record", "e"])
async def test_a_key_that_occurs_in_an_answer_does_not_change_what_it_says(key: str) -> None:
    async with serving(answer(SUBMITTED)) as server, LoovaClient(key, server.base_url) as loova:
        assert (await loova.submit_video(CITY)).task_id == "record_id"


@pytest.mark.parametrize("key", ["", "  \n", None, "schlüssel", "a\nb", "a\x00b", "ключ"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: Any) -> None:
    with pytest.raises(InvalidRequestError, match="api_key") as caught:
        LoovaClient(key)
    assert not key or key.strip() == "" or key not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    ["", "api.loova.ai", "ftp://api.loova.ai", "https://user:pw@api.loova.ai", "https://", "https://api.loova.ai?x=1",
     "https://api.loova.ai/#", "https://xn--.test", "https://☃.test", "https://h:x/", "https://a b/"],
)  # fmt: skip
def test_an_invalid_base_url_is_refused_before_it_could_look_like_a_lost_answer(base_url: str) -> None:
    with pytest.raises(InvalidRequestError, match="base_url") as caught:
        LoovaClient(KEY, base_url)
    assert "pw" not in str(caught.value)


def test_the_client_shows_its_api_and_nothing_else() -> None:
    assert repr(LoovaClient(KEY)) == f"LoovaClient(base_url={DEFAULT_BASE_URL!r})"
    assert LoovaClient(KEY).origin == "https://api.loova.ai"


# Media on private addresses.

PRIVATE = ["http://127.0.0.1/a.png", "https://10.0.0.1/a.png", "https://intranet/a?sig=SECRET", "https://[::1]/a",
           "http://2130706433/", "https://☃/a"]  # fmt: skip


async def test_media_on_private_addresses_are_refused_all_together_before_anything_is_sent() -> None:
    def send(request: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    request = VideoRequest(prompt="x", image_urls=["https://cdn.test/a.png", *PRIVATE], video_urls=PRIVATE[:1])
    async with LoovaClient(KEY, transport=httpx.MockTransport(send)) as loova:
        with pytest.raises(InvalidRequestError) as caught:
            await loova.submit_video(request)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"image_urls.{number}" for number in range(1, 7)] + [
        "video_urls.0"
    ]
    assert "SECRET" not in str(caught.value)
    assert "image_urls.0" not in str(caught.value)
    assert "127.0.0.1" in lines[0]


async def test_media_on_private_addresses_are_allowed_where_the_api_is_on_one_itself() -> None:
    request = VideoRequest(prompt="x", image_urls=PRIVATE)
    async with serving(answer(SUBMITTED)) as server, LoovaClient(KEY, server.base_url) as loova:
        await loova.submit_video(request)
    assert json.loads(server.requests[0].body)["image_urls"] == PRIVATE
