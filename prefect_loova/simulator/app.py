"""The API itself: submit, poll and credits under `/api/v1` and `/v1`, and the simulator's own pages."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_loova.simulator.faults import Fault, Faults
from prefect_loova.simulator.fetching import Fetching
from prefect_loova.simulator.ledger import Ledger, Task
from prefect_loova.simulator.submits import Refusal, read_fields, validated
from prefect_loova.simulator.videos import VideoHost
from prefect_loova.simulator.wire import Reply

Envelope = dict[str, Any]


class Api:
    """The API host: every answer of it is the documented envelope."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        videos: VideoHost,
        fetching: Fetching,
        *,
        api_key: str,
        max_running: int,
        generation_seconds: float,
        video_origin: Callable[[str], str],
    ) -> None:
        """Answer those who have the key; `video_origin` gives the origin of video URLs for an API host's name."""
        self._books = ledger
        self._faults = faults
        self._videos = videos
        self._fetching = fetching
        self._api_key = api_key
        self._max_running = max_running
        self._generation_seconds = generation_seconds
        self._video_origin = video_origin
        calls = [
            Route(prefix + path, handler, methods=[method])
            for prefix in ("/api/v1", "/v1")
            for path, handler, method in (
                ("/video/seedance-2", self._submit, "POST"),
                ("/tasks", self._poll, "GET"),
                ("/credits", self._credits, "GET"),
            )
        ]
        own = [
            Route("/_simulator/ledger", self._ledger),
            Route("/_simulator/tasks/{task_id}/sha256", self._sha256),
            Route("/_simulator/faults", self._show_faults, methods=["GET"]),
            Route("/_simulator/faults", self._add_faults, methods=["POST"]),
            Route("/_simulator/faults", self._clear_faults, methods=["DELETE"]),
            Route("/_simulator/clock", self._advance, methods=["POST"]),
        ]
        handlers = {HTTPException: _http_error, Refusal: _refusal, Exception: _unexpected}
        self.app = Starlette(routes=[*calls, *own], exception_handlers=handlers)  # type: ignore[arg-type]

    async def _submit(self, request: Request) -> Response:
        post = self._books.posted()
        try:
            fields = await read_fields(request)
            unreadable = None
        except Refusal as refusal:
            fields, unreadable = {}, refusal
        self._books.read(post, fields)

        def effect() -> Envelope:
            try:
                self._check_key(request)
                if unreadable:
                    raise unreadable
                order = validated(fields)
                found = self._fetching.found(order)
                task = self._books.buy(post, order, self._max_running, self._generation_seconds, found)
            except Refusal as refusal:
                self._books.refused(post, refusal.message)
                raise
            self._fetching.begin(task)
            return self._shown(task, "task_id", "status", "created_at", "credits_cost")

        prompt = fields.get("prompt")
        fault = self._faults.take("submit", prompt=prompt if isinstance(prompt, str) else None)
        if "files" in fields:  # They are decoded on the way, which takes its time.
            return await asyncio.to_thread(_answer, request, fault, effect)
        return _answer(request, fault, effect)

    async def _poll(self, request: Request) -> Response:
        task_id = request.query_params.get("task_id", "")
        self._books.count("polls", task_id)
        task = self._books.task(task_id)

        def effect() -> Envelope:
            self._check_key(request)
            if not task_id:
                raise Refusal(400, "task_id: is missing: must be the id of a task")
            if task is None:
                raise Refusal(404, f"Task not found: {task_id[:120]}")
            return self._poll_data(task, request.url.hostname or "")

        prompt, state = (task.request["prompt"], task.status(self._books.now())) if task else (None, None)
        fault = self._faults.take("poll", task_id=task_id, prompt=prompt, state=state)
        return _answer(request, fault, effect)

    async def _credits(self, request: Request) -> Response:
        self._books.count("credits_calls")

        def effect() -> Envelope:
            self._check_key(request)
            available, total = (int(n) if n.is_integer() else n for n in self._books.credits())
            return {"api_available_credits": available, "api_total_credits": total}

        return _answer(request, self._faults.take("credits"), effect)

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._api_key.encode()):
            raise Refusal(401, "Authentication failed")

    def _shown(self, task: Task, *names: str) -> Envelope:
        now = self._books.now()
        values = {
            "task_id": task.task_id,
            "status": task.status(now),
            "model": task.request["model"],
            "created_at": _iso(task.created_at),
            "updated_at": _iso(min(now, task.finishes_at)),
            "credits_cost": task.credits_cost,
        }
        return {name: values[name] for name in names or values}

    def _poll_data(self, task: Task, host: str) -> Envelope:
        data = self._shown(task)
        if data["status"] == "running":
            return data | {"result": None}
        url = None if task.problem else self._video_origin(host) + self._videos.path_of(task.task_id)
        result = {"status": data["status"], "video_url": url, "error_message": task.problem}
        result["finished_at"] = _iso(task.finishes_at)
        return data | {"result": result}

    async def _ledger(self, _: Request) -> Response:
        return JSONResponse(self._books.ledger())

    async def _sha256(self, request: Request) -> Response:
        task = self._books.task(request.path_params["task_id"])
        if task is None:
            raise Refusal(404, "Task not found")
        if task.is_fetching or task.problem:
            raise Refusal(404, "The task has no video")
        return JSONResponse(await asyncio.to_thread(self.checksum, task))

    def checksum(self, task: Task) -> dict[str, Any]:
        """Size in bytes and SHA-256 of the whole video of a task, served or not; it is rendered if need be."""
        film = self._videos.film_of(task)
        self._books.served(task.task_id, film.size, film.sha256)
        return {"task_id": task.task_id, "size": film.size, "sha256": film.sha256}

    async def _show_faults(self, _: Request) -> Response:
        return JSONResponse(self._faults.waiting())

    async def _add_faults(self, request: Request) -> Response:
        try:
            given = json.loads(await request.body())
            for fields in given if isinstance(given, list) else [given]:
                self._faults.add(fields.pop("name", None), **fields)
        except (ValidationError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(400, str(error)) from None
        return await self._show_faults(request)

    async def _clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return await self._show_faults(request)

    async def _advance(self, request: Request) -> Response:
        try:
            self._books.advance(float(json.loads(await request.body())["advance_seconds"]))
        except (ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f'must be JSON like {{"advance_seconds": 60}} ({error})') from None
        return JSONResponse({"now": self._books.now()})


def _answer(request: Request, fault: Fault | None, effect: Callable[[], Envelope]) -> Response:
    """Let the request take effect, unless the fault says no, and answer, as the fault has it."""
    if fault is None or fault.apply:
        try:
            status, envelope = 200, _envelope(200, "success", effect())
        except Refusal as refusal:
            status, envelope = refusal.status, _envelope(refusal.status, refusal.message)
    else:
        status, envelope = 200, _envelope(200, None)
    headers = {"content-type": "application/json"}
    if fault is None:
        return Reply(status, headers, _dumped(envelope))
    if fault.status is not None:
        status = fault.status
        envelope = _envelope(status, _phrase(status), envelope["data"] if status < 300 else None)
    if fault.redirect_to is not None:
        status = fault.status or 302
        headers["location"] = fault.redirect_to.replace("{url}", str(request.url))
    if fault.content_type is not None:
        headers["content-type"] = fault.content_type
    body = _dumped(_merged(envelope, fault.envelope or {})) if fault.body is None else fault.body.encode()
    return Reply(status, headers, body, fault=fault)


def _envelope(code: int, message: str | None, data: Envelope | None = None) -> Envelope:
    return {"code": code, "trace_id": f"simulator-{secrets.token_hex(8)}", "message": message, "data": data}


def _dumped(envelope: Envelope) -> bytes:
    return json.dumps(envelope).encode()


def _merged(into: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    kept = into if isinstance(into, dict) else {}
    return kept | {name: _merged(kept.get(name), value) for name, value in patch.items()}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _http_error(_: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {}) | {"content-type": "application/json"}
    return Reply(error.status_code, headers, _dumped(_envelope(error.status_code, error.detail)))


async def _refusal(_: Request, refusal: Refusal) -> Response:
    headers = {"content-type": "application/json"}
    return Reply(refusal.status, headers, _dumped(_envelope(refusal.status, refusal.message)))


async def _unexpected(_: Request, error: Exception) -> Response:
    message = f"The simulator failed: {type(error).__name__}: {error}"
    return Reply(500, {"content-type": "application/json"}, _dumped(_envelope(500, message)))
