"""The videos and the host that serves them: signed URLs that expire, ranges, and no API keys."""

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
_PERIOD = _CHUNK + 7  # No round number, so that a part in the wrong place does not look like the right one.


@dataclass(frozen=True)
class Film:
    """An mp4, and a `free` box behind it that is made while it is sent: a film of any size takes no memory."""

    mp4: bytes
    padding: int = 0

    @property
    def size(self) -> int:
        """The whole, in bytes."""
        return len(self.mp4) + self.padding

    def padded(self, size: int) -> Film:
        """This film with `size` bytes: valid, but larger. It is left as it is where there is no room for a box."""
        return replace(self, padding=size - len(self.mp4)) if size - len(self.mp4) >= 16 else self

    def without_box(self, kind: str) -> Film:
        """This film without its top-level boxes of a kind, say `moov`."""
        return replace(self, mp4=b"".join(box for box in _boxes(self.mp4) if box[4:8] != kind.encode()))

    def chunks(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """The bytes from `start` to `stop`, in pieces of at most 1 MiB."""
        head = self.mp4 + self._box_header
        if start < len(head):
            yield head[start : min(stop, len(head))]
            start = len(head)
        noise = _noise()
        while start < stop:
            place = start % _PERIOD
            yield noise[place : place + min(_CHUNK, stop - start)]
            start += _CHUNK

    @cached_property
    def sha256(self) -> str:
        """Of the whole, as hex digits: about a second for each GiB."""
        digest = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def etag(self) -> str:
        """A strong entity tag: other bytes, another tag."""
        return f'"{hashlib.sha256(self.mp4).hexdigest()[:32]}-{self.size:x}"'

    @property
    def _box_header(self) -> bytes:
        # Size 1 says that the real size follows in 64 bits.
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
    """Another server than the API's, that knows tasks only by the signature of a URL."""

    def __init__(
        self, ledger: Ledger, faults: Faults, *, url_lifetime: float, video_bytes: int | None, short_side: int
    ) -> None:
        """Serve videos of `short_side` pixels, padded to `video_bytes` if given; URLs are valid for seconds."""
        self._books = ledger
        self._faults = faults
        self._url_lifetime = url_lifetime
        self._video_bytes = video_bytes
        self._short_side = short_side
        self.app = Starlette(routes=[Route("/videos/{task_id}.mp4", self._serve, methods=["GET", "HEAD"])])

    def path_of(self, task_id: str) -> str:
        """A freshly signed path to the video of a task."""
        expires = str(int(self._books.now() + self._url_lifetime))
        return (
            f"/videos/{task_id}.mp4?{urlencode({'expires': expires, 'signature': self._signature(task_id, expires)})}"
        )

    def film_of(self, task: Task) -> Film:
        """The video of a task; the first time it is rendered, in about 0.1 s for each second of it."""
        request = task.request
        opening, closing = self._pictures(task)
        film = Film(render(task.seed, request["ratio"], request["duration"], self._short_side, opening, closing))
        film = film.padded(self._video_bytes) if self._video_bytes else film
        self._books.served(task.task_id, film.size, None if film.padding else film.sha256)
        return film

    def _pictures(self, task: Task) -> tuple[tuple[Still, ...], Still | None]:
        """What a film shows of its media: stills with a part of the film each, and one that ends it."""
        kept = self._books.stills(task.task_id)
        if not kept:
            return (), None
        size = size_of(task.request["ratio"], self._short_side)
        shown = [kept[one.name].sized(*size) if one.name in kept else None for one in media_of(task.request)]
        if task.request["function_mode"] == "first_last_frames":
            first, last = (*shown, None)[:2]
            return (first,) if first else (), last
        return tuple(still for still in shown if still), None

    def _signature(self, task_id: str, expires: str) -> str:
        return hmac.new(self._books.secret, f"{task_id}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        query = dict(parse_qsl(request.url.query))
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if "authorization" in request.headers:
            self._books.count("video_requests_with_key")
            return 400, "This host takes no Authorization header: the URL is signed, and the key is not for it"
        if not hmac.compare_digest(
            signature.encode(), self._signature(request.path_params["task_id"], expires).encode()
        ):
            return 403, "The signature of this URL is wrong"
        if int(expires) < self._books.now():
            return 403, "This URL has expired"
        return None

    async def _serve(self, request: Request) -> Response:
        task_id = request.path_params["task_id"]
        self._books.count("video_requests", task_id)
        task = self._books.task(task_id)
        refusal = self._refusal(request)
        if refusal is None and (task is None or task.status(self._books.now()) != "succeeded"):
            refusal = 404, "There is no such video"
        if refusal or task is None:
            self._books.count("video_refused")
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
        return Reply(fault.status or 200, headers, (fault.body or "").encode(), fault=fault)
    if fault and fault.strip_box:
        film = film.without_box(fault.strip_box)
    size = film.size if fault is None or fault.announce is None else slice(fault.announce).indices(film.size)[1]
    # A shorter film is another one, so that nobody resumes the one with the other.
    etag = film.etag if size == film.size else f'{film.etag[:-1]}-{size:x}"'
    headers |= {"accept-ranges": "bytes", "etag": etag, "last-modified": formatdate(modified, usegmt=True)}
    asked = _range(request, size) if request.headers.get("if-range", etag) in (etag, headers["last-modified"]) else None
    if asked is None:
        return Reply(200, headers, film.chunks(0, size), size, fault)
    start, stop = asked
    if start >= stop:
        return Reply(416, headers | {"content-range": f"bytes */{size}"}, b"", fault=fault)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206, headers, film.chunks(start, stop), stop - start, fault)


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """Start and stop of the one range that was asked for; None: all of it; start >= stop: none that there is."""
    found = re.fullmatch(r"bytes=\s*(\d*)-(\d*)\s*", request.headers.get("range", ""))
    if found is None or found[0].endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
