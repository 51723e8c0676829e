"""The video host: it renders and serves videos, with signed URLs that expire and ranges, and takes no API key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import cache, cached_property
from random import Random
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prefect_loova.simulator.faults import Fault, Faults
from prefect_loova.simulator.ledger import Ledger, Task
from prefect_loova.simulator.media import media_of
from prefect_loova.simulator.render import render, size_of
from prefect_loova.simulator.stills import Still
from prefect_loova.simulator.wire import Reply

_CHUNK = 1 << 20
_PERIOD = _CHUNK + 7  # Not a round number, so that a misplaced part of a file has other bytes.


@dataclass(frozen=True)
class Film:
    """An mp4, padded by a `free` box that is generated while it is sent, so that a large film takes no memory."""

    mp4: bytes
    padding: int = 0

    @property
    def size(self) -> int:
        """Return the size of mp4 and padding, in bytes."""
        return len(self.mp4) + self.padding

    def padded(self, size: int) -> Film:
        """Return this film padded to `size` bytes, or unchanged if there is no room for a box."""
        return replace(self, padding=size - len(self.mp4)) if size - len(self.mp4) >= 16 else self

    def without_box(self, kind: str) -> Film:
        """Return this film without its top-level boxes of a kind, such as `moov`."""
        return replace(self, mp4=b"".join(box for box in _boxes(self.mp4) if box[4:8] != kind.encode()))

    def chunks(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """Yield the bytes from `start` to `stop`, in chunks of at most 1 MiB."""
        head = self.mp4 + self._box_header
        if start < len(head):
            yield head[start : min(stop, len(head))]
            start = len(head)
        noise = _noise()
        while start < stop:
            offset = start % _PERIOD
            yield noise[offset : offset + min(_CHUNK, stop - start)]
            start += _CHUNK

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of mp4 and padding, as hex digits. It takes about a second for each GiB."""
        digest = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def etag(self) -> str:
        """Return a strong entity tag."""
        return f'"{hashlib.sha256(self.mp4).hexdigest()[:32]}-{self.size:x}"'

    @property
    def _box_header(self) -> bytes:
        # Size 1 means that the size follows in 64 bits.
        return struct.pack(">I4sQ", 1, b"free", self.padding) if self.padding else b""


def _boxes(mp4: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(mp4):
        size = int.from_bytes(mp4[start : start + 4])
        yield mp4[start : start + size]
        start += size


@cache
def _noise() -> memoryview:
    return memoryview(Random(0).randbytes(_PERIOD) * 2)


class VideoHost:
    """A second server beside the API's. It accepts signed URLs only."""

    def __init__(
        self, ledger: Ledger, faults: Faults, *, url_lifetime: float, video_bytes: int | None, short_side: int
    ) -> None:
        """Set up the route.

        Args:
            ledger: Stores tasks.
            faults: The faults to apply.
            url_lifetime: How long a URL is valid, in seconds.
            video_bytes: Pads every video to this size, if given.
            short_side: The shorter side of videos, in pixels.
        """
        self._ledger = ledger
        self._faults = faults
        self._url_lifetime = url_lifetime
        self._video_bytes = video_bytes
        self._short_side = short_side
        self.app = Starlette(routes=[Route("/videos/{task_id}.mp4", self._serve, methods=["GET", "HEAD"])])

    def path_of(self, task_id: str) -> str:
        """Return a newly signed path of a task's video."""
        expires = str(int(self._ledger.now() + self._url_lifetime))
        return (
            f"/videos/{task_id}.mp4?{urlencode({'expires': expires, 'signature': self._signature(task_id, expires)})}"
        )

    def film_of(self, task: Task) -> Film:
        """Return a task's video. Rendering takes about 0.1 s for each second of video, and is cached."""
        request = task.request
        opening, closing = self._pictures(task)
        film = Film(render(task.seed, request["ratio"], request["duration"], self._short_side, opening, closing))
        film = film.padded(self._video_bytes) if self._video_bytes else film
        self._ledger.set_video(task.task_id, film.size, None if film.padding else film.sha256)
        return film

    def _pictures(self, task: Task) -> tuple[tuple[Still, ...], Still | None]:
        """Return the stills of a film's media: those that open a part each, and the one that closes the film."""
        by_name = self._ledger.stills(task.task_id)
        if not by_name:
            return (), None
        size = size_of(task.request["ratio"], self._short_side)
        stills = [by_name[one.name].resized(*size) if one.name in by_name else None for one in media_of(task.request)]
        if task.request["function_mode"] == "first_last_frames":
            first, last = (*stills, None)[:2]
            return (first,) if first else (), last
        return tuple(still for still in stills if still), None

    def _signature(self, task_id: str, expires: str) -> str:
        return hmac.new(self._ledger.secret, f"{task_id}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        query = dict(parse_qsl(request.url.query))
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if "authorization" in request.headers:
            self._ledger.count("video_requests_with_key")
            return 400, "This host takes no Authorization header: the URL is signed, and the key is not for it"
        if not hmac.compare_digest(
            signature.encode(), self._signature(request.path_params["task_id"], expires).encode()
        ):
            return 403, "The signature of this URL is wrong"
        if int(expires) < self._ledger.now():
            return 403, "This URL has expired"
        return None

    async def _serve(self, request: Request) -> Response:
        task_id = request.path_params["task_id"]
        self._ledger.count("video_requests", task_id)
        task = self._ledger.task(task_id)
        refusal = self._refusal(request)
        if refusal is None and (task is None or task.status(self._ledger.now()) != "succeeded"):
            refusal = 404, "There is no such video"
        if refusal or task is None:
            self._ledger.count("video_refused")
            status, message = refusal or (404, "")
            return Reply(status, {"content-type": "text/plain; charset=utf-8"}, f"Simulator: {message}\n".encode())
        fault = self._faults.take("video", task_id=task_id, prompt=task.request["prompt"])
        film = await asyncio.to_thread(self.film_of, task)
        return _reply(request, film, task.finishes_at, fault)


def _reply(request: Request, film: Film, modified: float, fault: Fault | None) -> Response:
    headers = {"content-type": "video/mp4"}
    if fault and fault.content_type:
        headers["content-type"] = fault.content_type
    if fault and fault.redirect_to is not None:
        location = fault.redirect_to.replace("{url}", str(request.url))
        return Reply(fault.status or 302, headers | {"location": location}, b"", fault=fault)
    if fault and (fault.body is not None or fault.status is not None):
        return Reply(fault.status or 200, headers, b"" if fault.body is None else fault.content, fault=fault)
    if fault and fault.strip_box:
        film = film.without_box(fault.strip_box)
    size = film.size if fault is None or fault.announce is None else slice(fault.announce).indices(film.size)[1]
    # A shorter film gets its own tag, so that a client does not resume one film with the other.
    etag = film.etag if size == film.size else f'{film.etag[:-1]}-{size:x}"'
    headers |= {"accept-ranges": "bytes", "etag": etag, "last-modified": formatdate(modified, usegmt=True)}
    is_same = request.headers.get("if-range", etag) in (etag, headers["last-modified"])
    requested = _range(request, size) if is_same else None
    if requested is None:
        return Reply(200, headers, film.chunks(0, size), size, fault)
    start, stop = requested
    if start >= stop:
        return Reply(416, headers | {"content-range": f"bytes */{size}"}, b"", fault=fault)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206, headers, film.chunks(start, stop), stop - start, fault)


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """Return start and stop of the requested range; None without one. It cannot be satisfied if start >= stop."""
    match = re.fullmatch(r"bytes=\s*(\d*)-(\d*)\s*", request.headers.get("range", ""))
    if match is None or match[0].endswith("=-"):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
