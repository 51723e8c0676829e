"""The API: submit, poll and credits under `/api/v1` and `/v1`, and the simulator's own endpoints."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
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
from prefect_loova.simulator.ledger import Ledger, Task
from prefect_loova.simulator.media_fetcher import MediaFetcher
from prefect_loova.simulator.rules import ExtraModel
from prefect_loova.simulator.submit_request import Refusal, read_fields, validate
from prefect_loova.simulator.videos import VideoHost
from prefect_loova.simulator.wire import Reply

Envelope = dict[str, Any]

_SUBMIT_PATH = "/video/seedance-2"


class Api:
    """The API host. The body of every response is the documented envelope."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        videos: VideoHost,
        media_fetcher: MediaFetcher,
        *,
        api_key: str,
        max_running: int,
        generation_seconds: float,
        video_origin: Callable[[str], str],
        extra_models: Mapping[str, ExtraModel],
    ) -> None:
        """Set up the routes.

        Args:
            ledger: Stores posts and tasks.
            faults: The faults to apply.
            videos: Signs the URLs of videos.
            media_fetcher: Fetches reference media.
            api_key: The only accepted key.
            max_running: How many tasks may run at a time.
            generation_seconds: How long a task runs.
            video_origin: Returns the origin of video URLs for the host name that the client used for the API.
            extra_models: Models beside Loova's, by name.
        """
        self._ledger = ledger
        self._faults = faults
        self._videos = videos
        self._media_fetcher = media_fetcher
        self._api_key = api_key
        self._max_running = max_running
        self._generation_seconds = generation_seconds
        self._video_origin = video_origin
        self._extra_models = extra_models
        paths = {_SUBMIT_PATH, *(model.path for model in extra_models.values())}
        calls = [
            Route(prefix + path, handler, methods=[method])
            for prefix in ("/api/v1", "/v1")
            for path, handler, method in (
                *((path, self._submit, "POST") for path in paths),
                ("/tasks", self._poll, "GET"),
                ("/credits", self._credits, "GET"),
            )
        ]
        own = [
            Route("/_simulator/ledger", self._show_ledger),
            Route("/_simulator/tasks/{task_id}/sha256", self._sha256),
            Route("/_simulator/faults", self._show_faults, methods=["GET"]),
            Route("/_simulator/faults", self._add_faults, methods=["POST"]),
            Route("/_simulator/faults", self._clear_faults, methods=["DELETE"]),
            Route("/_simulator/clock", self._advance, methods=["POST"]),
        ]
        handlers = {HTTPException: _on_http_error, Refusal: _on_refusal, Exception: _on_bug}
        self.app = Starlette(routes=[*calls, *own], exception_handlers=handlers)  # type: ignore[arg-type]

    async def _submit(self, request: Request) -> Response:
        post = self._ledger.add_post()
        try:
            fields = await read_fields(request)
            unreadable = None
        except Refusal as refusal:
            fields, unreadable = {}, refusal
        self._ledger.set_fields(post, fields)

        def effect() -> Envelope:
            try:
                self._check_key(request)
                if unreadable:
                    raise unreadable
                submitted = validate(fields, self._extra_models)
                path = submitted.extra_model.path if submitted.extra_model else _SUBMIT_PATH
                if not request.url.path.endswith(f"/v1{path}"):
                    raise Refusal(404, f"{submitted.model} is submitted to /v1{path}")
                media = self._media_fetcher.read_files(submitted)
                task = self._ledger.bill(post, submitted, self._max_running, self._generation_seconds, media)
            except Refusal as refusal:
                self._ledger.set_refused(post, refusal.message)
                raise
            self._media_fetcher.start(task)
            return self._task_data(task, "task_id", "status", "created_at", "credits_cost")

        prompt = fields.get("prompt")
        fault = self._faults.take("submit", prompt=prompt if isinstance(prompt, str) else None)
        if "files" in fields:  # Decoding them blocks.
            return await asyncio.to_thread(_respond, request, fault, effect)
        return _respond(request, fault, effect)

    async def _poll(self, request: Request) -> Response:
        task_id = request.query_params.get("task_id", "")
        self._ledger.count("polls", task_id)
        task = self._ledger.task(task_id)

        def effect() -> Envelope:
            self._check_key(request)
            if not task_id:
                raise Refusal(400, "task_id: is missing: must be the id of a task")
            if task is None:
                raise Refusal(404, f"Task not found: {task_id[:120]}")
            return self._poll_data(task, request.url.hostname or "")

        prompt, state = (task.request["prompt"], task.status(self._ledger.now())) if task else (None, None)
        fault = self._faults.take("poll", task_id=task_id, prompt=prompt, state=state)
        return _respond(request, fault, effect)

    async def _credits(self, request: Request) -> Response:
        self._ledger.count("credits_calls")

        def effect() -> Envelope:
            self._check_key(request)
            available, total = (int(n) if n.is_integer() else n for n in self._ledger.credits())
            return {"api_available_credits": available, "api_total_credits": total}

        return _respond(request, self._faults.take("credits"), effect)

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._api_key.encode()):
            raise Refusal(401, "Authentication failed")

    def _task_data(self, task: Task, *names: str) -> Envelope:
        now = self._ledger.now()
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
        data = self._task_data(task)
        if data["status"] == "running":
            return data | {"result": None}
        url = None if task.problem else self._video_origin(host) + self._videos.path_of(task.task_id)
        result = {"status": data["status"], "video_url": url, "error_message": task.problem}
        result["finished_at"] = _iso(task.finishes_at)
        return data | {"result": result}

    async def _show_ledger(self, _: Request) -> Response:
        return JSONResponse(self._ledger.snapshot())

    async def _sha256(self, request: Request) -> Response:
        task = self._ledger.task(request.path_params["task_id"])
        if task is None:
            raise Refusal(404, "Task not found")
        if task.is_fetching or task.problem:
            raise Refusal(404, "The task has no video")
        return JSONResponse(await asyncio.to_thread(self.checksum, task))

    def checksum(self, task: Task) -> dict[str, Any]:
        """Return size in bytes and SHA-256 of a task's whole video. Renders the video if needed."""
        film = self._videos.film_of(task)
        self._ledger.set_video(task.task_id, film.size, film.sha256)
        return {"task_id": task.task_id, "size": film.size, "sha256": film.sha256}

    async def _show_faults(self, _: Request) -> Response:
        return JSONResponse(self._faults.pending())

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
            self._ledger.advance(float(json.loads(await request.body())["advance_seconds"]))
        except (ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f'must be JSON like {{"advance_seconds": 60}} ({error})') from None
        return JSONResponse({"now": self._ledger.now()})


def _respond(request: Request, fault: Fault | None, effect: Callable[[], Envelope]) -> Response:
    """Run the effect of a request, unless the fault prevents it, and return the response that the fault leaves."""
    if fault is None or fault.apply:
        try:
            status, envelope = 200, _envelope(200, "success", effect())
        except Refusal as refusal:
            status, envelope = refusal.status, _envelope(refusal.status, refusal.message)
    else:
        status, envelope = 200, _envelope(200, None)
    headers = {"content-type": "application/json"}
    if fault is None:
        return Reply(status, headers, _to_json(envelope))
    if fault.status is not None:
        status = fault.status
        envelope = _envelope(status, _phrase(status), envelope["data"] if status < 300 else None)
    if fault.redirect_to is not None:
        status = fault.status or 302
        headers["location"] = fault.redirect_to.replace("{url}", str(request.url))
    if fault.content_type is not None:
        headers["content-type"] = fault.content_type
    body = _to_json(_merge(envelope, fault.envelope or {})) if fault.body is None else fault.content
    return Reply(status, headers, body, fault=fault)


def _envelope(code: int, message: str | None, data: Envelope | None = None) -> Envelope:
    return {"code": code, "trace_id": f"simulator-{secrets.token_hex(8)}", "message": message, "data": data}


def _to_json(envelope: Envelope) -> bytes:
    return json.dumps(envelope).encode()


def _merge(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    fields = value if isinstance(value, dict) else {}
    return fields | {name: _merge(fields.get(name), change) for name, change in patch.items()}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _error_reply(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Reply(status, {**(headers or {}), "content-type": "application/json"}, _to_json(_envelope(status, message)))


async def _on_http_error(_: Request, error: HTTPException) -> Response:
    return _error_reply(error.status_code, error.detail, error.headers)


async def _on_refusal(_: Request, refusal: Refusal) -> Response:
    return _error_reply(refusal.status, refusal.message)


async def _on_bug(_: Request, error: Exception) -> Response:
    return _error_reply(500, f"The simulator failed: {type(error).__name__}: {error}")
