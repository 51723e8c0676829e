"""Whether something in an answer to a submit may name a task, wherever it is and whatever it is called.

Such an answer is no refusal: buying again could pay twice. The documented place of a task id, `data.task_id`, is read
elsewhere; `code` and `trace_id` have a documented meaning and name no task.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import count, islice
from typing import Any, NamedTuple

from prefect_loova._api.messages import mentions_acceptance
from prefect_loova.errors import redact

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")
_NAMES = frozenset({
    "id", "uid", "uuid", "guid", "ulid", "oid", "task", "job", "record", "generation", "order", "ticket",
    "token", "handle", "hash", "operation", "prediction", "request", "ref", "reference", "serial", "任务",
    "任务编号"
})  # fmt: skip
_NAMES_OF_MANY = frozenset({"ids", "uuids", "tasks", "jobs", "records", "generations", "orders", "tickets"})
"""Words in the name of a field that may hold the id of a task, or several."""
_NO_IDS = frozenset({
    "code", "codes", "error", "type", "reason", "field", "loc", "time", "timestamp", "date", "at",
    "expires", "until", "version", "model", "ratio", "duration", "prompt", "mode", "limit", "max", "min",
    "maximum", "minimum", "remaining", "retry", "after", "seconds", "credits", "cost", "price", "balance",
    "message"
})  # fmt: skip
"""Words in the name of a field whose value is no id, although it may look like one."""
_SENT = frozenset({"image_urls", "audio_urls", "video_urls"})
"""Fields of the request with values like ids, which an answer may repeat."""
_SMALL = 10_000
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
    below_a_name: bool
    """Whether it is in a container whose name may be that of a task."""


def evidence_of_task(envelope: Any, location: str | None = None) -> str | None:
    """What in an answer may name a task, as `data.record_id: 'abc'`, or None.

    Args:
        envelope: The body, as JSON.
        location: The header of that name.
    """
    for leaf in _leaves(envelope):
        if _may_be_an_id(leaf) or (isinstance(leaf.value, str) and _IN_TEXT.search(leaf.value)):
            return f"{redact(leaf.path, 120)}: {_evidence(leaf.value)}"
    return _of_location(location)


def evidence_of_task_in_text(body: bytes, location: str | None = None) -> str | None:
    """What in a body that is no JSON may name a task: its words, or that it is JSON that cannot be read."""
    text = body.decode(errors="replace")
    found = _IN_TEXT.search(text)
    if found or text.lstrip()[:1] in ("{", "["):
        return f"the body: {_evidence(found.group() if found else text)}"
    return _of_location(location)


def _of_location(location: str | None) -> str | None:
    return f"Location: {_evidence(location)}" if location and _IN_LOCATION.search(location) else None


def _leaves(envelope: Any) -> Iterator[_Leaf]:
    """Each value that is no container; in a loop, as JSON may be nested deeper than calls may."""
    waiting = [_Leaf("", envelope, False)]
    for number in count():
        if not waiting:
            return
        if number > _MOST_VALUES:
            yield _Leaf("the body", f"over {_MOST_VALUES:,} values", True)
            return
        leaf = waiting.pop()
        path, value, below = leaf
        if isinstance(value, dict):
            for name, inner in islice(value.items(), _MOST_VALUES + 1):
                is_documented = name == "trace_id" or (name == "code" and not path)
                if name not in _SENT and not (is_documented and not isinstance(inner, dict | list)):
                    inner_path = f"{path}.{name[:60]}" if path else name[:60]
                    is_named = below or bool(_words_of(name) & (_NAMES | _NAMES_OF_MANY))
                    waiting.append(_Leaf(inner_path[-_LONGEST_PATH:], inner, is_named))
        elif isinstance(value, list):
            waiting += [
                _Leaf(path or "body", inner, below or path in ("", "data")) for inner in value[: _MOST_VALUES + 1]
            ]
        else:
            yield leaf


def _words_of(name: str) -> set[str]:
    found = {word.lower() for word in _WORDS.findall(name[:_LONGEST_WORD])}
    return found | {"id"} if name[:_LONGEST_WORD].lower().endswith("id") else found


def _may_be_an_id(leaf: _Leaf) -> bool:
    path, value, below = leaf
    if not value or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        return False
    name = path.rpartition(".")[2]
    words = _words_of(name)
    if isinstance(value, str) and words & {"status", "state"}:
        return below or len(value) > _LONGEST_WORD or "running" in value.lower() or mentions_acceptance(value)
    if path in ("", "data", "body"):
        return True  # `data` that is no object
    if words & _NAMES:
        return True
    if below or words & _NAMES_OF_MANY:
        return not (isinstance(value, int | float) and abs(value) < _SMALL)
    if words & _NO_IDS:
        return False
    return _looks_like_an_id(value)


def _looks_like_an_id(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) >= _SMALL
    if not isinstance(value, str) or len(value) < 6 or re.search(r"\s", value) or not re.search(r"\d", value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return True
    return False


def _evidence(value: Any) -> str:
    """The value for a person who looks for it: whole if it is short, else its beginning, its length and its SHA-256."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= 120:
        return redact(repr(text))
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
    return f"{redact(repr(text[:120]), 130)} ({len(text):,} characters, SHA-256 {digest})"
