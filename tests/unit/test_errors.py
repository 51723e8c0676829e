"""The errors: one tree, what each of them says, and what none of them shows."""

from __future__ import annotations

import copy
import pickle
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova import errors
from prefect_loova.errors import (
    InDoubtError,
    LoovaError,
    NotSentError,
    RejectedError,
    StorageError,
    TaskFailedError,
    TaskNotFoundError,
    TransferError,
    UnexpectedResponseError,
    may_retry,
    redact,
)

# Others share this machine: slow is not wrong.

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LoovaError)]


def drawn() -> dict[str, str | None]:
    """The tree of the module's docstring: each name with its parent's."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("```")[1].strip().splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found, line
        depth = len(found[1]) // 4
        path[depth:] = [found[2]]
        parents[found[2]] = path[depth - 1] if depth else None
    return parents


def test_the_tree_in_the_docstring_matches_the_classes() -> None:
    assert drawn() == {
        kind.__name__: None if kind is LoovaError else kind.__base__.__name__  # type: ignore[union-attr]
        for kind in ALL
    }
    assert len(ALL) > 15
    assert all(kind.__doc__ for kind in ALL)


def made(kind: type[LoovaError]) -> LoovaError:
    return kind(
        "what happened",
        task_id="task_1",
        trace_id="trace_1",
        http_status=418,
        code=4711,
        loova_message="no way",
        credits_spent="maybe",
    )


@pytest.mark.parametrize("kind", ALL)
def test_an_error_shows_all_known_attributes(kind: type[LoovaError]) -> None:
    text = str(made(kind))
    for part in ("what happened", "task_1", "trace_1", "418", "4711", "no way", "maybe"):
        assert part in text


def test_an_error_shows_no_unknown_attributes() -> None:
    assert str(RejectedError("no")) == "no"
    assert str(RejectedError("no", code=0)) == "no (code: 0)"
    assert RejectedError("no").credits_spent == "no"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_a_copy_and_a_pickle(kind: type[LoovaError], again: Any) -> None:
    error = made(kind)
    twin = again(error)
    assert type(twin) is kind
    assert (str(twin), vars(twin)) == (str(error), vars(error))


def test_a_transient_storage_error_stays_transient_in_a_pickle() -> None:
    error = StorageError("slow", transient=True, task_id="t")
    assert may_retry(pickle.loads(pickle.dumps(error)))


RETRIED = {
    "NotSentError",
    "SuspendedError",
    "UnexpectedResponseError",
    "TransferError",
    "VideoUrlRefusedError",
    "IncompleteVideoError",
}


@pytest.mark.parametrize("kind", ALL)
def test_only_errors_that_cannot_pay_twice_may_be_retried(kind: type[LoovaError]) -> None:
    assert may_retry(kind("x")) == (kind.__name__ in RETRIED)


def test_errors_after_a_possible_payment_are_never_retried() -> None:
    for kind in (InDoubtError, RejectedError, TaskFailedError, TaskNotFoundError):
        assert not may_retry(kind("x"))
    for kind in (NotSentError, UnexpectedResponseError, TransferError):
        assert may_retry(kind("x"))
    assert may_retry(StorageError("x", transient=True))
    assert not may_retry(StorageError("x"))
    for foreign in (ValueError("x"), TimeoutError(), None, "NotSentError", NotSentError):
        assert not may_retry(foreign)


@given(st.text(st.characters()), st.integers(2, 600))
def test_redacted_text_is_one_short_line_that_can_be_written(text: str, limit: int) -> None:
    line = redact(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    line.encode()
    assert not set(line) & {chr(code) for code in (*range(32), *range(127, 160))}


@pytest.mark.parametrize(
    "character", [*"\x00\x07\x1b\x7f\x85\x9b\n\r\t\v\f", *"\u061c\u200b\u200e\u200f\u2028\u2029"]
    + [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF, 0xD800, 0xDFFF)],
    ids=ascii,
)  # fmt: skip
def test_redaction_removes_characters_that_move_the_cursor_or_reverse_the_text(character: str) -> None:
    assert redact(f"a{character}b") == "a b"


def test_redaction_keeps_other_languages() -> None:
    assert redact("Füße 猫 🐈 مرحبا") == "Füße 猫 🐈 مرحبا"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://h.test/a?X-Amz-Signature=SECRET now", "see https://h.test/a?... now"),
        ("'https://h.test/a?sig=SECRET', \"http://x.test?SECRET\"", "'https://h.test/a?...', \"http://x.test?...\""),
        ("<HTTPS://h.test/a#b?SECRET>", "<HTTPS://h.test/a#b?...>"),
        ("https://user:SECRET@h.test/a", "https://...@h.test/a"),
        ("https://user:SE@CRET@h.test/a", "https://...@h.test/a"),
        ("https://user:'SECRET@h.test/a", "https://...@h.test/a"),
        ("postgres://user:SECRET@h.test/a", "postgres://...@h.test/a"),
        ("\x1b[31mhttps://h.test/a?SECRET", "[31mhttps://h.test/a?..."),
        ("s3://b/k?X-Amz-Security-Token=SECRET", "s3://b/k?..."),
        ("h.test/a?X-Amz-Signature=SECRET&b=1", "h.test/a?X-Amz-Signature=...&b=1"),
        ("GET /a?sig=SECRET HTTP/1.1", "GET /a?sig=... HTTP/1.1"),
        ("https://h.test/a@2x.png by me@h.test", "https://h.test/a@2x.png by me@h.test"),
        ("what? me@h.test", "what? me@h.test"),
    ],
)
def test_queries_and_passwords_of_urls_are_not_shown(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert "SECRET" not in str(LoovaError("x", loova_message=text, trace_id=text, task_id=text))


@pytest.mark.parametrize("part", ["http://", "https://a?", "x-amz-", "a@", "https://a@", "\n", "a."])
def test_megabytes_are_redacted_fast(part: str) -> None:
    began = time.process_time()  # quadratic time would be minutes
    redact(part * 500_000)
    redact(part * 500_000, 2000)
    assert time.process_time() - began < 10
