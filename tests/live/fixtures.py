"""The answers of a run as files that the simulator replays, without secrets and personal data.

A file holds the fields of one `Fault`: `loova.fail(**json.loads(file.read_text()))`. What is not known to be harmless
is replaced: every text but the words below, every number but codes and prices, and every URL but its scheme and host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from prefect_loova._redaction import hide_secrets
from tests.live.model import Exchange, Seen
from tests.live.submits import is_time

HEADERS = ("content-type", "retry-after")
_KEPT_NUMBERS = frozenset({"code", "credits_cost"})
_WORDS = frozenset({"status", "model"})
_TEXTS = frozenset({"message", "error_message"})
_EMAIL = re.compile(r"[\w.+-]+@[\w.-]+")
_NUMBER = re.compile(r"\d{5,}")


def fixtures(seen: Seen, api_key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the content of each file: all answers, and of the polls those with other states."""
    polls = {(one.http_status, one.data.get("status"), one.result.get("status")): one for one in seen.polls}
    named = {f"poll-{number}": one for number, one in enumerate(polls.values(), start=1)}
    secrets = [api_key, *(text for one in seen.all for text in _ids(one))]
    for name, one in (seen.exchanges | named).items():
        yield name, _fault(one, secrets)


def _ids(one: Exchange) -> list[str]:
    found = (one.response.task_id, one.response.trace_id)
    return [text for text in found if text and len(text) >= 5]


def _fault(one: Exchange, secrets: list[str]) -> dict[str, Any]:
    body = one.json if isinstance(one.json, dict) else None
    return {
        "on": one.on,
        "apply": False,
        "status": one.http_status,
        "headers": {name: one.headers[name] for name in HEADERS if name in one.headers},
        "body": f"redacted: {len(one.body)} characters" if body is None else redact(body, secrets),
    }


def redact(value: Any, secrets: list[str], name: str = "") -> Any:
    """Return a JSON value with everything replaced that is not known to be harmless."""
    if isinstance(value, dict):
        return {key: redact(one, secrets, key) for key, one in value.items()}
    if isinstance(value, list):
        return [redact(one, secrets, name) for one in value[:3]]
    if isinstance(value, str):
        return _redact_text(value, secrets, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if name in _KEPT_NUMBERS else type(value)(1000)
    return value


def _redact_text(text: str, secrets: list[str], name: str) -> str:
    if name in ("task_id", "trace_id"):
        return f"redacted-{name.replace('_', '-')}"
    if name in _WORDS and re.fullmatch(r"[\w.-]{1,40}", text):
        return text
    if is_time(text) and len(text) <= 40:
        return text
    if re.match(r"https?://", text):
        return redact_url(text)
    if name not in _TEXTS:
        return "redacted"
    for secret in secrets:
        text = hide_secrets(text.replace(secret, "redacted"), secret)
    return _NUMBER.sub("0", _EMAIL.sub("redacted", text))[:300]


def redact_url(url: str) -> str:
    """Return a URL with its scheme, its host and the names of its parameters only."""
    parts = urlsplit(url)
    query = urlencode([(name, "redacted") for name, _ in parse_qsl(parts.query)])
    return f"{parts.scheme}://{parts.hostname}/redacted.mp4" + (f"?{query}" if query else "")


def to_json(fault: dict[str, Any]) -> str:
    """Return the content of a file."""
    return json.dumps(fault, indent=2, ensure_ascii=False) + "\n"
