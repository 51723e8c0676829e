"""A wire-level HTTP proxy for one server, which can do harm at any request: kill, drop, cut, corrupt, delay, answer.

The product knows nothing of it: it is given the proxy's address instead of the server's. What is to be done is data, a
`Harm` at the n-th request that matches.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "mid_request", "after", "mid_reply"]
"""Before the request is passed on, or with a part of it; after the server's answer, or with a part of that sent on."""


@dataclass(frozen=True)
class NetworkFault:
    """What is done to one request.

    Attributes:
        at: Which of the matching requests, counted from 0.
        what: kill, drop, reset, answer, delay, corrupt (one bit) or truncate (half of the body, its length put right);
            drip (an answer that never ends, one byte a second), weaken (ETags become weak, as behind a proxy that
            compresses) or wrong_etag (another one each time).
        when: See `When`.
        matching: A regular expression on `METHOD path`.
        status: Of an answer.
        body: Of an answer.
        headers: Of an answer.
        seconds: Of a delay. With a kill, drop or reset `before`: the request is passed on after all, so much later.
        times: How many matching requests in a row.
        at_byte: After how many bytes of the request or reply `mid_request` and `mid_reply` end it; None: in the middle.
    """

    at: int = 0
    what: Literal["kill", "drop", "reset", "answer", "delay", "corrupt", "truncate", "drip", "weaken", "wrong_etag"] = (
        "drop"
    )
    when: When = "before"
    matching: str = ""
    status: int = 500
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    times: int = 1
    at_byte: int | None = None


@dataclass
class Seen:
    """One request that came by."""

    method: str
    path: str
    status: int | None = None
    harm: NetworkFault | None = None
    took: float | None = None
    """Seconds until the server's own reply was sent on whole, if nothing was done to it."""
    replied: float | None = None
    """When that was, on the monotonic clock."""


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
        self._buffer = bytearray()

    def until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        return self._taken(self._buffer.index(mark) + len(mark))

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        return self._taken(count)

    def rest(self) -> bytes:
        with contextlib.suppress(_ClosedError):
            while True:
                self._more()
        return self._taken(len(self._buffer))

    def _taken(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _more(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
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
        self._harms: list[tuple[NetworkFault, re.Pattern[str], list[int]]] = []
        self._in_flight = 0
        self.seen: list[Seen] = []
        self.watch: Callable[[str], None] | None = None
        """Called with `METHOD path` of each request before anything is done to it."""
        self.answered: Callable[[str], None] | None = None
        """Called with `METHOD path` of each request before its reply is sent on."""
        self.date: str | None = None
        """The `Date` that every reply bears from now on, or None for the server's own."""
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

    def harm(self, *harms: NetworkFault) -> None:
        """Do these from now on; requests are counted from now on."""
        with self._lock:
            self._harms += [(harm, re.compile(harm.matching), [0]) for harm in harms]

    def heal(self) -> None:
        """Do no harm any more."""
        self.date = None
        with self._lock:
            self._harms.clear()

    @property
    def is_quiet(self) -> bool:
        """Whether no request is under way, not even one whose client is gone."""
        return self._in_flight == 0

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
        with self._lock:
            self._in_flight += 1
        try:
            return self._handle(client, server, request)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _handle(self, client: _Wire, server: _Wire, request: _Message) -> bool:
        if request.headers.get("expect", "").lower() == "100-continue":
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", request.head)
        request.body = client.body(request, of_reply=False)
        came = time.monotonic()
        method, path = request.start.split(" ")[:2]
        if self.watch is not None:
            self.watch(f"{method} {path}")
        seen, harm = Seen(method, path), self._harm_for(f"{method} {path}")
        seen.harm = harm
        with self._lock:
            self.seen.append(seen)
        early = harm is not None and harm.when in ("before", "mid_request")
        if harm is not None and early and not self._before(client, server, harm, request):
            return False
        server.sock.sendall(request.raw)
        reply = server.head()
        while reply.start.split(" ")[1] == "100":
            reply = server.head()
        status = int(reply.start.split(" ")[1])
        seen.status = status
        if self.date is not None:
            reply.head = re.sub(rb"(?i)\r\ndate:[^\r]*", b"\r\nDate: " + self.date.encode(), reply.head)
        if method != "HEAD" and status not in (204, 304):
            reply.body = server.body(reply, of_reply=True)
        if harm is not None and not early and not self._after(client, harm, reply):
            return False
        if self.answered is not None:
            self.answered(f"{method} {path}")
        if harm is None:
            seen.replied = time.monotonic()
            seen.took = seen.replied - came
        client.sock.sendall(reply.raw)
        framed = "content-length" in reply.headers or "transfer-encoding" in reply.headers or method == "HEAD"
        framed = framed or status in (204, 304)
        return framed and "close" not in (reply.headers.get("connection", ""), request.headers.get("connection", ""))

    def _harm_for(self, line: str) -> NetworkFault | None:
        with self._lock:
            found = None
            for harm, pattern, count in self._harms:
                if pattern.search(line):
                    if harm.at <= count[0] < harm.at + harm.times:
                        found = found or harm
                    count[0] += 1
            return found

    def _before(self, client: _Wire, server: _Wire, harm: NetworkFault, request: _Message) -> bool:
        """Whether the request is passed on after all."""
        if harm.what == "delay":
            time.sleep(harm.seconds)
        elif harm.what == "corrupt":
            request.body = _flipped(request.body)
        elif harm.what == "truncate":
            _halve(request)
        elif harm.what == "answer":
            client.sock.sendall(_answer(harm))
            return False
        elif harm.what == "drip":
            self._drip(client, harm)
            return False
        elif harm.when == "mid_request":
            server.sock.sendall(_part(request, harm))
            self._end(client, harm, server)
            return False
        else:
            self._end(client, harm)
            if not harm.seconds:
                return False
            client.sock.close()
            time.sleep(harm.seconds)
        return True

    def _after(self, client: _Wire, harm: NetworkFault, reply: _Message) -> bool:
        """Whether the reply is passed on whole."""
        if harm.what == "delay":
            time.sleep(harm.seconds)
        elif harm.what == "corrupt":
            reply.body = _flipped(reply.body)
        elif harm.what == "truncate" and harm.when == "after":
            _halve(reply)
        elif harm.what in ("weaken", "wrong_etag"):
            etag = rb'W/"' if harm.what == "weaken" else b'"' + secrets.token_hex(2).encode()
            reply.head = re.sub(rb'(?i)(\r\netag: *)"', rb"\g<1>" + etag, reply.head)
        elif harm.what == "answer":
            client.sock.sendall(_answer(harm))
            return False
        else:
            if harm.when == "mid_reply":
                client.sock.sendall(_part(reply, harm))
            self._end(client, harm)
            return False
        return True

    def _drip(self, client: _Wire, harm: NetworkFault) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in harm.headers)
        client.sock.sendall(f"HTTP/1.1 {harm.status} Simulated\r\n{headers}Content-Length: 1000000\r\n\r\n".encode())
        while not self._closed and harm in (one for one, *_ in self._harms):
            client.sock.sendall(b" ")
            time.sleep(1.0)

    def _end(self, client: _Wire, harm: NetworkFault, *others: _Wire) -> None:
        if harm.what == "kill" and self._kill is not None:
            self._kill()
        if harm.what == "reset":
            for wire in (client, *others):
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _part(message: _Message, harm: NetworkFault) -> bytes:
    """As much as a harm lets through: half of the body, or of the head where there is none, unless it names a byte.

    Never all of it: what is done counts as not done here.
    """
    raw = message.raw
    middle = len(message.head) + len(message.body) // 2 if message.body else len(raw) // 2
    return raw[: middle if harm.at_byte is None else min(harm.at_byte, len(raw) - 1)]


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x20]) + body[middle + 1 :] if body else body


def _halve(message: _Message) -> None:
    if "content-length" in message.headers:
        message.body = message.body[: len(message.body) // 2]
        length = f"\r\nContent-Length: {len(message.body)}\r\n".encode()
        message.head = re.sub(rb"(?i)\r\ncontent-length:[^\r]*\r\n", length, message.head)


def _answer(harm: NetworkFault) -> bytes:
    headers = [*harm.headers, ("Content-Length", str(len(harm.body))), ("Connection", "close")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {harm.status} Simulated\r\n{lines}\r\n".encode() + harm.body
