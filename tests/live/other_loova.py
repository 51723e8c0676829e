"""A second simulated Loova, by another hand: the standard library, and the bodies of Loova's quickstart.

It shares nothing with `prefect_loova.simulator`. Failures have HTTP status 200, a task needs two polls, and the second
poll says `running` beside a succeeded result. `change` may alter each answer before it is sent.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "other-loova-key-1234"
RATIOS = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")


@dataclass
class Answer:
    """One answer, before it is sent.

    Attributes:
        endpoint: `submit`, `poll`, `credits`, `video`, or the path of an unknown one.
        asked: The fields of the request.
        task_id: The task that is asked for.
        key: The key in the request.
        origin: Scheme, host and port that were asked.
        body: The envelope, or the bytes of the video.
        status: The HTTP status; 0 closes the connection without an answer.
    """

    endpoint: str
    asked: dict[str, Any]
    task_id: str
    key: str
    origin: str
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class OtherLoova:
    """Serves on loopback inside a `with` block.

    Args:
        video: The mp4 that every task makes.
        change: Alters an answer before it is sent.
    """

    def __init__(self, video: bytes, change: Callable[[Answer], None] = lambda answer: None) -> None:
        self.video = video
        self.change = change
        self.bought: list[dict[str, Any]] = []
        self.posts: list[str] = []
        self.polls: dict[str, int] = {}
        self.video_keys: list[str] = []

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"loova": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.base_url, self.video_host = (f"http://127.0.0.1:{one.server_port}" for one in self._servers)
        self.base_url += "/api"
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def answer(self, endpoint: str, asked: dict[str, Any], task_id: str, key: str) -> Any:
        """Return the body of the answer to a request."""
        if endpoint == "video":
            return self.video
        if key != KEY:
            return _envelope(None, 401, "Authentication failed")
        if endpoint == "credits":
            spent = 12 * len(self.bought)
            return _envelope({"api_available_credits": 47995 - spent, "api_total_credits": 51000}, message=None)
        if endpoint == "submit":
            return self._submit(asked)
        if endpoint == "poll":
            return self._poll(task_id)
        return _envelope(None, 404, "Not found")

    def _submit(self, asked: dict[str, Any]) -> Any:
        images, audios, videos = (asked.get(f"{kind}_urls", []) for kind in ("image", "audio", "video"))
        frames = asked.get("function_mode") == "first_last_frames"
        valid = (
            asked.get("prompt", "").strip()
            and asked.get("model", "seedance_2_0") in ("seedance_2_0", "seedance_2_0_fast")
            and (frames or asked.get("function_mode", "omni_reference") == "omni_reference")
            and asked.get("ratio", "16:9") in RATIOS
            and 4 <= asked.get("duration", 5) <= 15
            and (1 <= len(images) <= 2 if frames else len(images) <= 9)
            and (images or videos or not audios)
        )
        if not valid:
            return _envelope(None, 10001, "invalid parameters")
        self.bought.append(asked)
        data = {"task_id": "record_id", "status": "running", "created_at": "2024-01-01T12:00:00Z", "credits_cost": 12.0}
        return _envelope(data)

    def _poll(self, task_id: str) -> Any:
        if task_id != "record_id" or not self.bought:
            return _envelope(None, 404, "task lookup failure")
        self.polls[task_id] = self.polls.get(task_id, 0) + 1
        url = f"{self.video_host}/v.mp4?Expires={int(time.time()) + 86_400}&Signature=secret-signature"
        result = {"status": "succeeded", "video_url": url, "error_message": None, "finished_at": "2024-01-01T12:02:00Z"}
        return _envelope(
            {
                "task_id": "record_id",
                "status": "running",
                "model": self.bought[0].get("model"),
                "created_at": "2024-01-01T12:00:00Z",
                "updated_at": "2024-01-01T12:00:05Z",
                "credits_cost": 12.0,
                "result": result if self.polls[task_id] > 1 else None,
            }
        )


def _envelope(data: Any, code: int = 200, message: str | None = "success") -> dict[str, Any]:
    return {"code": code, "trace_id": "trace_xxx", "message": message, "data": data}


class _Handler(BaseHTTPRequestHandler):
    loova: OtherLoova
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # In two small writes, an answer takes 40 ms.

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._serve(json.loads(content))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self, asked: dict[str, Any]) -> None:
        url = urlsplit(self.path)
        paths = {"/api/v1/video/seedance-2": "submit", "/api/v1/tasks": "poll", "/api/v1/credits": "credits"}
        endpoint = "video" if url.path.endswith(".mp4") else paths.get(url.path, url.path)
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        task_id = parse_qs(url.query).get("task_id", [""])[0]
        if endpoint == "submit":
            self.loova.posts.append(key)
        if endpoint == "video":
            self.loova.video_keys.append(key)
        body = self.loova.answer(endpoint, asked, task_id, key)
        answer = Answer(endpoint, asked, task_id, key, f"http://{self.headers['Host']}", body)
        if isinstance(answer.body, bytes):
            self._serve_part(answer)
        self.loova.change(answer)
        self._send(answer)

    def _serve_part(self, answer: Answer) -> None:
        answer.headers = {"Content-Type": "video/mp4", "ETag": '"v1"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part and self.headers.get("If-Range", '"v1"') == '"v1"':
            start, last = int(part[1]), int(part[2])
            answer.status = 206
            answer.headers["Content-Range"] = f"bytes {start}-{last}/{len(answer.body)}"
            answer.body = answer.body[start : last + 1]

    def _send(self, answer: Answer) -> None:
        if not answer.status:
            self.close_connection = True
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        usual = {"Content-Length": str(len(content)), "Content-Type": "application/json"}
        for name, value in (usual | answer.headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if answer.headers.get("Content-Length") == "":
            self.close_connection = True
