"""A video host on loopback that misbehaves on request. It writes its responses byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Self

import av

NEVER = 3600.0


@dataclass(frozen=True)
class Reply:
    """The response to one request.

    Args:
        body: The whole content, also for a request with a range.
        status: The HTTP status for a request without a range.
        etag: The `ETag` header, quoted.
        last_modified: The `Last-Modified` header. `Date` is always Tue, 24 Nov 2026 10:00:00 GMT.
        ranges: Whether to honour `Range`.
        chunked: Whether to send chunks instead of a Content-Length.
        announce: A wrong Content-Length to send.
        cut: Close the connection after this many bytes of the body.
        stall: Stop sending after this many bytes of the body.
        pace: Seconds between two blocks of the body.
        block: The bytes of a block.
        head_pace: Seconds between two bytes of the head.
        headers: More headers.
    """

    body: bytes = b""
    status: int = 200
    etag: str | None = None
    last_modified: str | None = None
    ranges: bool = True
    chunked: bool = False
    announce: int | None = None
    cut: int | None = None
    stall: int | None = None
    pace: float = 0.0
    block: int = 65536
    head_pace: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def but(self, **changes: object) -> Reply:
        """Return this reply with some changes."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """A request that the host received, with header names in lower case."""

    path: str
    headers: dict[str, str]


class VideoHost:
    """A host that answers the n-th request with the n-th reply, and all later requests with the last reply."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[Asked] = []
        self.sent = 0
        self.on_sent: Callable[[int], None] = lambda total: None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def url(self, path: str = "/video.mp4?X-Amz-Signature=c0ffee") -> str:
        """Return a URL of this host. Every path is the video."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            self.asked.append(Asked(head[0].split()[1], headers))
            reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
            await self._answer(reply, headers, writer)
        writer.close()

    async def _answer(self, reply: Reply, asked: dict[str, str], writer: asyncio.StreamWriter) -> None:
        headers = {"Date": "Tue, 24 Nov 2026 10:00:00 GMT", "Content-Type": "video/mp4", "Connection": "close"}
        headers |= {"ETag": reply.etag} if reply.etag else {}
        headers |= {"Last-Modified": reply.last_modified} if reply.last_modified else {}
        status, body = reply.status, reply.body
        matched = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        if matched and reply.ranges and status == 200 and asked.get("if-range") in (reply.etag, reply.last_modified):
            start = int(matched[1])
            if start >= len(body):
                status, body = 416, b""
            else:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) if reply.announce is None else reply.announce)
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in (headers | reply.headers).items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        for at in range(0, len(head), 1 if reply.head_pace else len(head)):
            writer.write(head[at : at + 1] if reply.head_pace else head)
            await writer.drain()
            await asyncio.sleep(reply.head_pace)
        stop = min(len(body) if at is None else at for at in (reply.cut, reply.stall, None))
        for at in range(0, stop, reply.block):
            block = body[at : min(at + reply.block, stop)]
            writer.write(b"%x\r\n%b\r\n" % (len(block), block) if reply.chunked else block)
            await writer.drain()
            self.sent += len(block)
            self.on_sent(self.sent)
            if reply.pace:
                await asyncio.sleep(reply.pace)
        if reply.stall is not None:
            await asyncio.sleep(NEVER)
        if reply.chunked and reply.cut is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()


@cache
def rendered(movflags: str = "", *, seconds: float = 1.0, width: int = 320, height: int = 180) -> bytes:
    """Return a real mp4 with picture and sound. `movflags` are FFmpeg's, such as `faststart`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
            video = container.add_stream("libx264", rate=24)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            sound = container.add_stream("aac", rate=44100)
            for number in range(int(seconds * 24)):
                frame = av.VideoFrame(width, height, "yuv420p")
                for plane in frame.planes:
                    plane.update(bytes([number * 9 % 256]) * plane.buffer_size)
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode())
            for number in range(int(seconds * 44100 / 1024)):
                samples = av.AudioFrame("fltp", "mono", 1024)
                samples.sample_rate, samples.pts = 44100, number * 1024
                for plane in samples.planes:
                    plane.update(bytes(plane.buffer_size))
                container.mux(sound.encode(samples))
            container.mux(sound.encode())
        return path.read_bytes()


@cache
def long_video(size: int, seed: int = 0) -> bytes:
    """Return a real mp4 of exactly `size` bytes. Most of them are noise in a `free` box at the end."""
    video = rendered("faststart")
    room = size - len(video)
    return video + struct.pack(">I4s", room, b"free") + random.Random(seed).randbytes(room - 8)
