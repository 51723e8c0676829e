"""A wire-level HTTP proxy that injects a fault at any request: kill, drop, cut, corrupt, delay, answer.

The product gets the address of the proxy instead of the server's. A fault is data: a `NetworkFault` at the n-th request
that matches.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "mid_request", "after", "mid_reply"]
"""Before the request is forwarded, or within it; after the server's reply was read, or within the reply."""


@dataclass(frozen=True)
class NetworkFault:
    """A fault at one request.

    Attributes:
        at: The number of the request among those that match, from 0.
        what: kill, drop, reset, answer, delay, corrupt (one bit) or truncate (half of the body, with a correct length);
            drip (an endless reply, one byte a second), weaken (weak ETags, as behind a proxy that compresses) or
            wrong_etag (another ETag each time).
        when: See `When`.
        matching: A regular expression on `METHOD path`.
        status: The status of an answer.
        body: The body of an answer.
        headers: The headers of an answer.
        seconds: The length of a delay. With a kill, drop or reset `before`, the request is forwarded this much later.
        times: The number of matching requests in a row.
        at_byte: The bytes of the request or reply that `mid_request` or `mid_reply` lets through; None: half of it.
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
    """One request that the proxy received."""

    method: str
    path: str
    status: int | None = None
    fault: NetworkFault | None = None
    took: float | None = None
    """Seconds until the whole reply of the server was forwarded, without a fault."""
    replied: float | None = None
    """The monotonic time of that moment."""
    body_bytes: int = 0
    """The bytes of the bodies of the request and of the server's reply."""
    client_port: int = 0
    """The client's port: requests on one connection have the same."""


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

    def buffered(self) -> bytes:
        return self._taken(len(self._buffer))

    def sends_before(self, server: _Wire) -> bool:
        """Wait for a message. Return False if the server closes the connection first: its client must see that."""
        if self._buffer:
            return True
        with selectors.DefaultSelector() as both:
            both.register(self.sock, selectors.EVENT_READ)
            both.register(server.sock, selectors.EVENT_READ)
            return any(ready.fileobj is self.sock for ready, _ in both.select())

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
        port: The port of the server; `target` can change it.
        kill: Called for a `kill`; by default nothing is killed.
    """

    def __init__(self, port: int, kill: Callable[[], None] | None = None) -> None:
        self.target = port
        self._kill = kill
        self._lock = threading.Lock()
        self._faults: list[tuple[NetworkFault, re.Pattern[str], list[int]]] = []
        self._in_flight = 0
        self.seen: list[Seen] = []
        self.watch: Callable[[str], None] | None = None
        """Called with `METHOD path` of each request before any fault."""
        self.answered: Callable[[str], None] | None = None
        """Called with `METHOD path` of each request before its reply is forwarded."""
        self.date: str | None = None
        """The `Date` header of all replies, or None for the server's own."""
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

    def inject(self, *faults: NetworkFault) -> None:
        """Add faults. Requests are counted from now on."""
        with self._lock:
            self._faults += [(fault, re.compile(fault.matching), [0]) for fault in faults]

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.date = None
        with self._lock:
            self._faults.clear()

    @property
    def is_quiet(self) -> bool:
        """Whether no request is in flight, not even one whose client has disconnected."""
        return self._in_flight == 0

    def kill_process(self, process_id: Callable[[], int]) -> None:
        """Let a `kill` send SIGKILL to this process. `process_id` may wait for the id."""
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
        if not client.sends_before(server):
            return False
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
        seen, fault = Seen(method, path), self._fault_for(f"{method} {path}")
        seen.fault = fault
        seen.client_port = client.sock.getpeername()[1]
        with self._lock:
            self.seen.append(seen)
        early = fault is not None and fault.when in ("before", "mid_request")
        if fault is not None and early and not self._before(client, server, fault, request):
            return False
        server.sock.sendall(request.raw)
        reply = server.head()
        while reply.start.split(" ")[1] == "100":
            reply = server.head()
        status = int(reply.start.split(" ")[1])
        seen.status = status
        if self.date is not None:
            reply.head = re.sub(rb"(?i)\r\ndate:[^\r]*", b"\r\nDate: " + self.date.encode(), reply.head)
        if status == 101:  # a web socket
            client.sock.sendall(reply.head)
            self._tunnel(client, server)
            return False
        if method != "HEAD" and status not in (204, 304):
            reply.body = server.body(reply, of_reply=True)
        seen.body_bytes = len(request.body) + len(reply.body)
        if fault is not None and not early and not self._after(client, fault, reply):
            return False
        if self.answered is not None:
            self.answered(f"{method} {path}")
        if fault is None:
            seen.replied = time.monotonic()
            seen.took = seen.replied - came
        client.sock.sendall(reply.raw)
        framed = "content-length" in reply.headers or "transfer-encoding" in reply.headers or method == "HEAD"
        framed = framed or status in (204, 304)
        return framed and "close" not in (reply.headers.get("connection", ""), request.headers.get("connection", ""))

    def _fault_for(self, line: str) -> NetworkFault | None:
        with self._lock:
            found = None
            for fault, pattern, count in self._faults:
                if pattern.search(line):
                    if fault.at <= count[0] < fault.at + fault.times:
                        found = found or fault
                    count[0] += 1
            return found

    def _before(self, client: _Wire, server: _Wire, fault: NetworkFault, request: _Message) -> bool:
        """Apply a fault to a request, and return whether to forward the request."""
        if fault.what == "delay":
            time.sleep(fault.seconds)
        elif fault.what == "corrupt":
            request.body = _flipped(request.body)
        elif fault.what == "truncate":
            _halve(request)
        elif fault.what == "answer":
            client.sock.sendall(_answer(fault))
            return False
        elif fault.what == "drip":
            self._drip(client, fault)
            return False
        elif fault.when == "mid_request":
            server.sock.sendall(_part(request, fault))
            self._end(client, fault, server)
            return False
        else:
            self._end(client, fault)
            if not fault.seconds:
                return False
            client.sock.close()
            time.sleep(fault.seconds)
        return True

    def _after(self, client: _Wire, fault: NetworkFault, reply: _Message) -> bool:
        """Apply a fault to a reply, and return whether to forward the reply."""
        if fault.what == "delay":
            time.sleep(fault.seconds)
        elif fault.what == "corrupt":
            reply.body = _flipped(reply.body)
        elif fault.what == "truncate" and fault.when == "after":
            _halve(reply)
        elif fault.what in ("weaken", "wrong_etag"):
            etag = rb'W/"' if fault.what == "weaken" else b'"' + secrets.token_hex(2).encode()
            reply.head = re.sub(rb'(?i)(\r\netag: *)"', rb"\g<1>" + etag, reply.head)
        elif fault.what == "answer":
            client.sock.sendall(_answer(fault))
            return False
        else:
            if fault.when == "mid_reply":
                client.sock.sendall(_part(reply, fault))
            self._end(client, fault)
            return False
        return True

    def _tunnel(self, client: _Wire, server: _Wire) -> None:
        def forward(source: _Wire, target: _Wire) -> None:
            with contextlib.suppress(OSError):
                target.sock.sendall(source.buffered())
                while piece := source.sock.recv(65536):
                    target.sock.sendall(piece)
            for wire in (source, target):
                with contextlib.suppress(OSError):
                    wire.sock.shutdown(socket.SHUT_RDWR)

        back = threading.Thread(target=forward, args=(server, client), daemon=True)
        back.start()
        forward(client, server)
        back.join()

    def _drip(self, client: _Wire, fault: NetworkFault) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in fault.headers)
        client.sock.sendall(f"HTTP/1.1 {fault.status} Simulated\r\n{headers}Content-Length: 1000000\r\n\r\n".encode())
        while not self._closed and fault in (one for one, *_ in self._faults):
            client.sock.sendall(b" ")
            time.sleep(1.0)

    def _end(self, client: _Wire, fault: NetworkFault, *others: _Wire) -> None:
        if fault.what == "kill" and self._kill is not None:
            self._kill()
        if fault.what == "reset":
            for wire in (client, *others):
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _part(message: _Message, fault: NetworkFault) -> bytes:
    """Return the part that a fault lets through: up to its byte, or half of the body, or half of the head if no body.

    It is never the whole message.
    """
    raw = message.raw
    middle = len(message.head) + len(message.body) // 2 if message.body else len(raw) // 2
    return raw[: middle if fault.at_byte is None else min(fault.at_byte, len(raw) - 1)]


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x20]) + body[middle + 1 :] if body else body


def _halve(message: _Message) -> None:
    if "content-length" in message.headers:
        message.body = message.body[: len(message.body) // 2]
        length = f"\r\nContent-Length: {len(message.body)}\r\n".encode()
        message.head = re.sub(rb"(?i)\r\ncontent-length:[^\r]*\r\n", length, message.head)


def _answer(fault: NetworkFault) -> bytes:
    headers = [*fault.headers, ("Content-Length", str(len(fault.body))), ("Connection", "close")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {fault.status} Simulated\r\n{lines}\r\n".encode() + fault.body
