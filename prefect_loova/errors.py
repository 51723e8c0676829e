"""What can go wrong, as one tree.

```
LoovaError
├── InvalidRequestError            refused here, before anything was sent
├── BudgetError                    it would go over a budget; nothing was sent
├── NotSentError                   the submit never left this machine (connection refused, DNS)
│   └── SuspendedError             this process was stopped just before the submit left
├── RejectedError                  Loova said no to a submit; nothing was bought
│   ├── AuthenticationError        the API key is missing, wrong or revoked
│   ├── InsufficientCreditsError   not enough API credits
│   └── TooManyRunningTasksError   the limit of running tasks is reached; waiting helps
├── InDoubtError                   a submit was sent and its answer is lost; a person decides
├── AbandonedError                 a person gave this job up
├── BatchError                     a batch ended, and not all of its videos are there
├── TaskFailedError                Loova could not make the video
├── WaitTimeoutError               still running when waiting ended
├── UnexpectedResponseError        an answer to a read that says nothing usable
│   ├── TaskNotFoundError          Loova does not know the task (or another account's key asks)
│   └── MissingVideoUrlError       Loova says that the task succeeded, and shows no video
├── TransferError                  the video could not be brought into the bucket
│   ├── VideoUrlRefusedError       the video's URL is expired, unreachable or not allowed
│   └── IncompleteVideoError       what arrived is not a whole mp4
├── PreviewError                   no pictures can be made of a video; the video itself is left as it is
├── UnusableVideoError             a video cannot be made into what a request or a film needs of it
├── InvalidTransitionError         the job is not in a state that this step or decision may leave
└── StorageError                   the bucket cannot be used as a job record needs it
    └── RecordMismatchError        the record belongs to another API origin or a newer version
```

Every error says what is known of the Loova task, Loova's `trace_id` (its support asks for it), and whether credits
may have been spent. None of them holds an API key, an AWS key or a signed URL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError

from prefect_loova._redaction import hide_secrets

Spent = Literal["no", "maybe", "yes"]

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+")


def redact(text: object, limit: int = 500) -> str:
    """Foreign text made fit for a log line or an error: one line, bounded, no query and no password of a URL.

    Args:
        text: What Loova, a user or a server wrote.
        limit: The most characters to keep.
    """
    # Bounded before the search as well: megabytes of `http://http://` would take minutes.
    line = _UNPRINTABLE.sub(" ", hide_secrets(str(text)[: 8 * limit])).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


_MAX_PROBLEMS = 50
"""The most problems that one error lists."""


def first_lines(lines: Sequence[str], most: int = _MAX_PROBLEMS) -> list[str]:
    """Return the first lines, and a line that counts the others."""
    left = len(lines) - most
    return [*lines[:most], f"... and {left:,} more"] if left > 0 else list(lines)


class LoovaError(Exception):
    """The root of everything that this package raises on purpose.

    Attributes:
        message: What happened and what to do next, without the details below.
        task_id: The Loova task, where it is known.
        trace_id: What Loova's support asks for.
        http_status: The HTTP status of the answer.
        code: The `code` of Loova's envelope.
        loova_message: The `message` of Loova's envelope, as one harmless line.
        credits_spent: Whether credits may have been spent: `no`, `maybe` or `yes`.
        request: The request that failed, as `GET /v1/tasks at api.loova.ai`, where it is known.
    """

    may_retry: ClassVar[bool] = False
    """Whether the same call may simply be made again, without a risk to pay twice."""

    def __init__(
        self,
        message: str,
        *,
        task_id: str | None = None,
        trace_id: str | None = None,
        http_status: int | None = None,
        code: int | None = None,
        loova_message: str | None = None,
        credits_spent: Spent = "no",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.task_id = task_id
        self.trace_id = trace_id
        self.http_status = http_status
        self.code = code
        self.loova_message = None if loova_message is None else redact(loova_message)
        self.credits_spent = credits_spent
        self.request: str | None = None

    @property
    def why(self) -> str:
        """What happened, in our words and Loova's, without what it says of one job: its task and its credits."""
        return ": ".join(filter(None, (self.message, self.loova_message)))

    @property
    def details(self) -> str:
        """What is known besides, as `(task_id: ..., credits spent: ...)`; empty where nothing is."""
        known: dict[str, Any] = {
            "Loova says": self.loova_message,
            "task_id": self.task_id,
            "trace_id": self.trace_id,
            "HTTP": self.http_status,
            "code": self.code,
            "request": self.request,
            "credits spent": None if self.credits_spent == "no" else self.credits_spent,
        }
        details = ", ".join(f"{name}: {redact(value)}" for name, value in known.items() if value is not None)
        return f"({details})" if details else ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.message, self.details)))


class InvalidRequestError(LoovaError):
    """The input was refused before anything was sent or spent."""

    @classmethod
    def from_validation(cls, error: ValidationError) -> Self:
        """Every violation that pydantic found, one a line, as `field: what is wrong`."""
        lines = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            field = ".".join(str(part) for part in problem["loc"]) or error.title
            lines.append(f"{redact(field, 120)}: {redact(problem['msg'])}")
        return cls("\n".join(lines))


class BudgetError(LoovaError):
    """The submit would go over a budget, so it was not sent."""


class NotSentError(LoovaError):
    """The submit never left this machine, so nothing was bought; it may be tried again."""

    may_retry = True


class SuspendedError(NotSentError):
    """This process, or its machine, was stopped for so long that its submit was not sent after all.

    `submit_video` begins again by itself, within its `max_wait`.
    """


class RejectedError(LoovaError):
    """Loova refused the submit; nothing was bought."""


class AuthenticationError(RejectedError):
    """Loova does not accept the API key."""


class InsufficientCreditsError(RejectedError):
    """The account has not enough API credits for this request."""


class TooManyRunningTasksError(RejectedError):
    """Loova runs as many tasks of this account as it allows (6, says pricing-and-limits).

    Waiting helps, and `submit_video` does wait; when it raises this, its `max_wait` is over.
    """


class InDoubtError(LoovaError):
    """A submit was sent and its answer is lost: it may have been billed, and nobody guesses.

    Asking again never submits again: a person looks in the Loova dashboard and decides.

    Attributes:
        key: The request's key, where the job has a record.
        attempt: Which attempt to buy it is in doubt, counted from 1.
        next_steps: What the person does next, commands included.
        found: Whether another run lost the answer, before: it says nothing of how Loova answers now.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        attempt: int | None = None,
        next_steps: Sequence[str] = (),
        found: bool = False,
        **known: Any,
    ) -> None:
        super().__init__(message, **known)
        self.key = key
        self.attempt = attempt
        self.next_steps = tuple(next_steps)
        self.found = found

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.next_steps])


class AbandonedError(LoovaError):
    """A person gave this job up; ask for another `take` to have the video after all."""


class BatchError(LoovaError):
    """A batch went to its end, and some of its videos are not there. Each that is there is saved.

    Attributes:
        report: What became of each request, as a `prefect_loova.BatchReport`.
    """

    def __init__(self, message: str, *, report: Any = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.report = report

    def __str__(self) -> str:
        # The first line is about the batch, and so are the details; each line below is about one job.
        batch, *jobs = self.message.split("\n")
        return "\n".join([" ".join(filter(None, (batch, self.details))), *jobs])


class TaskFailedError(LoovaError):
    """Loova ended the task without a video. Whether the credits come back is not documented."""


class WaitTimeoutError(LoovaError):
    """The task still ran when waiting ended. Nothing is lost: the same call goes on waiting."""


class UnexpectedResponseError(LoovaError):
    """Loova answered a read with something that says nothing usable."""

    may_retry = True


class TaskNotFoundError(UnexpectedResponseError):
    """Loova does not know this task; the key of another account sees the same."""

    may_retry = False


class MissingVideoUrlError(UnexpectedResponseError):
    """Loova says that the task succeeded, and shows no `video_url`. The credits are spent; the job stays open."""

    may_retry = False


class TransferError(LoovaError):
    """The video could not be brought into the bucket; the task id is kept, and saving may be tried again."""

    may_retry = True


class VideoUrlRefusedError(TransferError):
    """The video's URL answers with an error, or leads where this package does not go."""


class IncompleteVideoError(TransferError):
    """What arrived is not a whole mp4: cut short, not a video, or over the size bound.

    Attributes:
        at_least_bytes: Where it is over the size bound, the size as far as it is known.
    """

    def __init__(self, message: str, *, at_least_bytes: int | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.at_least_bytes = at_least_bytes


class PreviewError(LoovaError):
    """No pictures can be made of a video: it is no whole video, or over a bound. The video itself is left as it is."""


class UnusableVideoError(LoovaError):
    """A video cannot be made into what is wanted of it: no frame can be taken, or it cannot be joined to others.

    It is no whole mp4, or over a bound: asking again does not help, another video does.
    """


class InvalidTransitionError(LoovaError):
    """The job is not in a state that this step or decision may leave (`states.MOVES`)."""


class StorageError(LoovaError):
    """The bucket is missing, closed to us, or cannot write conditionally, which paying once rests on.

    Attributes:
        transient: Whether the same call may work later (a server error, a lost connection).
    """

    def __init__(self, message: str, *, transient: bool = False, **known: Any) -> None:
        super().__init__(message, **known)
        self.transient = transient


class RecordMismatchError(StorageError):
    """The job record was written for another API origin, or by a newer version of this package.

    Attributes:
        is_other_api: Whether it is another API's: it is in nobody's way.
    """

    def __init__(self, message: str, *, is_other_api: bool = False, **known: Any) -> None:
        super().__init__(message, **known)
        self.is_other_api = is_other_api


def may_retry(error: object) -> bool:
    """Whether a call that raised this may be made again as it was: it cannot pay twice, and waiting may help."""
    if isinstance(error, StorageError):
        return error.transient
    return isinstance(error, LoovaError) and error.may_retry


NotWholeVideoError = IncompleteVideoError
"""The name until 0.1; it goes with the next version."""
MoveRefusedError = InvalidTransitionError
"""The name until 0.1; it goes with the next version."""
