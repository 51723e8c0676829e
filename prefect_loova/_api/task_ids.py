"""Search the answer to a submit for anything that may be a task id, in any place and under any name.

An answer that may name a task is not a refusal: buying again could pay twice. `responses` reads the documented place,
`data.task_id`. `code` and `trace_id` have a documented meaning and are skipped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import count, islice
from typing import Any, NamedTuple

from prefect_loova._api.messages import suggests_acceptance
from prefect_loova.errors import redact

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")
_NAMES = frozenset({
    "id", "uid", "uuid", "guid", "ulid", "oid", "task", "job", "record", "generation", "order", "ticket",
    "token", "handle", "hash", "operation", "prediction", "request", "ref", "reference", "serial", "任务",
    "任务编号"
})  # fmt: skip
_NAMES_OF_MANY = frozenset({"ids", "uuids", "tasks", "jobs", "records", "generations", "orders", "tickets"})
"""Words in the name of a field that may hold one task id, or several."""
_NO_IDS = frozenset({
    "code", "codes", "error", "type", "reason", "field", "loc", "time", "timestamp", "date", "at",
    "expires", "until", "version", "model", "ratio", "duration", "prompt", "mode", "limit", "max", "min",
    "maximum", "minimum", "remaining", "retry", "after", "seconds", "credits", "cost", "price", "balance",
    "message"
})  # fmt: skip
"""Words in the name of a field whose value is not an id, even if it looks like one."""
_REQUEST_FIELDS = frozenset({"image_urls", "audio_urls", "video_urls"})
"""Fields of the request whose values look like ids. An answer may repeat them."""
_SMALLEST_ID = 10_000
"""Smaller numbers are counts, not ids."""
_IN_TEXT = re.compile(
    r"(?:task|record|job|generation)(?:[\s_-]?(?:id|no\.?|number)\b|\s*[:#])[\"']?\s*(?:is|was)?\s*[:=#]?\s*[\"']?[\w.:-]{0,200}"
    r"|任务\s*(?:id|编号|号).{0,200}",
    re.IGNORECASE,
)
_IN_LOCATION = re.compile(r"(?:task|record|job|generation|status|result)s?\b|id=", re.IGNORECASE)
_LONGEST_PATH = 200
_LONGEST_WORD = 200
_MOST_VALUES = 10_000


class _Leaf(NamedTuple):
    path: str
    value: Any
    is_below_name: bool
    """Whether a container of the value has a name that may stand for a task."""


def find_task_evidence(envelope: Any, location: str | None = None) -> str | None:
    """Return the part of an answer that may name a task, such as `data.record_id: 'abc'`, or None.

    Args:
        envelope: The parsed JSON body.
        location: The `Location` header.
    """
    for leaf in _leaves(envelope):
        if _may_be_id(leaf) or (isinstance(leaf.value, str) and _IN_TEXT.search(leaf.value)):
            return f"{redact(leaf.path, 120)}: {_shorten(leaf.value)}"
    return _find_in_location(location)


def find_task_evidence_in_text(body: bytes, location: str | None = None) -> str | None:
    """Return the part of a body that may name a task, or None. The body is not valid JSON.

    A body that starts like JSON may name a task in the part that does not parse, so all of it counts.
    """
    text = body.decode(errors="replace")
    match = _IN_TEXT.search(text)
    if match or text.lstrip()[:1] in ("{", "["):
        return f"the body: {_shorten(match.group() if match else text)}"
    return _find_in_location(location)


def _find_in_location(location: str | None) -> str | None:
    return f"Location: {_shorten(location)}" if location and _IN_LOCATION.search(location) else None


def _leaves(envelope: Any) -> Iterator[_Leaf]:
    """Yield each value that is not a container. A loop, because JSON can nest deeper than Python can recurse."""
    waiting = [_Leaf("", envelope, False)]
    for number in count():
        if not waiting:
            return
        if number > _MOST_VALUES:
            yield _Leaf("the body", f"over {_MOST_VALUES:,} values", True)
            return
        leaf = waiting.pop()
        path, value, is_below_name = leaf
        if isinstance(value, dict):
            for name, inner in islice(value.items(), _MOST_VALUES + 1):
                is_documented = name == "trace_id" or (name == "code" and not path)
                if name not in _REQUEST_FIELDS and not (is_documented and not isinstance(inner, dict | list)):
                    inner_path = f"{path}.{name[:60]}" if path else name[:60]
                    is_named = is_below_name or bool(_words_of(name) & (_NAMES | _NAMES_OF_MANY))
                    waiting.append(_Leaf(inner_path[-_LONGEST_PATH:], inner, is_named))
        elif isinstance(value, list):
            is_named = is_below_name or path in ("", "data")
            waiting += [_Leaf(path or "body", inner, is_named) for inner in value[: _MOST_VALUES + 1]]
        else:
            yield leaf


def _words_of(name: str) -> set[str]:
    name = name[:_LONGEST_WORD]
    words = {word.lower() for word in _WORDS.findall(name)}
    return words | {"id"} if name.lower().endswith("id") else words


def _may_be_id(leaf: _Leaf) -> bool:
    path, value, is_below_name = leaf
    if not value or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        return False
    words = _words_of(path.rpartition(".")[2])
    if isinstance(value, str) and words & {"status", "state"}:
        return is_below_name or len(value) > _LONGEST_WORD or "running" in value.lower() or suggests_acceptance(value)
    if path in ("", "data", "body"):
        return True  # `data` is not an object
    if words & _NAMES:
        return True
    if is_below_name or words & _NAMES_OF_MANY:
        return not (isinstance(value, int | float) and abs(value) < _SMALLEST_ID)
    if words & _NO_IDS:
        return False
    return _looks_like_id(value)


def _looks_like_id(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) >= _SMALLEST_ID
    if not isinstance(value, str) or len(value) < 6 or re.search(r"\s", value) or not re.search(r"\d", value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return True
    return False


def _shorten(value: Any) -> str:
    """Return a short value whole; of a long value, return the beginning, the length and the SHA-256."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= 120:
        return redact(repr(text))
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
    return f"{redact(repr(text[:120]), 130)} ({len(text):,} characters, SHA-256 {digest})"
