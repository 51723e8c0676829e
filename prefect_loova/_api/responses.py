"""How Loova's answers are read: functions from an HTTP answer to a value or an error, without I/O.

Every answer is an envelope of `code`, `trace_id`, `message` and `data`; a business failure may come back with the
success code, so an answer counts only when `data` holds what was asked for. What the sources leave open is treated as
hostile: unknown fields are ignored, unknown states are not terminal, and a submit's answer that is not understood is
in doubt.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from prefect_loova._api import messages as wording
from prefect_loova._api.task_ids import evidence_of_task, evidence_of_task_in_text
from prefect_loova._redaction import hide_secrets
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
    redact,
)
from prefect_loova.models.request import CreditBalance, VideoTask

SUCCEEDED = frozenset({"succeeded", "success", "completed"})
FAILED = frozenset({"failed", "error", "canceled", "cancelled"})
"""Words for an end that the sources show (get-task-status and public clients). The list is not closed."""

_UNSETTLED_4XX = frozenset({408, 409, 425, 499})
"""Codes of the client's range that leave open whether the submit took effect."""

_LONGEST_ID = 1_000
_LONGEST_MESSAGE = 2_000
_LONGEST_WORD = 200
_LONGEST_URL = 16_384
"""The most characters of each text of Loova's that are kept. A task id is kept whole or not at all."""

_MOST_CREDITS = 1e9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, its envelope taken apart. What is missing or of the wrong type is None."""

    http_status: int
    code: int | None
    trace_id: str | None
    message: str | None
    data: dict[str, Any] | None
    retry_after: str | None = None
    holds_data: bool = False
    """Whether `data` is anything but empty."""
    trace: str | None = None
    """What in the answer may name a task, other than the documented `data.task_id`: where it is, and the value."""
    message_is_whole: bool = True
    """Whether `message` is all that Loova wrote there."""

    @classmethod
    def read(cls, http_status: int, body: bytes, retry_after: str | None = None, location: str | None = None) -> Answer:
        """Take an answer apart. A body that is not an envelope has no code and no data.

        Args:
            http_status: The HTTP status.
            body: The whole body.
            retry_after: The header of that name.
            location: The header of that name: it may name a task.
        """
        try:
            envelope = json.loads(body)
        except (ValueError, RecursionError):
            return cls(http_status, None, None, None, None, retry_after, trace=evidence_of_task_in_text(body, location))
        trace = evidence_of_task(envelope, location)
        if not isinstance(envelope, dict):
            return cls(http_status, None, None, None, None, retry_after, bool(envelope), trace)
        message, data = envelope.get("message"), envelope.get("data")
        return cls(
            http_status,
            _code(envelope.get("code")),
            _text(envelope.get("trace_id"), _LONGEST_WORD),
            _text(message, _LONGEST_MESSAGE),
            data if isinstance(data, dict) else None,
            retry_after,
            _is_something(data),
            trace,
            not isinstance(message, str) or len(message) <= _LONGEST_MESSAGE,
        )

    @property
    def task_id(self) -> str | None:
        """The task that the answer names, if it does; one of over 1,000 characters names none that could be kept."""
        value = (self.data or {}).get("task_id")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return _text(value, _LONGEST_ID) if isinstance(value, str) and len(value) <= _LONGEST_ID else None

    def without(self, secret: str) -> Answer:
        """This answer with a secret that the server echoes cut out of all that is shown; ids and URLs stay whole."""

        def cut(value: Any) -> Any:
            return hide_secrets(value, secret) if isinstance(value, str) else value

        def cut_short(value: str | None) -> str | None:
            text: str | None = cut(value)
            for size in range(len(secret) - 1, 7, -1):  # Where a text was cut to its bound, a secret was cut too.
                text = text and text.replace(secret[:size], "[API key]")
            return text

        def cut_all(values: dict[str, Any], but: str) -> dict[str, Any]:
            return {name: value if name == but else cut(value) for name, value in values.items()}

        data = self.data and cut_all(self.data, "task_id")
        if data and isinstance(data.get("result"), dict):
            data["result"] = cut_all(data["result"], "video_url")
        trace_id, message, trace = cut_short(self.trace_id), cut_short(self.message), cut_short(self.trace)
        return replace(self, trace_id=trace_id, message=message, data=data, trace=trace)

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


def read_submit(
    answer: Answer, unavailable_means_refused: bool = False, refusal_phrases: Sequence[str] = ()
) -> VideoTask:
    """What a submit bought. Only what is recognised as a refusal is one; all else is in doubt.

    Args:
        answer: Loova's answer to the POST.
        unavailable_means_refused: Whether 503 counts as a refusal (the user's choice; by default it is in doubt).
        refusal_phrases: Messages with one of these in them are refusals, where nothing in the answer may name a task.

    Raises:
        RejectedError: Loova said no; nothing was bought.
        InDoubtError: The answer leaves open whether it was bought.
    """
    if answer.task_id is not None:
        # A task id in any answer, whatever its codes, is a purchase.
        return _task(answer, answer.task_id, tell=log.warning)
    refusal = _refusal(answer, unavailable_means_refused, refusal_phrases)
    if refusal is not None:
        kind, message = refusal
        raise answer.error(kind, message)
    message = "Loova's answer to the submit names no task and no refusal"
    if answer.trace is not None:
        message = f"Loova's answer to the submit names no task where it is documented; {answer.trace} may be one"
    raise answer.error(InDoubtError, message, "maybe")


def _refusal(answer: Answer, unavailable: bool, phrases: Sequence[str]) -> tuple[type[LoovaError], str] | None:
    http, code = answer.http_status, answer.code
    codes = {http, code}
    message = answer.message if answer.message and answer.message_is_whole else ""
    redirect = 300 <= http < 400
    if not (http == 200 or redirect or 400 <= http < 500 or (http == 503 and unavailable)):
        return None
    if answer.trace is not None:
        return None  # Whatever may name a task is no refusal, not even one because of the limit.
    if wording.contains_any(message, phrases):
        return _cause(answer, message)
    if codes & _UNSETTLED_4XX or any(one is not None and 500 <= one < 600 for one in codes - {503}):
        return None
    if 503 in codes:
        return (RejectedError, "Loova is unavailable") if unavailable else None
    if 429 in codes or wording.TOO_MANY.search(message):
        # Above the limit a request "may be rejected or delayed" (pricing-and-limits).
        taken = wording.says_accepted(message) if 429 in codes else wording.mentions_acceptance(message)
        return None if taken else (TooManyRunningTasksError, "Loova runs as many tasks of this account as it allows")
    if code is not None and code < 400 and answer._says_something and wording.mentions_acceptance(message):
        return None
    client_error = 400 <= http < 500 or (code is not None and 400 <= code < 500)
    spoken = http == 200 and code is not None and bool(message) and answer._says_something
    if not (client_error or redirect or (spoken and (code == 200 or not answer.holds_data))):
        return None
    if redirect and not client_error:
        return RejectedError, "Loova answered the submit with a redirect, which is never followed: check the base URL"
    return _cause(answer, message)


def _cause(answer: Answer, message: str) -> tuple[type[LoovaError], str]:
    if answer._is_code(401) or wording.LOGIN.search(message):
        return AuthenticationError, "Loova does not accept the API key"
    if answer._is_code(402) or wording.CREDITS.search(message):
        return InsufficientCreditsError, "the account has not enough API credits for this request"
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
    return _task(answer, task_id, tell=log.debug)


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


def _task(answer: Answer, task_id: str, tell: Callable[..., None]) -> VideoTask:
    data = answer.data or {}
    shown_result = data.get("result")
    result: dict[str, Any] = shown_result if isinstance(shown_result, dict) else {}
    url, result_status = _url(result.get("video_url")), _text(result.get("status"), _LONGEST_WORD)
    status = _text(data.get("status"), _LONGEST_WORD)
    state = _state(status, result_status, url)
    return VideoTask(
        task_id=task_id,
        state=state,
        status=result_status or status,
        model=_text(data.get("model"), _LONGEST_WORD),
        created_at=_time(data.get("created_at")),
        updated_at=_time(data.get("updated_at")),
        finished_at=_time(result.get("finished_at")),
        credits_cost=_cost(data.get("credits_cost"), task_id, tell if state == "running" else log.warning),
        error_message=_text(result.get("error_message"), _LONGEST_MESSAGE),
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


def _is_something(value: Any) -> bool:
    return any(bool(one) for one in value.values()) if isinstance(value, dict) else bool(value)


def _code(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 1e15 else None


def _text(value: Any, most: int) -> str | None:
    if not isinstance(value, str):
        return None
    kept = value if len(value) <= most else value[: most - 1] + "…"
    # JSON may hold "\ud800", which is no character: no log, record or URL could carry it.
    return kept.encode(errors="backslashreplace").decode().strip() or None


def _url(value: Any) -> str | None:
    return _text(value, _LONGEST_URL) if isinstance(value, str) and len(value) <= _LONGEST_URL else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _cost(value: Any, task_id: str, tell: Callable[..., None]) -> float | None:
    """What Loova charged, in credits; what is no charge is reported, and counts as not named."""
    cost = _number(value)
    if value is None or (cost is not None and 0 <= cost <= _MOST_CREDITS):
        return cost
    tell(
        "task %s: Loova names a credits_cost of %s, which is no charge: it is ignored", task_id, redact(repr(value), 60)
    )
    return None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or len(value) > _LONGEST_WORD:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
