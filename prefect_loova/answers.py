"""How Loova's answers are read: pure functions from an HTTP answer to a value or an error.

Every answer is an envelope of `code`, `trace_id`, `message` and `data`; a business failure may come back with the
success code, so an answer counts only when `data` holds what was asked for. What the sources leave open is treated as
hostile: unknown fields are ignored, unknown states are not terminal, and a submit's answer that is not understood is
in doubt.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InsufficientCreditsError,
    LoovaError,
    RejectedError,
    Spent,
    TaskNotFoundError,
    TooManyRunningTasksError,
    UnexpectedResponseError,
)
from prefect_loova.models import CreditBalance, VideoTask

SUCCEEDED = frozenset({"succeeded", "success", "completed"})
FAILED = frozenset({"failed", "error", "canceled", "cancelled"})
"""Words for an end that the sources show (get-task-status and public clients). The list is not closed."""

TOO_MANY = re.compile(
    r"\b(too many (running |concurrent |active )?(tasks|generations|requests)|(concurren\w+|running task|rate) limit"
    r"|limit of (running|concurrent) tasks|at most \d+ (running |concurrent )?tasks)\b",
    re.IGNORECASE,
)
"""The one pattern for a refusal because too many tasks run; pricing-and-limits documents no code for it."""

_CREDITS = re.compile(r"\b(insufficient|not enough|no)\b[^.]{0,30}\b(credits?|balance)\b", re.IGNORECASE)
_LOGIN = re.compile(r"\b(authentication failed|unauthorized|invalid (api )?key|invalid token)\b", re.IGNORECASE)
_UNSETTLED_4XX = frozenset({408, 409, 425, 499})
"""Codes of the client's range that leave open whether the submit took effect."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, its envelope taken apart. What is missing or of the wrong type is None."""

    http_status: int
    code: int | None
    trace_id: str | None
    message: str | None
    data: dict[str, Any] | None
    retry_after: str | None = None
    holds_more: bool = False
    """Whether something stands where a task could be named, in `data` of whatever type or beside it."""

    @classmethod
    def read(cls, http_status: int, body: bytes, retry_after: str | None = None) -> Answer:
        """Take an answer apart. A body that is not an envelope has no code and no data."""
        try:
            envelope = json.loads(body)
        except (ValueError, RecursionError):
            envelope = None
        if not isinstance(envelope, dict):
            return cls(http_status, None, None, None, None, retry_after)
        code, data = _number(envelope.get("code")), envelope.get("data")
        return cls(
            http_status,
            int(code) if code is not None else None,
            _text(envelope.get("trace_id")),
            _text(envelope.get("message")),
            data if isinstance(data, dict) else None,
            retry_after,
            _may_name_a_task(data) or any("task" in name.lower() for name in envelope),
        )

    @property
    def task_id(self) -> str | None:
        """The task that the answer names, if it does."""
        value = (self.data or {}).get("task_id")
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)

    def without(self, secret: str) -> Answer:
        """This answer with a secret that the server echoes cut out of all that is shown; ids and URLs stay whole."""

        def cut(value: Any) -> Any:
            return value.replace(secret, "[API key]") if isinstance(value, str) else value

        def cut_all(values: dict[str, Any], but: str) -> dict[str, Any]:
            return {name: value if name == but else cut(value) for name, value in values.items()}

        data = self.data and cut_all(self.data, "task_id")
        if data and isinstance(data.get("result"), dict):
            data["result"] = cut_all(data["result"], "video_url")
        return replace(self, trace_id=cut(self.trace_id), message=cut(self.message), data=data)

    def error(self, kind: type[LoovaError], message: str, spent: Spent = "no") -> LoovaError:
        """An error that carries what the answer tells."""
        return kind(
            message,
            task_id=self.task_id,
            trace_id=self.trace_id,
            http_status=self.http_status,
            code=self.code,
            loova_message=self.message,
            credits_spent=spent,
        )

    @property
    def _says_something(self) -> bool:
        return (self.message or "success").strip().lower() not in ("success", "ok")

    def _is_code(self, *codes: int) -> bool:
        return self.http_status in codes or self.code in codes


def read_submit(answer: Answer, unavailable_means_refused: bool = False) -> VideoTask:
    """What a submit bought.

    Args:
        answer: Loova's answer to the POST.
        unavailable_means_refused: Whether 503 counts as a refusal (the user's choice; by default it is in doubt).

    Raises:
        RejectedError: Loova said no; nothing was bought.
        InDoubtError: The answer leaves open whether it was bought.
    """
    if answer.task_id is not None:
        # A task id in any answer, whatever its codes, is a purchase.
        return _task(answer, answer.task_id)
    refusal = _refusal(answer, unavailable_means_refused)
    if refusal is not None:
        kind, message = refusal
        raise answer.error(kind, message)
    raise answer.error(InDoubtError, "Loova's answer to the submit names no task and no refusal", "maybe")


def _refusal(answer: Answer, unavailable_means_refused: bool) -> tuple[type[LoovaError], str] | None:
    codes = {answer.http_status, answer.code}
    if codes & _UNSETTLED_4XX or any(code is not None and 500 <= code < 600 for code in codes - {503}):
        return None
    if 503 in codes:
        return (RejectedError, "Loova is unavailable") if unavailable_means_refused else None
    message = answer.message or ""
    client_error = any(code is not None and 400 <= code < 500 for code in codes)
    redirect = 300 <= answer.http_status < 400
    spoken = answer.http_status < 300 and answer.code == 200 and answer._says_something and not answer.holds_more
    quota = 429 in codes or TOO_MANY.search(message) is not None
    if not (client_error or redirect or spoken or quota):
        return None
    if quota:
        return TooManyRunningTasksError, "Loova runs as many tasks of this account as it allows"
    if answer._is_code(401) or _LOGIN.search(message):
        return AuthenticationError, "Loova does not accept the API key"
    if answer._is_code(402) or _CREDITS.search(message):
        return InsufficientCreditsError, "the account has not enough API credits for this request"
    if redirect:
        return RejectedError, "Loova answered the submit with a redirect, which is never followed: check the base URL"
    return RejectedError, "Loova refused the request"


def read_task(answer: Answer, task_id: str) -> VideoTask:
    """What a poll shows. A task that failed is a value here, not an error.

    Raises:
        TaskNotFoundError: Loova does not know the task.
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: The answer says nothing usable.
    """
    _check_read(answer)
    if answer.data is None or ("status" not in answer.data and "result" not in answer.data):
        raise answer.error(UnexpectedResponseError, f"Loova's answer does not show task {task_id}")
    if answer.task_id not in (None, task_id):
        raise answer.error(UnexpectedResponseError, f"Loova's answer shows another task than {task_id}")
    return _task(answer, task_id)


def read_credits(answer: Answer) -> CreditBalance:
    """What the account has.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: The answer says nothing usable.
    """
    _check_read(answer)
    data = answer.data or {}
    available, total = _number(data.get("api_available_credits")), _number(data.get("api_total_credits"))
    if available is None or total is None:
        raise answer.error(UnexpectedResponseError, "Loova's answer does not show the credits")
    return CreditBalance(available=available, total=total)


def _check_read(answer: Answer) -> None:
    if answer._is_code(401, 403):
        raise answer.error(AuthenticationError, "Loova does not accept the API key")
    if answer.http_status in (404, 410) or answer.code in (404, 410):
        raise answer.error(TaskNotFoundError, "Loova does not know this task, or it belongs to another account's key")
    if answer.http_status != 200 or answer.code != 200:
        raise answer.error(UnexpectedResponseError, "Loova did not answer as documented")


def _task(answer: Answer, task_id: str) -> VideoTask:
    data = answer.data or {}
    shown_result = data.get("result")
    result: dict[str, Any] = shown_result if isinstance(shown_result, dict) else {}
    url = _text(result.get("video_url"))
    return VideoTask(
        task_id=task_id,
        state=_state(_text(data.get("status")), _text(result.get("status")), url),
        status=_text(result.get("status")) or _text(data.get("status")),
        model=_text(data.get("model")),
        created_at=_time(data.get("created_at")),
        updated_at=_time(data.get("updated_at")),
        finished_at=_time(result.get("finished_at")),
        credits_cost=_number(data.get("credits_cost")),
        error_message=_text(result.get("error_message")),
        trace_id=answer.trace_id,
        video_url=url,
    )


def _state(status: str | None, result_status: str | None, url: str | None) -> Literal["running", "succeeded", "failed"]:
    """`result` decides where it says something: the quickstart shows `running` beside a succeeded result."""
    word = (result_status or "").lower()
    if word in FAILED:
        return "failed"
    if word in SUCCEEDED or url is not None:
        return "succeeded"
    if word:
        return "running"
    word = (status or "").lower()
    return "failed" if word in FAILED else "succeeded" if word in SUCCEEDED else "running"


def _may_name_a_task(data: Any) -> bool:
    """Whether `data` holds an id of some kind, or is of a type that this package does not know how to read."""
    if isinstance(data, dict):
        return any(value and re.search(r"id$|task", name.lower()) for name, value in data.items())
    return bool(data)


def _text(value: Any) -> str | None:
    # JSON may hold "\ud800", which is no character: no log, record or URL could carry it.
    return value.encode(errors="backslashreplace").decode().strip() or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
