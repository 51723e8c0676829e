"""Parse the HTTP responses of Loova into values or errors, without I/O.

Every response is an envelope of `code`, `trace_id`, `message` and `data`. Loova may report a failure with the success
code, so a response counts only if `data` holds what was asked for. Loova's pages leave much open, so the parser is
careful: it ignores unknown fields, treats unknown states as running, and reports a submit as in doubt when it does not
understand the answer. `docs/answers.md` has the rules for a submit.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from prefect_loova._api import messages
from prefect_loova._api.task_ids import find_task_evidence, find_task_evidence_in_text
from prefect_loova._redaction import hide_secrets
from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InputRefusedError,
    InsufficientCreditsError,
    LoovaError,
    RejectedError,
    Spent,
    TaskNotFoundError,
    TooManyRunningTasksError,
    UnexpectedResponseError,
    redact,
)
from prefect_loova.models.results import CreditBalance, VideoTask

SUCCEEDED = frozenset({"succeeded", "success", "completed"})
FAILED = frozenset({"failed", "error", "canceled", "cancelled"})
"""Words for a final state, from get-task-status and public clients. Loova may use others."""

_UNSETTLED_4XX = frozenset({408, 409, 425, 499})
"""4xx codes that do not say whether the submit took effect."""

_LONGEST_ID = 1_000
_LONGEST_MESSAGE = 2_000
_LONGEST_WORD = 200
_LONGEST_URL = 16_384
"""Longer texts of Loova are cut at these numbers of characters. A task id or a URL is kept whole or not at all."""

_MOST_CREDITS = 1e9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ApiResponse:
    """One HTTP response with the fields of its envelope. A missing field, or one of the wrong type, is None."""

    http_status: int
    code: int | None = None
    trace_id: str | None = None
    message: str | None = None
    data: dict[str, Any] | None = None
    retry_after: str | None = None
    holds_data: bool = False
    """Whether `data` has any value."""
    task_evidence: str | None = None
    """The place and the value of anything that may name a task, except the documented `data.task_id`."""
    message_is_whole: bool = True
    """Whether `message` was not cut."""

    @classmethod
    def parse(
        cls, http_status: int, body: bytes, retry_after: str | None = None, location: str | None = None
    ) -> ApiResponse:
        """Parse a response. If the body is not an envelope, the response has no code and no data.

        Args:
            http_status: The HTTP status.
            body: The whole body.
            retry_after: The `Retry-After` header.
            location: The `Location` header, which may name a task.
        """
        try:
            envelope = json.loads(body)
        except (ValueError, RecursionError):
            evidence = find_task_evidence_in_text(body, location)
            return cls(http_status, retry_after=retry_after, task_evidence=evidence)
        evidence = find_task_evidence(envelope, location)
        if not isinstance(envelope, dict):
            return cls(http_status, retry_after=retry_after, holds_data=bool(envelope), task_evidence=evidence)
        message, data = envelope.get("message"), envelope.get("data")
        return cls(
            http_status,
            code=_code(envelope.get("code")),
            trace_id=_text(envelope.get("trace_id"), _LONGEST_WORD),
            message=_text(message, _LONGEST_MESSAGE),
            data=data if isinstance(data, dict) else None,
            retry_after=retry_after,
            holds_data=any(map(bool, data.values())) if isinstance(data, dict) else bool(data),
            task_evidence=evidence,
            message_is_whole=not isinstance(message, str) or len(message) <= _LONGEST_MESSAGE,
        )

    @property
    def task_id(self) -> str | None:
        """The documented `data.task_id`. An id of over 1,000 characters cannot be kept and counts as none."""
        value = (self.data or {}).get("task_id")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return _text(value, _LONGEST_ID) if isinstance(value, str) and len(value) <= _LONGEST_ID else None

    def without(self, secret: str) -> ApiResponse:
        """Return this response with an echoed secret removed from all text, but not from task ids and URLs."""

        def cut(value: Any) -> Any:
            return hide_secrets(value, secret) if isinstance(value, str) else value

        def cut_short(value: str | None) -> str | None:
            text: str | None = cut(value)
            for size in range(len(secret) - 1, 7, -1):  # A text that was cut may end within the secret.
                text = text and text.replace(secret[:size], "[API key]")
            return text

        def cut_all(values: dict[str, Any], but: str) -> dict[str, Any]:
            return {name: value if name == but else cut(value) for name, value in values.items()}

        data = self.data and cut_all(self.data, "task_id")
        if data and isinstance(data.get("result"), dict):
            data["result"] = cut_all(data["result"], "video_url")
        return replace(
            self,
            trace_id=cut_short(self.trace_id),
            message=cut_short(self.message),
            data=data,
            task_evidence=cut_short(self.task_evidence),
        )

    def error(self, kind: type[LoovaError], message: str, spent: Spent = "no") -> LoovaError:
        """Return an error with the facts of this response."""
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
    def _gives_reason(self) -> bool:
        return (self.message or "success").strip().lower() not in ("success", "ok")

    def _has_code(self, *codes: int) -> bool:
        return self.http_status in codes or self.code in codes


def parse_submit(
    response: ApiResponse,
    unavailable_means_refused: bool = False,
    refusal_phrases: Sequence[str] = (),
    content_phrases: Sequence[str] = (),
) -> VideoTask:
    """Return the task that a submit bought. An answer that is not a purchase and not a known refusal is in doubt.

    Args:
        response: Loova's answer to the POST.
        unavailable_means_refused: Whether 503 counts as a refusal. The user chooses; by default it is in doubt.
        refusal_phrases: A message with one of these phrases is a refusal, if nothing in the answer may name a task.
        content_phrases: Likewise, and Loova refused the content.

    Raises:
        RejectedError: Loova refused the request; nothing was bought.
        InDoubtError: The answer does not say whether the video was bought.
    """
    if response.task_id is not None:
        # A task id in any answer, whatever its codes, is a purchase.
        return _task(response, response.task_id, log_bad_cost=log.warning)
    refusal = _refusal(response, unavailable_means_refused, refusal_phrases, content_phrases)
    if refusal is not None:
        raise response.error(*refusal)
    message = "Loova's answer to the submit names no task and no refusal"
    if response.task_evidence is not None:
        message = f"Loova's answer to the submit has no task id in data.task_id; {response.task_evidence} may be one"
    raise response.error(InDoubtError, message, "maybe")


def _refusal(
    response: ApiResponse, unavailable: bool, phrases: Sequence[str], content_phrases: Sequence[str]
) -> tuple[type[LoovaError], str] | None:
    """Return the error of a refusal, or None for a doubt. docs/answers.md has these rules in the same order."""
    http, code = response.http_status, response.code
    codes = {http, code}
    message = response.message if response.message and response.message_is_whole else ""
    is_redirect = 300 <= http < 400
    can_refuse = http == 200 or is_redirect or 400 <= http < 500 or (http == 503 and unavailable)
    if not can_refuse or response.task_evidence is not None:
        return None
    if messages.contains_any(message, (*phrases, *content_phrases)):
        return _cause(response, message, content_phrases)
    if codes & _UNSETTLED_4XX or any(one is not None and 500 <= one < 600 for one in codes - {503}):
        return None
    if 503 in codes:
        return (RejectedError, "Loova is unavailable") if unavailable else None
    if 429 in codes or messages.LIMIT_REACHED.search(message):
        # Above the limit a request "may be rejected or delayed" (pricing-and-limits).
        accepted = messages.states_acceptance(message) if 429 in codes else messages.suggests_acceptance(message)
        return None if accepted else (TooManyRunningTasksError, "Loova runs as many tasks of this account as it allows")
    if code is not None and code < 400 and response._gives_reason and messages.suggests_acceptance(message):
        return None
    if 400 <= http < 500 or (code is not None and 400 <= code < 500):
        return _cause(response, message, content_phrases)
    if is_redirect:
        return RejectedError, "Loova answered the submit with a redirect, which is never followed: check the base URL"
    if code is not None and message and response._gives_reason and (code == 200 or not response.holds_data):
        return _cause(response, message, content_phrases)
    return None


def _cause(response: ApiResponse, message: str, content_phrases: Sequence[str]) -> tuple[type[LoovaError], str]:
    if response._has_code(401) or messages.KEY_REFUSED.search(message):
        return AuthenticationError, "Loova does not accept the API key"
    if response._has_code(402) or messages.CREDITS_MISSING.search(message):
        return InsufficientCreditsError, "the account does not have enough API credits for this request"
    if messages.is_content_refusal(message, content_phrases):
        return InputRefusedError, "Loova refused the content of the request"
    return RejectedError, "Loova refused the request"


def parse_task(response: ApiResponse, task_id: str, content_phrases: Sequence[str] = ()) -> VideoTask:
    """Return the task that a poll shows. A task that failed is a value here, not an error.

    Args:
        response: Loova's answer to the poll.
        task_id: The task of the poll.
        content_phrases: If a task failed with one of these phrases in its message, Loova refused the video's content.

    Raises:
        TaskNotFoundError: Loova does not know the task.
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: The response does not show the task.
    """
    _raise_for_status(response)
    if response.data is None or ("status" not in response.data and "result" not in response.data):
        raise response.error(UnexpectedResponseError, f"Loova's response does not show task {task_id}")
    if response.task_id not in (None, task_id):
        raise response.error(UnexpectedResponseError, f"Loova's response shows another task than {task_id}")
    task = _task(response, task_id, log_bad_cost=log.debug)
    if task.state == "failed" and messages.is_content_refusal(task.error_message or "", content_phrases):
        return task.model_copy(update={"content_refused": True})
    return task


def parse_credits(response: ApiResponse) -> CreditBalance:
    """Return the credits of the account.

    Raises:
        AuthenticationError: Loova does not accept the API key.
        UnexpectedResponseError: The response does not show the credits.
    """
    _raise_for_status(response)
    data = response.data or {}
    available, total = _number(data.get("api_available_credits")), _number(data.get("api_total_credits"))
    if available is None or total is None:
        raise response.error(UnexpectedResponseError, "Loova's response does not show the credits")
    return CreditBalance(available=available, total=total)


def _raise_for_status(response: ApiResponse) -> None:
    if response._has_code(401, 403):
        raise response.error(AuthenticationError, "Loova does not accept the API key")
    if response._has_code(404, 410):
        message = "Loova does not know this task, or it belongs to another account's key"
        raise response.error(TaskNotFoundError, message)
    if response.http_status != 200 or response.code != 200:
        raise response.error(UnexpectedResponseError, "Loova did not respond as documented")


def _task(response: ApiResponse, task_id: str, log_bad_cost: Callable[..., None]) -> VideoTask:
    data = response.data or {}
    result = data.get("result")
    result = result if isinstance(result, dict) else {}
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
        credits_cost=_cost(data.get("credits_cost"), task_id, log_bad_cost if state == "running" else log.warning),
        error_message=_text(result.get("error_message"), _LONGEST_MESSAGE),
        trace_id=response.trace_id,
        video_url=url,
    )


def _state(status: str | None, result_status: str | None, url: str | None) -> Literal["running", "succeeded", "failed"]:
    """Return the state. `result` overrides `status`: the quickstart shows `running` beside a succeeded result."""
    word = (result_status or "").lower()
    if word in FAILED:
        return "failed"
    if word in SUCCEEDED or url is not None:
        return "succeeded"
    if word:
        return "running"
    word = (status or "").lower()
    return "failed" if word in FAILED else "succeeded" if word in SUCCEEDED else "running"


def _code(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 1e15 else None


def _text(value: Any, most: int) -> str | None:
    if not isinstance(value, str):
        return None
    text = value if len(value) <= most else value[: most - 1] + "…"
    # JSON may hold "\ud800", which is not a character: no log, record or URL can carry it.
    return text.encode(errors="backslashreplace").decode().strip() or None


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


def _cost(value: Any, task_id: str, log_bad_cost: Callable[..., None]) -> float | None:
    """Return the credits that Loova charged, or None. A value that cannot be a charge is logged."""
    cost = _number(value)
    if value is None or (cost is not None and 0 <= cost <= _MOST_CREDITS):
        return cost
    log_bad_cost("task %s: ignored a credits_cost of %s, which cannot be a charge", task_id, redact(repr(value), 60))
    return None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or len(value) > _LONGEST_WORD:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
