"""A wire-level HTTP proxy for one server, which can do harm at any request: kill, drop, cut, corrupt, delay, answer.

The product knows nothing of it: it is given the proxy's address instead of the server's. What is to be done is data, a
`Harm` at the n-th request that matches.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "after", "mid_reply"]
"""Before the request is passed on; after the server applied it, and before its reply; in the middle of the reply."""


@dataclass(frozen=True)
class Harm:
    """What is done to one request.

    Attributes:
        at: Which of the matching requests, counted from 0.
        what: kill, drop, reset, answer, delay, corrupt or truncate.
        when: See `When`.
        matching: A regular expression on `METHOD path`.
        status: Of an answer.
        body: Of an answer.
        headers: Of an answer.
        seconds: Of a delay.
        times: How many matching requests in a row.
    """

    at: int = 0
    what: Literal["kill", "drop", "reset", "answer", "delay", "corrupt", "truncate"] = "drop"
    when: When = "before"
    matching: str = ""
    status: int = 500
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    times: int = 1


@dataclass
class Seen:
    """One request that came by."""

    method: str
    path: str
    status: int | None = None
    harm: Harm | None = None


@dataclass
class _Message:
    head: bytes
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def start(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def raw(self) -> bytes:
        return self.head + self.body


class _ClosedError(Exception):
    pass


class _Wire:
    """One end of a connection, read message by message."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._buffer = b""

    def until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        end = self._buffer.index(mark) + len(mark)
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        return taken

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def rest(self) -> bytes:
        with contextlib.suppress(_ClosedError):
            while True:
                self._more()
        taken, self._buffer = self._buffer, b""
        return taken

    def _more(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise _ClosedError
        self._buffer += data

    def head(self) -> _Message:
        head = self.until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[1:-2]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return _Message(head, headers=headers)

    def body(self, message: _Message, *, of_reply: bool) -> bytes:
        if "chunked" in message.headers.get("transfer-encoding", "").lower():
            parts = []
            while True:
                size = self.until(b"\r\n")
                parts.append(size)
                count = int(size.split(b";")[0], 16)
                if count == 0:
                    while True:
                        line = self.until(b"\r\n")
                        parts.append(line)
                        if line == b"\r\n":
                            return b"".join(parts)
                parts.append(self.exactly(count + 2))
        if "content-length" in message.headers:
            return self.exactly(int(message.headers["content-length"]))
        return self.rest() if of_reply else b""


class Proxy:
    """A proxy in front of `127.0.0.1:port`, as a context manager.

    Args:
        port: The server's port; `target` may name it later.
        kill: What a `kill` does; by default nothing is known to be killed.
    """

    def __init__(self, port: int, kill: Callable[[], None] | None = None) -> None:
        self.target = port
        self._kill = kill
        self._lock = threading.Lock()
        self._harms: list[tuple[Harm, re.Pattern[str], list[int]]] = []
        self.seen: list[Seen] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._open)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def harm(self, *harms: Harm) -> None:
        """Do these from now on; requests are counted from now on."""
        with self._lock:
            self._harms += [(harm, re.compile(harm.matching), [0]) for harm in harms]

    def heal(self) -> None:
        """Do no harm any more."""
        with self._lock:
            self._harms.clear()

    def kill_process(self, process_id: Callable[[], int]) -> None:
        """From now on `kill` is SIGKILL for this process, whose id may still have to be waited for."""
        self._kill = lambda: os.kill(process_id(), signal.SIGKILL)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        with self._lock:
            self._open.add(client)
        try:
            with contextlib.suppress(_ClosedError, OSError):
                server = socket.create_connection(("127.0.0.1", self.target))
                with self._lock:
                    self._open.add(server)
                client_wire, server_wire = _Wire(client), _Wire(server)
                while self._exchange(client_wire, server_wire):
                    pass
        finally:
            for sock in filter(None, (client, server)):
                with self._lock:
                    self._open.discard(sock)
                sock.close()

    def _exchange(self, client: _Wire, server: _Wire) -> bool:
        request = client.head()
        if request.headers.get("expect", "").lower() == "100-continue":
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", request.head)
        request.body = client.body(request, of_reply=False)
        method, path = request.start.split(" ")[:2]
        seen, harm = Seen(method, path), self._harm_for(f"{method} {path}")
        seen.harm = harm
        with self._lock:
            self.seen.append(seen)
        if harm is not None and harm.when == "before" and not self._before(client, harm, request):
            return False
        server.sock.sendall(request.raw)
        reply = server.head()
        while reply.start.split(" ")[1] == "100":
            reply = server.head()
        status = int(reply.start.split(" ")[1])
        seen.status = status
        if method != "HEAD" and status not in (204, 304):
            reply.body = server.body(reply, of_reply=True)
        if harm is not None and harm.when != "before" and not self._after(client, harm, reply):
            return False
        client.sock.sendall(reply.raw)
        framed = "content-length" in reply.headers or "transfer-encoding" in reply.headers or method == "HEAD"
        framed = framed or status in (204, 304)
        return framed and "close" not in (reply.headers.get("connection", ""), request.headers.get("connection", ""))

    def _harm_for(self, line: str) -> Harm | None:
        with self._lock:
            found = None
            for harm, pattern, count in self._harms:
                if pattern.search(line):
                    if harm.at <= count[0] < harm.at + harm.times:
                        found = found or harm
                    count[0] += 1
            return found

    def _before(self, client: _Wire, harm: Harm, request: _Message) -> bool:
        """Whether the request is passed on after all."""
        if harm.what == "delay":
            time.sleep(harm.seconds)
            return True
        if harm.what == "corrupt":
            request.body = _flipped(request.body)
            return True
        if harm.what == "answer":
            client.sock.sendall(_answer(harm))
        else:
            self._end(client, harm)
        return False

    def _after(self, client: _Wire, harm: Harm, reply: _Message) -> bool:
        """Whether the reply is passed on whole."""
        if harm.what == "delay":
            time.sleep(harm.seconds)
            return True
        if harm.what == "corrupt":
            reply.body = _flipped(reply.body)
            return True
        if harm.what == "answer":
            client.sock.sendall(_answer(harm))
            return False
        if harm.when == "mid_reply" or harm.what == "truncate":
            raw = reply.raw
            client.sock.sendall(raw[: max(1, len(raw) - max(1, len(reply.body) // 2))])
        self._end(client, harm)
        return False

    def _end(self, client: _Wire, harm: Harm) -> None:
        if harm.what == "kill" and self._kill is not None:
            self._kill()
        if harm.what == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x20]) + body[middle + 1 :] if body else body


def _answer(harm: Harm) -> bytes:
    headers = [*harm.headers, ("Content-Length", str(len(harm.body))), ("Connection", "close")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {harm.status} Simulated\r\n{lines}\r\n".encode() + harm.body
