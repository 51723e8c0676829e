"""The errors of this package.

```
LoovaError
├── InvalidRequestError            the input is invalid; nothing was sent
├── BudgetError                    the request exceeds a budget; nothing was sent
├── NotSentError                   the submit was not sent (connection refused, DNS)
│   └── SuspendedError             this process was suspended right before the submit
├── RejectedError                  Loova refused the submit; nothing was bought
│   ├── AuthenticationError        the API key is missing, wrong or revoked
│   ├── InsufficientCreditsError   the account has too few API credits
│   ├── InputRefusedError          also a ContentRefusedError
│   └── TooManyRunningTasksError   the limit of running tasks is reached; you can retry later
├── InDoubtError                   the submit was sent and its answer is lost; a person decides
├── AbandonedError                 a person gave the job up
├── BatchError                     the batch ended without all of its videos
├── TaskFailedError                the Loova task failed
│   └── OutputRefusedError         also a ContentRefusedError
├── ContentRefusedError            Loova refused the content; the same request is not bought again
├── WaitTimeoutError               the task still runs, and the time to wait is over
├── UnexpectedResponseError        Loova's response to a read is not usable
│   ├── TaskNotFoundError          Loova does not know the task, or it belongs to another account
│   └── MissingVideoUrlError       the task succeeded, but Loova reports no video URL
├── TransferError                  the video could not be copied into the bucket
│   ├── VideoUrlRefusedError       the video's URL is expired, unreachable or not allowed
│   └── IncompleteVideoError       the content is not a whole mp4
├── PreviewError                   the preview of a video could not be made
├── UnusableVideoError             a request or a film cannot use a video
├── InvalidTransitionError         the job's state does not allow this step or decision
└── StorageError                   the bucket cannot be used for job records
    └── RecordMismatchError        the job record is for another API or a newer version
```

Every error has the Loova task and Loova's `trace_id` (for Loova's support) if they are known, and says whether credits
may be spent. No error contains an API key, an AWS key or a signed URL.
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
    """Make foreign text safe for a log line or an error: one short line, without the queries and passwords of URLs.

    Args:
        text: Text from Loova, a user or a server.
        limit: The largest number of characters to return.
    """
    # Cut before the search too, because megabytes of `http://http://` would take minutes.
    line = _UNPRINTABLE.sub(" ", hide_secrets(str(text)[: 8 * limit])).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


_MAX_PROBLEMS = 50
"""The most problems that one error lists."""


def first_lines(lines: Sequence[str], most: int = _MAX_PROBLEMS) -> list[str]:
    """Return the first lines, and a line that counts the others."""
    left = len(lines) - most
    return [*lines[:most], f"... and {left:,} more"] if left > 0 else list(lines)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 video`, `1,000 videos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class LoovaError(Exception):
    """The base class of the errors that this package raises.

    Attributes:
        message: What happened and what to do next, without the other attributes.
        task_id: The Loova task, if known.
        trace_id: Loova's trace of the response, for Loova's support.
        http_status: The HTTP status of the response.
        code: The `code` in Loova's response.
        loova_message: The `message` in Loova's response, redacted.
        credits_spent: Whether credits may be spent: `no`, `maybe` or `yes`.
        request: The failed request, as `GET /v1/tasks at api.loova.ai`, if known.
    """

    may_retry: ClassVar[bool] = False
    """Whether you can repeat the call without the risk of paying twice."""

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
        """The message and Loova's message, without the details of one job."""
        return ": ".join(filter(None, (self.message, self.loova_message)))

    @property
    def details(self) -> str:
        """The other attributes, as `(task_id: ..., credits spent: ...)`, or an empty string."""
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
    """The input is invalid. Nothing was sent or spent."""

    @classmethod
    def from_validation(cls, error: ValidationError) -> Self:
        """Return an error with one line for each violation that pydantic found."""
        lines = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            field = ".".join(str(part) for part in problem["loc"]) or error.title
            lines.append(f"{redact(field, 120)}: {redact(problem['msg'])}")
        return cls("\n".join(lines))


class BudgetError(LoovaError):
    """The request exceeds a budget, so it was not sent."""


class NotSentError(LoovaError):
    """The submit was not sent, so nothing was bought. You can retry."""

    may_retry = True


class SuspendedError(NotSentError):
    """This process or its machine was suspended for so long that the submit was not sent.

    `submit_video` retries within its `max_wait`.
    """


class RejectedError(LoovaError):
    """Loova refused the submit. Nothing was bought."""


class AuthenticationError(RejectedError):
    """Loova does not accept the API key."""


class InsufficientCreditsError(RejectedError):
    """The account has too few API credits for this request."""


class ContentRefusedError(LoovaError):
    """Loova refused the content of a request, or of the video that it made.

    The same request is not bought again. Change the prompt or the media, give a `fallback_prompt`, or ask for another
    `take`. `docs/answers.md` says how a refusal of content is recognized.
    """


class InputRefusedError(RejectedError, ContentRefusedError):
    """Loova refused the content of the request. Nothing was bought."""


class TooManyRunningTasksError(RejectedError):
    """The account has reached Loova's limit of running tasks (6, see pricing-and-limits).

    `submit_video` waits for a free slot. It raises this error when its `max_wait` is over.
    """


class InDoubtError(LoovaError):
    """A submit was sent and its answer is lost, so it may be billed.

    The same request is not submitted again until a person decides.

    Attributes:
        key: The request's key, if the job has a record.
        attempt: The attempt in doubt, counted from 1.
        next_steps: The next steps for the person, with commands.
        found: Whether an earlier run lost the answer. Then Loova may respond normally now.
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
    """A person gave the job up. To get the video after all, request another `take`."""


class BatchError(LoovaError):
    """A batch ended without all of its videos. The others are saved.

    Attributes:
        report: The outcome of each request, as a `prefect_loova.BatchReport`.
    """

    def __init__(self, message: str, *, report: Any = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.report = report

    def __str__(self) -> str:
        # The first line and the details are about the batch, each other line about one job.
        batch, *jobs = self.message.split("\n")
        return "\n".join([" ".join(filter(None, (batch, self.details))), *jobs])


class TaskFailedError(LoovaError):
    """The Loova task ended without a video. Loova does not document whether it refunds the credits."""


class OutputRefusedError(TaskFailedError, ContentRefusedError):
    """Loova refused the content of the video that it made. Loova does not document whether it refunds the credits."""


class WaitTimeoutError(LoovaError):
    """The task still runs, and the time to wait is over. Nothing is lost: repeat the call to wait longer."""


class UnexpectedResponseError(LoovaError):
    """Loova's response to a read is not usable."""

    may_retry = True


class TaskNotFoundError(UnexpectedResponseError):
    """Loova does not know this task. The API key of another account gets the same response."""

    may_retry = False


class MissingVideoUrlError(UnexpectedResponseError):
    """The task succeeded, but Loova reports no `video_url`. The credits are spent, and the job stays open."""

    may_retry = False


class TransferError(LoovaError):
    """The video could not be copied into the bucket. The task id is kept, and you can retry."""

    may_retry = True


class VideoUrlRefusedError(TransferError):
    """The video's URL returns an error, or leads to an address that is not allowed."""


class IncompleteVideoError(TransferError):
    """The content is not a whole mp4: cut short, not a video, or larger than `max_bytes`.

    Attributes:
        at_least_bytes: The size of the video as far as it is known, if it is larger than `max_bytes`.
    """

    def __init__(self, message: str, *, at_least_bytes: int | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.at_least_bytes = at_least_bytes


class PreviewError(LoovaError):
    """No preview can be made of a video, because it is not complete or exceeds a limit. The video is unchanged."""


class UnusableVideoError(LoovaError):
    """No frame can be taken from a video, or it cannot be joined to others.

    It is not a whole mp4, or exceeds a limit. Retrying does not help; use another video.
    """


class InvalidTransitionError(LoovaError):
    """The job's state does not allow this step or decision (`models.job_states.MOVES`)."""


class StorageError(LoovaError):
    """The bucket is missing, denies access, or does not support the conditional writes that job records need.

    Attributes:
        transient: Whether the same call may succeed later (a server error, a lost connection).
    """

    def __init__(self, message: str, *, transient: bool = False, **known: Any) -> None:
        super().__init__(message, **known)
        self.transient = transient


class RecordMismatchError(StorageError):
    """The job record is for another API, or a newer version of this package wrote it.

    Attributes:
        is_other_api: Whether the record is for another API. Such a record is no problem for other jobs.
    """

    def __init__(self, message: str, *, is_other_api: bool = False, **known: Any) -> None:
        super().__init__(message, **known)
        self.is_other_api = is_other_api


def may_retry(error: object) -> bool:
    """Return whether repeating the call that raised this error may help and cannot pay twice."""
    if isinstance(error, StorageError):
        return error.transient
    return isinstance(error, LoovaError) and error.may_retry


NotWholeVideoError = IncompleteVideoError
"""The name up to 0.1. The next version removes it."""
MoveRefusedError = InvalidTransitionError
"""The name up to 0.1. The next version removes it."""
