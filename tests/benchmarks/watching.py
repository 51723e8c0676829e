"""What a process costs while it is watched: seconds, processor, memory, and requests to Prefect, S3 and Loova."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.benchmarks.environment import Where, peak_mib, rss_mib

_IDS = [
    (re.compile(r"[0-9a-f]{64}"), "KEY"),
    (re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "DAY"),
    (re.compile(r"sim_[0-9a-f]+"), "TASK"),
]


class Watched:
    """Enter it when everything is imported, ask for `figures` when the work is done.

    Args:
        where: By which addresses requests are told apart.
        prefect_api: The address of Prefect's API, if it is used.
        keep_log: Whether to keep a log of all requests: that takes memory, which is measured too.
    """

    def __init__(self, where: Where, prefect_api: str = "", *, keep_log: bool = False) -> None:
        self.log: list[tuple[float, str]] = []
        """When each request was sent, in seconds from the beginning, and what it was; if it is kept."""
        self._keep_log = keep_log
        self._kinds = Counter[str]()
        self._saved: list[float] = []
        self._api = prefect_api
        self._loova = where.base_url.removesuffix("/api")
        self._memory: list[tuple[float, float]] = []
        self._over = threading.Event()

    def watch_s3(self, client: Any) -> None:
        """Count what a boto3 client sends."""
        client.meta.events.register("before-send.s3", self._s3)

    def __enter__(self) -> Watched:
        for kind in (httpx.AsyncClient, httpx.Client):
            self._count_http(kind)
        if "prefect" in sys.modules:
            self._count_events()
        self._idle = rss_mib()
        self._cpu = time.process_time()
        self._started = time.monotonic()
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self.cpu_seconds = time.process_time() - self._cpu
        self.peak_mib = peak_mib()
        self._over.set()

    def figures(self) -> dict[str, Any]:
        """What was counted."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "idle_mib": self._idle,
            "peak_mib": self.peak_mib,
            "prefect_requests": self._of("prefect"),
            "prefect_events": self._of("event"),
            "s3_requests": self._of("s3"),
            "loova_requests": self._of("loova"),
            "requests": dict(self._kinds.most_common()),
        }

    def quarters(self) -> list[tuple[float, float]]:
        """When each quarter of the videos was saved, in seconds, and the memory then, in MiB; for our flows."""
        saved = self._saved
        ends = [saved[len(saved) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)] if len(saved) >= 4 else []
        return [(end, max((mib for seconds, mib in self._memory if seconds <= end), default=0.0)) for end in ends]

    def _sample(self) -> None:
        while not self._over.wait(0.25):
            self._memory.append((time.monotonic() - self._started, rss_mib()))

    def _of(self, kind: str) -> int:
        return sum(count for what, count in self._kinds.items() if what.startswith(f"{kind} "))

    def _note(self, what: str) -> None:
        for pattern, name in _IDS:
            what = pattern.sub(name, what)
        seconds = time.monotonic() - self._started
        self._kinds[what] += 1
        if what.endswith("event loova.job.saved"):
            self._saved.append(seconds)
        if self._keep_log:
            self.log.append((seconds, what))

    def _count_http(self, kind: Any) -> None:
        send = kind.send

        def counted(client: Any, request: Any, **options: Any) -> Any:
            url = str(request.url)
            if self._api and url.startswith(self._api):
                path = urlsplit(url.removeprefix(self._api)).path
                self._note(f"prefect {request.method} {path}")
                for event in json.loads(request.content) if (request.method, path) == ("POST", "/events") else ():
                    self._note(f"sent together: event {event['event']}")  # one message, and not one each
            elif url.startswith(self._loova):
                path = urlsplit(url).path
                self._note(f"loova {request.method} {path if '/v1/' in path else 'the video'}")
            return send(client, request, **options)

        kind.send = counted

    def _count_events(self) -> None:
        from prefect.events.clients import EventsClient

        emit, seen = EventsClient.emit, set[bytes]()

        async def counted(client: EventsClient, event: Any) -> None:
            if event.id.bytes not in seen:  # Prefect sends unconfirmed ones again when it connects anew
                seen.add(event.id.bytes)
                self._note(f"event {event.event}")
            await emit(client, event)

        EventsClient.emit = counted  # type: ignore[method-assign]

    def _s3(self, request: Any, event_name: str, **_: Any) -> None:
        url = urlsplit(request.url)
        key = url.path.split("/", 2)[2] if url.path.count("/") > 1 else ""
        self._note(f"s3 {event_name.rpartition('.')[2]} {key}")
