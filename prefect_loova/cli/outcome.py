"""Exit codes and errors of the commands: one message without a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from cyclopts import CycloptsError

from prefect_loova.cli.output import say, short_keys
from prefect_loova.errors import (
    AbandonedError,
    BatchError,
    BudgetError,
    ContentRefusedError,
    InDoubtError,
    InvalidRequestError,
    LoovaError,
    RejectedError,
    TaskFailedError,
    WaitTimeoutError,
    redact,
)

_OUTCOMES: list[tuple[type[LoovaError], str, int]] = [
    (InvalidRequestError, "invalid", 2),
    (BudgetError, "over_budget", 6),
    (BatchError, "incomplete", 4),
    (InDoubtError, "in_doubt", 3),
    (ContentRefusedError, "content_refused", 4),
    (RejectedError, "rejected", 4),
    (TaskFailedError, "failed", 4),
    (AbandonedError, "abandoned", 4),
    (WaitTimeoutError, "submitted", 5),
]


def fail(error: Exception, as_json: bool) -> int:
    """Report an error of the command, and return its exit code."""
    state, code = next(((state, code) for kind, state, code in _OUTCOMES if isinstance(error, kind)), ("error", 1))
    if isinstance(error, RejectedError) and error.task_id is not None:
        # Loova refused a later request, not the submit: the job is bought.
        state, code = "error", 1
    message = str(error) if isinstance(error, LoovaError) else f"{type(error).__name__}: {redact(error)}"
    if as_json:
        known = {name: getattr(error, name, None) for name in ("task_id", "trace_id")}
        print(json.dumps({"state": state, "error": {"type": type(error).__name__, "message": message} | known}))
    else:
        say(f"{state.replace('_', ' ')}: {short_keys(message)}")
    return code


def wrong_arguments(error: CycloptsError, arguments: Sequence[str]) -> InvalidRequestError:
    """Return the error for arguments that the command does not take."""
    message = redact(str(error).rstrip("."))
    message = message.removeprefix("Invalid value for ").replace("Unused Tokens", "unexpected arguments")
    message = re.sub(r'^Command "(\S+)" parameter', r"\1:", message)
    known = [word for word in arguments if not word.startswith("-")][:1]
    return InvalidRequestError(f"{message}; see {' '.join(['prefect-loova', *map(redact, known), '--help'])}")
