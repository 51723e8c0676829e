"""A link of a given round trip and bandwidth in front of a port on this machine, as a TCP proxy.

    python shaped_link.py PORT ROUND_TRIP_MS MB_PER_SECOND

Prints the port of the link, and ends when its stdin does. Each direction delays all bytes by half a round trip, and
passes on so many in a second, over all connections together. A connection takes one round trip until its first byte is
sent. The link holds no more than it would have under way, so a receiver that stops reading stops the sender. It has no
losses, and no slow start.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import deque

BURST_SECONDS = 0.002
"""How much earlier than its turn a piece may be taken from the sender, and the length of a piece in seconds."""
LEAST_PIECE, LARGEST_PIECE = 16 * 1024, 256 * 1024


class Direction:
    """One direction of the link, which all connections share.

    Args:
        rate: Bytes per second.
        delay: Seconds from one end to the other.
    """

    def __init__(self, rate: float, delay: float) -> None:
        self.piece = int(min(max(LEAST_PIECE, rate * BURST_SECONDS), LARGEST_PIECE))
        self.most_under_way = rate * delay + 2 * self.piece
        self._rate = rate
        self._delay = delay
        self._free = 0.0
        self._lock = threading.Lock()

    def pass_on(self, size: int) -> float:
        """Wait for the turn of so many bytes; return when they arrive."""
        with self._lock:
            begin = max(time.monotonic(), self._free)
            self._free = begin + size / self._rate
            arrival = self._free + self._delay
        _sleep_until(begin - BURST_SECONDS)
        return arrival


class Stream:
    """One direction of one connection: what has left the sender, and not arrived yet."""

    def __init__(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        self._source = source
        self._sink = sink
        self._direction = direction
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = threading.Condition()

    def start(self, wait: float = 0.0) -> None:
        """Begin to pass on bytes after some seconds."""
        threading.Thread(target=self._take, args=(wait,), daemon=True).start()
        threading.Thread(target=self._deliver, daemon=True).start()

    def _take(self, wait: float) -> None:
        time.sleep(wait)
        data = b"-"
        while data:
            try:
                data = self._source.recv(self._direction.piece)
            except OSError:
                data = b""
            arrival = self._direction.pass_on(len(data))
            with self._changed:
                self._changed.wait_for(lambda: self._size <= self._direction.most_under_way)
                self._under_way.append((arrival, data))
                self._size += len(data)
                self._changed.notify_all()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way)
                arrival, data = self._under_way[0]
            _sleep_until(arrival)
            try:
                if not data:
                    self._sink.shutdown(socket.SHUT_WR)
                    return
                self._sink.sendall(data)
            except OSError:
                self._source.close()
                return
            with self._changed:
                self._under_way.popleft()
                self._size -= len(data)
                self._changed.notify_all()


def _sleep_until(moment: float) -> None:
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)


def serve(port: int, round_trip: float, rate: float) -> None:
    """Serve until stdin ends."""
    up, down = Direction(rate, round_trip / 2), Direction(rate, round_trip / 2)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, up.piece)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, down.piece)
            server.connect(("127.0.0.1", port))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, up.piece)
            Stream(client, server, up).start(wait=round_trip)
            Stream(server, client, down).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) / 1000, float(sys.argv[3]) * 1e6)
