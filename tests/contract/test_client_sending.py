"""When a submit is sent, when its answer is read, and what the error says if neither happened: real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import InDoubtError, NotSentError, SuspendedError
from prefect_loova.models.request import VideoRequest

CITY = VideoRequest(prompt="A futuristic city at sunset")
TASK = {"code": 200, "trace_id": "trace-1", "message": "success", "data": {"task_id": "record_id"}}


class Server:
    """A server on loopback that reads requests, and does with each connection what it is made for."""

    def __init__(self, serve: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self._serve = serve
        self.port = 0
        self.received = bytearray()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.received += head
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        self.received += await reader.readexactly(length)
        return head


@asynccontextmanager
async def serving(serve: Callable[..., Any]) -> AsyncIterator[Server]:
    server = Server(serve)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def silent(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server.received += await reader.read(1)
    await asyncio.sleep(60)


async def dripping_handshake(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x16\x03\x03\x40\x00")  # the head of a handshake record of 16 KiB
    for _ in range(600):
        writer.write(b"\x00")
        await asyncio.sleep(0.1)


async def tunnel_to_silence(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await silent(server, reader, writer)


async def slow_tunnel_to_silence(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.45)
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await silent(server, reader, writer)


async def half_a_tunnel(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 Conn")
    await asyncio.sleep(60)


@pytest.mark.parametrize(("silence", "submit_timeout"), [(30.0, 0.6), (0.3, 60.0), (0.6, 0.6)])
@pytest.mark.parametrize("handshake", [silent, dripping_handshake])
async def test_a_tls_handshake_that_does_not_end_has_sent_nothing(
    handshake: Any, silence: float, submit_timeout: float
) -> None:
    async with (
        serving(handshake) as server,
        LoovaClient("key", f"https://127.0.0.1:{server.port}", timeout=silence, submit_timeout=submit_timeout) as loova,
    ):
        async with asyncio.timeout(5):
            with pytest.raises(NotSentError) as caught:
                await loova.submit_video(CITY)
    assert caught.value.credits_spent == "no"


@pytest.mark.parametrize("proxy", [silent, half_a_tunnel, tunnel_to_silence, slow_tunnel_to_silence])
@pytest.mark.parametrize(("silence", "submit_timeout"), [(30.0, 0.6), (0.3, 1.0)])
async def test_a_proxy_tunnel_that_fails_has_sent_nothing(
    proxy: Any, silence: float, submit_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        async with LoovaClient("key", "https://loova.test", timeout=silence, submit_timeout=submit_timeout) as loova:
            async with asyncio.timeout(5):
                with pytest.raises(NotSentError) as caught:
                    await loova.submit_video(CITY)
    assert caught.value.credits_spent == "no"


async def test_a_name_that_is_never_resolved_has_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        time.sleep(1)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with LoovaClient("key", "https://loova.test", submit_timeout=0.2) as loova:
        with pytest.raises(NotSentError):
            await loova.submit_video(CITY)


# The answer that is there already.


async def answered_at_once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    body = json.dumps(TASK).encode()
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    await asyncio.sleep(60)


PROCESS = """
import asyncio, sys
from prefect_loova.client import LoovaClient
from prefect_loova.models.request import VideoRequest

async def main():
    async with LoovaClient("key", sys.argv[1], submit_timeout=float(sys.argv[2])) as loova:
        print("ready", flush=True)
        try:
            print((await loova.submit_video(VideoRequest(prompt="A city"))).task_id)
        except Exception as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


async def test_a_process_that_is_suspended_longer_than_the_timeout_reads_the_answer_that_arrived() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answered_meanwhile(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        arrived.set()
        await go_on.wait()
        await answered_at_once_to(writer)
        await asyncio.sleep(60)

    async with serving(answered_meanwhile) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, f"http://127.0.0.1:{server.port}", "2", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.wait_for(arrived.wait(), 60)
        os.kill(process.pid, signal.SIGSTOP)
        go_on.set()
        await asyncio.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        told, _ = await asyncio.wait_for(process.communicate(), 60)
        assert told.decode().strip() == "record_id"
        assert server.received.count(b"POST") == 1


async def answered_at_once_to(writer: asyncio.StreamWriter) -> None:
    body = json.dumps(TASK).encode()
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def test_a_loop_that_is_blocked_longer_than_the_timeout_reads_the_answer_that_arrived() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = (
            "import socket, sys, time\nprint(flush=True)\nlistener = socket.socket(fileno=int(sys.argv[1]))\n"
            "sock, _ = listener.accept()\nrequest = b''\nwhile b'sunset' not in request: request += sock.recv(65536)\n"
            "time.sleep(0.8)\nbody = sys.argv[2].encode()\n"
            "sock.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)\nsys.stdin.read()"
        )
        answering = subprocess.Popen(
            [sys.executable, "-c", script, str(listener.fileno()), json.dumps(TASK)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        assert answering.stdout is not None
        await asyncio.to_thread(answering.stdout.readline)
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with LoovaClient("key", url, submit_timeout=1.5) as loova:

                def held_up_soon() -> bool:
                    asyncio.get_running_loop().call_later(0.3, time.sleep, 2.5)
                    return True

                assert (await loova.submit_video(CITY, is_fresh=held_up_soon)).task_id == "record_id"
        finally:
            answering.communicate(b"")


async def test_a_silent_server_is_in_doubt_soon_after_the_timeout() -> None:
    async def never(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await asyncio.sleep(60)

    async with (
        serving(never) as server,
        LoovaClient("key", f"http://127.0.0.1:{server.port}", submit_timeout=0.3) as loova,
    ):
        started = time.monotonic()
        with pytest.raises(InDoubtError):
            await loova.submit_video(CITY)
        assert 0.3 <= time.monotonic() - started < 3
        assert server.received.count(b"POST") == 1


async def test_a_submit_that_is_cancelled_ends_at_once_and_leaves_no_connection() -> None:
    closed = asyncio.Event()

    async def never(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await reader.read()
        closed.set()

    async with (
        serving(never) as server,
        LoovaClient("key", f"http://127.0.0.1:{server.port}", submit_timeout=30) as loova,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await loova.submit_video(CITY)
        await asyncio.wait_for(closed.wait(), 2)


# The last look before the bytes leave.


async def test_a_submit_whose_record_is_too_old_right_before_the_body_is_not_sent() -> None:
    asked: list[bytes] = []
    async with (
        serving(answered_at_once) as server,
        LoovaClient("key", f"http://127.0.0.1:{server.port}") as loova,
    ):

        def is_fresh() -> bool:
            asked.append(bytes(server.received))
            return False

        with pytest.raises(SuspendedError, match="nothing was bought") as caught:
            await loova.submit_video(CITY, is_fresh=is_fresh)
        await asyncio.sleep(0.1)
        assert len(asked) == 1
        assert b"prompt" not in server.received
        assert caught.value.may_retry
        assert (await loova.submit_video(CITY, is_fresh=lambda: True)).task_id == "record_id"


async def test_the_freshness_check_comes_after_a_slow_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake may take half a minute: what was fresh before it may be old after it."""
    order: list[str] = []

    async def slow_tunnel(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        order.append("connected")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await reader.read(1)

    def is_fresh() -> bool:
        order.append("looked")
        return False

    async def plain(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order.append("connected")
        await server.request(reader)

    async with serving(slow_tunnel) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        async with LoovaClient("key", "https://loova.test") as loova:
            with pytest.raises(NotSentError):
                await loova.submit_video(CITY, is_fresh=is_fresh)
    assert order == ["connected"]
    order.clear()
    async with serving(plain) as server, LoovaClient("key", f"http://127.0.0.1:{server.port}") as loova:
        with pytest.raises(SuspendedError):
            await loova.submit_video(CITY, is_fresh=is_fresh)
        await asyncio.sleep(0.1)
    assert sorted(order) == ["connected", "looked"]


async def test_a_process_that_is_suspended_while_it_connects_sends_nothing_after_its_timeout() -> None:
    """Meanwhile its job may be in doubt, and a person may have bought again."""
    begun = asyncio.Event()

    async def slow_tunnel(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.received += await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await asyncio.sleep(1)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        server.received += await reader.read(65536)
        await asyncio.sleep(60)

    async with serving(slow_tunnel) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROCESS, "https://loova.test", "2"),
            stdout=subprocess.PIPE,
            env=os.environ | {"HTTPS_PROXY": f"http://127.0.0.1:{server.port}"},
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.wait_for(begun.wait(), 60)
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert told.decode().startswith(("NotSentError", "SuspendedError"))
