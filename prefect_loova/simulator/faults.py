"""Faults: each says which requests it hits and how it changes their responses.

A fault changes only what it names, and leaves the rest of the response. `FAULTS` holds common ones by name:
`simulator.fail("lost_reply")` or `simulator.fail("bad_gateway", on="poll", times=3)`. You can also write your own:
`simulator.fail(on="poll", status=503, headers={"Retry-After": "2"}, apply=False)`.
"""

from __future__ import annotations

import json
import threading
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

On = Literal["submit", "poll", "credits", "video"]


class Fault(BaseModel):
    """One way to misbehave. A request meets at most one fault: the first added one that matches.

    Raises:
        pydantic.ValidationError: A field is unknown, has the wrong type, or has no meaning for `on`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: On = Field(description="Which requests it hits: submits, polls, reads of the credits, or downloads of a video.")
    times: int | None = Field(1, ge=1, description="How many matching requests it hits; None: all.")
    skip: int = Field(0, ge=0, description="How many matching requests it lets pass first.")
    task_id: str | None = Field(None, description="Only this task (poll, video).")
    prompt: str | None = Field(None, description="Only requests whose prompt contains this text (not credits).")
    state: Literal["running", "succeeded"] | None = Field(None, description="Only tasks in this state (poll).")
    tasks: int | None = Field(None, ge=1, description="Only the first N different tasks that it meets (poll, video).")

    apply: bool = Field(True, description="Whether the request still takes effect (a submit is billed).")
    delay_seconds: float = Field(0, ge=0, description="Seconds to wait before the response, after the effect.")

    status: int | None = Field(None, ge=200, le=599, description="Another HTTP status, also as the envelope's code.")
    headers: dict[str, str] = Field({}, description="Headers to add or replace.")
    content_type: str | None = Field(None, description="Another Content-Type.")
    body: str | dict[str, JsonValue] | None = Field(
        None, description="Another body: a text, '' for an empty one, or an object that is sent as JSON."
    )
    envelope: dict[str, JsonValue] | None = Field(None, description="Merged deeply into the envelope (not video).")
    redirect_to: str | None = Field(None, description="Redirect (302) to this URL; '{url}' is the requested one.")

    announce: int | None = Field(None, description="Serve video[:announce] as if it were the whole file (video).")
    strip_box: str | None = Field(
        None, min_length=4, max_length=4, description="Leave out this top-level mp4 box (video)."
    )

    drop: bool = Field(False, description="Close the connection without sending a byte.")
    cut_at: int | None = Field(None, description="Send only body[:cut_at] of the announced length, then close.")
    reset: bool = Field(False, description="Close with a TCP reset. Implies `drop` without `cut_at`.")

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        meaningless = {
            "submit": ("task_id", "state", "tasks", "announce", "strip_box"),
            "poll": ("announce", "strip_box"),
            "credits": ("task_id", "prompt", "state", "tasks", "announce", "strip_box"),
            "video": ("state", "envelope"),
        }[self.on]
        given = [name for name in meaningless if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: has no meaning on {self.on!r}")
        return self

    @property
    def content(self) -> bytes:
        """Return the bytes of the other body."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    @property
    def drops(self) -> bool:
        """Return whether no byte of a response is sent."""
        return self.drop or (self.reset and self.cut_at is None)


def _named(**faults: dict[str, Any]) -> dict[str, Fault]:
    return {name: Fault(**fields) for name, fields in faults.items()}


_NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center><hr>nginx</body>\r\n</html>\r\n"
)


def _gateway(status: int, phrase: str, **more: Any) -> dict[str, Any]:
    return {
        "on": "submit",
        "status": status,
        "body": _NGINX.format(f"{status} {phrase}"),
        "content_type": "text/html",
    } | more


def _says(code: int, message: str, **more: Any) -> dict[str, Any]:
    return {"on": "submit", "apply": False, "envelope": {"code": code, "message": message, "data": None}} | more


_DELAYED = "Too many running tasks: your request is delayed and queued"


def _hides_the_task(code: int, message: str, data: JsonValue, status: int = 200, **beside: Any) -> dict[str, Any]:
    kept = data and {"task_id": None, "status": None, "created_at": None, "credits_cost": None} | dict(data)  # type: ignore[arg-type]
    envelope = {"code": code, "message": message, "data": kept} | beside
    return {"on": "submit", "status": status if status != 200 else None, "envelope": envelope}


def _result(status: str, **result: Any) -> dict[str, Any]:
    envelope = {"data": {"status": status, "result": {"status": status} | result}}
    return {"on": "poll", "state": "succeeded", "times": None, "envelope": envelope}


FAULTS: dict[str, Fault] = _named(
    # Submits that are billed, with a response that does not say so.
    lost_reply={"on": "submit", "drop": True},
    reset_reply={"on": "submit", "reset": True},
    cut_reply={"on": "submit", "cut_at": 20},
    slow_reply={"on": "submit", "delay_seconds": 2},
    bad_gateway_after_billing=_gateway(502, "Bad Gateway"),
    gateway_timeout_after_billing=_gateway(504, "Gateway Time-out"),
    html=_gateway(200, "Welcome"),
    not_json={"on": "submit", "body": '{"code": 200, "data": {"task_id": '},
    empty_body={"on": "submit", "body": ""},
    success_code_without_data={"on": "submit", "envelope": {"code": 200, "message": "success", "data": None}},
    delayed_by_the_limit=_hides_the_task(200, _DELAYED, {"record_id": "record-1", "status": "queued"}),
    delayed_by_the_limit_with_429=_hides_the_task(429, _DELAYED, {"task": {"task_id": "task-1"}}),
    accepted_without_data=_hides_the_task(200, "Task created", None, status=202),
    accepted_in_chinese=_hides_the_task(200, "任务已创建，排队中", None),
    task_beside_data=_hides_the_task(10001, "See the task", None, task_id="task-1"),
    # Submits that are not billed.
    lost_request={"on": "submit", "apply": False, "drop": True},
    bad_gateway=_gateway(502, "Bad Gateway", apply=False),
    unavailable=_gateway(503, "Service Unavailable", apply=False, headers={"Retry-After": "1"}),
    internal_error=_says(500, "Internal server error", status=500),
    submit_redirect={"on": "submit", "apply": False, "redirect_to": "{url}"},
    too_many_running_tasks=_says(429, "Too many running tasks: at most 6", status=429),
    too_many_running_tasks_as_success=_says(200, "Too many running tasks: at most 6"),
    insufficient_credits=_says(402, "Insufficient credits", status=402),
    insufficient_credits_as_success=_says(200, "Insufficient credits"),
    authentication_failed=_says(401, "Authentication failed", status=401),
    refused_by_code=_says(10001, "The prompt holds words that are not allowed"),
    refused_as_success=_says(200, "The prompt holds words that are not allowed"),
    prompt_refused=_says(400, "The prompt was refused by **moderation** <b>&</b>", status=400),
    content_refused=_says(400, "The input text may contain sensitive information", status=400),
    # Polls. The first is the example of Loova's quickstart.
    contradiction={"on": "poll", "state": "succeeded", "times": None, "envelope": {"data": {"status": "running"}}},
    unknown_status={"on": "poll", "envelope": {"data": {"status": "post_processing", "result": None}}},
    success_without_url=_result("succeeded", video_url=None),
    generation_failed=_result("failed", video_url=None, error_message="The generation failed (simulated)")
    | {"tasks": 1},
    content_refused_output=_result("failed", video_url=None, error_message="OutputVideoSensitiveContentDetected")
    | {"tasks": 1},
    task_forgotten={"on": "poll", "status": 404, "envelope": {"message": "Task not found", "data": None}},
    poll_without_data={"on": "poll", "envelope": {"data": None}},
    poll_unavailable={
        "on": "poll",
        "status": 503,
        "headers": {"Retry-After": "1"},
        "body": "",
        "content_type": "text/html",
    },
    poll_lost={"on": "poll", "drop": True},
    # Downloads.
    video_403={"on": "video", "status": 403, "body": "Forbidden", "content_type": "text/plain"},
    video_404={"on": "video", "status": 404, "body": "Not found", "content_type": "text/plain"},
    video_500={"on": "video", "status": 500, "body": "Internal error", "content_type": "text/plain"},
    video_html={"on": "video", "body": "<html><body>Please wait</body></html>", "content_type": "text/html"},
    video_empty={"on": "video", "body": ""},
    video_short={"on": "video", "announce": -1000},
    video_cut={"on": "video", "cut_at": 5000},
    video_reset={"on": "video", "cut_at": 5000, "reset": True},
    video_lost={"on": "video", "drop": True},
    video_without_moov={"on": "video", "strip_box": "moov"},
    redirect={"on": "video", "redirect_to": "{url}"},
    redirect_for_ever={"on": "video", "redirect_to": "{url}", "times": None},
)
"""Common faults by name.

Submits that are billed, with a lost or unreadable response: `lost_reply` (closed without a byte), `reset_reply`,
`cut_reply`, `slow_reply` (2 s), `bad_gateway_after_billing`, `gateway_timeout_after_billing`, `html`, `not_json`,
`empty_body`, `success_code_without_data`; `delayed_by_the_limit`, `delayed_by_the_limit_with_429` (a message about the
limit, and a task under another name), `accepted_without_data` (HTTP 202), `accepted_in_chinese`, `task_beside_data`.

Submits that are not billed: `lost_request`, `bad_gateway`, `unavailable` (503 with Retry-After), `internal_error`,
`submit_redirect`, `too_many_running_tasks`, `insufficient_credits` (both also `..._as_success`, with HTTP 200 and code
200, which Loova's reference allows), `authentication_failed`, `refused_by_code` (HTTP 200 and code 10001),
`refused_as_success` (code 200), `prompt_refused`, `content_refused`.

Polls: `contradiction` (the quickstart's `running` beside a succeeded result), `unknown_status`, `success_without_url`,
`generation_failed` and `content_refused_output` (every poll of the first task they meet), `task_forgotten`,
`poll_without_data`, `poll_unavailable`, `poll_lost`.

Downloads: `video_403`, `video_404`, `video_500`, `video_html`, `video_empty` (0 bytes), `video_short` (a response of
the right length, without the last 1,000 bytes of the video), `video_cut` (closed after 5,000 bytes), `video_reset`,
`video_lost`, `video_without_moov`, `redirect` (once, to the same URL), `redirect_for_ever`.
"""


def named(name: str, **fields: Any) -> Fault:
    """Return a fault of `FAULTS`, with some fields changed.

    Raises:
        ValueError: No fault has this name, or a field is invalid.
    """
    if name not in FAULTS:
        raise ValueError(f"{name!r} was given: must be one of {', '.join(FAULTS)}")
    return Fault(**(FAULTS[name].model_dump() | fields))


class Faults:
    """The pending faults. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[_PendingFault] = []

    def add(self, fault: Fault | str | None = None, **fields: Any) -> Fault:
        """Add a fault, with some fields changed, and return it. See `LoovaSimulator.fail`.

        Raises:
            ValueError: No fault has this name, or a field is invalid (pydantic.ValidationError).
        """
        known = named(fault) if isinstance(fault, str) else fault
        added = Fault(**((known.model_dump() if known else {}) | fields))
        with self._lock:
            self._pending.append(_PendingFault(added))
        return added

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._pending.clear()

    def pending(self) -> list[dict[str, Any]]:
        """Return the pending faults, each with its number of hits."""
        with self._lock:
            return [{"hits": one.hits} | one.fault.model_dump(exclude_defaults=True) for one in self._pending]

    def take(
        self, on: On, *, task_id: str | None = None, prompt: str | None = None, state: str | None = None
    ) -> Fault | None:
        """Return the fault that hits this request, if any, and count the hit."""
        with self._lock:
            hit = next((one for one in self._pending if one.hit(on, task_id, prompt, state)), None)
            if hit and hit.hits == hit.fault.times:
                self._pending.remove(hit)
            return hit.fault if hit else None


class _PendingFault:
    """A fault, and the requests that it has met so far."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.hits = 0
        self._skipped = 0
        self._tasks: set[str] = set()

    def hit(self, on: On, task_id: str | None, prompt: str | None, state: str | None) -> bool:
        fault = self.fault
        if (
            fault.on != on
            or fault.task_id not in (None, task_id)
            or fault.state not in (None, state)
            or (fault.prompt is not None and fault.prompt not in (prompt or ""))
        ):
            return False
        if fault.tasks is not None:
            if task_id is None or (task_id not in self._tasks and len(self._tasks) >= fault.tasks):
                return False
            self._tasks.add(task_id)
        if self._skipped < fault.skip:
            self._skipped += 1
            return False
        self.hits += 1
        return True
