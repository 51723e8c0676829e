"""What the live suite works with: assumptions, what was seen, and the rows of its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect_loova._api.responses import ApiResponse, parse_submit, parse_task
from prefect_loova.errors import LoovaError, RejectedError
from prefect_loova.transfer.mp4 import Mp4Facts

Source = Literal["documented", "seen in clients", "assumed", "other hosts"]
"""Where an assumption comes from: Loova's pages, public clients of Loova, this package, or other hosts of the model."""

Outcome = Literal["confirmed", "refuted", "not checked"]


class Refuted(Exception):
    """What was seen contradicts the assumption."""


class NotChecked(Exception):
    """What the check needs was not seen."""


@dataclass(frozen=True)
class Exchange:
    """One request to the API and its answer.

    Attributes:
        name: What was asked, such as `credits-before`.
        on: The endpoint.
        http_status: The HTTP status.
        headers: The headers of the answer, with names in lower case.
        body: The body of the answer.
        seconds: How long the answer took.
        at: When the request was sent, in seconds since 1970.
    """

    name: str
    on: Literal["submit", "poll", "credits"]
    http_status: int
    headers: dict[str, str] = field(repr=False)
    body: str = field(repr=False)
    seconds: float
    at: float

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def data(self) -> dict[str, Any]:
        """The envelope's `data`; empty if it is not an object."""
        data = self.json.get("data") if isinstance(self.json, dict) else None
        return data if isinstance(data, dict) else {}

    @property
    def result(self) -> dict[str, Any]:
        """The task's `result`; empty if it is not an object."""
        result = self.data.get("result")
        return result if isinstance(result, dict) else {}

    @property
    def response(self) -> ApiResponse:
        """The answer as the client reads it."""
        return ApiResponse.parse(self.http_status, self.body.encode(), location=self.headers.get("location"))

    @property
    def failed(self) -> bool:
        """Whether the answer says that the request failed."""
        return self.http_status != 200 or self.response.code != 200

    @property
    def says(self) -> str:
        """The answer in a few words."""
        response = self.response
        return f"HTTP {self.http_status}, code {response.code}, {response.message or 'no message'}"


@dataclass(frozen=True)
class Video:
    """What the video's host answered. The URLs are secrets.

    Attributes:
        urls: The URL of the task, then those of the redirects.
        http_status: The HTTP status of the last answer.
        headers: Its headers, with names in lower case.
        length: How many bytes arrived.
        facts: The facts in the mp4, if it is whole.
        problem: Why the video is not whole, or could not be downloaded.
        range_status: The HTTP status of a request for a part; None if it was not sent.
        range_is_right: Whether that part has the right bytes.
    """

    urls: tuple[str, ...] = field(repr=False)
    http_status: int
    headers: dict[str, str] = field(repr=False)
    length: int = 0
    facts: Mp4Facts | None = None
    problem: str = ""
    range_status: int | None = None
    range_is_right: bool = False


@dataclass
class Seen:
    """Everything that a run saw."""

    base_url: str
    now: float
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why an exchange is missing."""
    polls: list[Exchange] = field(default_factory=list)
    video: Video | None = None

    def answer(self, name: str) -> Exchange:
        """Return an exchange.

        Raises:
            NotChecked: It did not take place.
        """
        if name not in self.exchanges:
            raise NotChecked(self.skipped.get(name, "the request was not sent"))
        return self.exchanges[name]

    @property
    def has_login(self) -> bool:
        """Whether the API accepts the key."""
        return "credits" in self.exchanges and not self.exchanges["credits"].failed

    def answer_to_the_key(self, name: str) -> Exchange:
        """Return an exchange. Without a login, its answer says nothing but that.

        Raises:
            NotChecked: It did not take place, or the key is not accepted.
        """
        if not self.has_login:
            raise NotChecked("the credits could not be read with this key")
        return self.answer(name)

    @property
    def all(self) -> list[Exchange]:
        """All exchanges with the API."""
        return [*self.exchanges.values(), *self.polls]

    @property
    def bought(self) -> Exchange:
        """The answer that named a task.

        Raises:
            NotChecked: Nothing was bought.
        """
        for one in self.exchanges.values():
            if one.on == "submit" and one.response.task_id:
                return one
        submit = self.answer("submit")
        verdict = "may be billed" if is_in_doubt(submit) else "was refused"
        raise NotChecked(f"the submit {verdict} ({submit.says}); to submit again, remove its file")

    @property
    def first_poll(self) -> Exchange:
        """The first poll of the bought task.

        Raises:
            NotChecked: There was none.
        """
        task_id = self.bought.response.task_id
        if not self.polls:
            raise NotChecked(f"task {task_id} was not polled")
        return self.polls[0]

    @property
    def finished(self) -> Exchange:
        """The poll that shows how the task ended.

        Raises:
            NotChecked: It still runs.
        """
        if self.first_poll and not is_over(self.polls[-1]):
            raise NotChecked("the task still runs: run this again to go on, without paying")
        return self.polls[-1]

    @property
    def download(self) -> Video:
        """What the video's host answered.

        Raises:
            NotChecked: Nothing was downloaded.
        """
        if self.video is None:
            raise NotChecked(f"there is no video: {self.finished.says}")
        return self.video


@dataclass(frozen=True)
class Assumption:
    """One thing that the package relies on.

    Attributes:
        id: Its name in reports and in docs/assumptions.md.
        claim: What is assumed.
        source: Where it comes from.
        if_wrong: What happens to the user if it is wrong.
        live: What the live check does; without a check, why there is none.
        check: Returns what confirms the assumption, or raises `Refuted` or `NotChecked`.
    """

    id: str
    claim: str
    source: Source
    if_wrong: str
    live: str
    check: Callable[[Seen], str] | None = None


@dataclass(frozen=True)
class Row:
    """The report's row of one assumption."""

    id: str
    outcome: Outcome
    detail: str


def judge(assumption: Assumption, seen: Seen) -> Row:
    """Compare one assumption with what was seen."""
    if assumption.check is None:
        return Row(assumption.id, "not checked", assumption.live)
    try:
        return Row(assumption.id, "confirmed", assumption.check(seen))
    except Refuted as refuted:
        return Row(assumption.id, "refuted", str(refuted))
    except NotChecked as reason:
        return Row(assumption.id, "not checked", str(reason))
    except Exception as error:  # An answer that nobody thought of must not end the report of a paid run.
        return Row(assumption.id, "not checked", f"the check failed: {type(error).__name__}")


def host_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def is_in_doubt(exchange: Exchange) -> bool:
    """Return whether the answer to a submit does not say whether it was billed."""
    try:
        parse_submit(exchange.response)
    except LoovaError as error:
        return not isinstance(error, RejectedError)
    return False


def is_over(poll: Exchange) -> bool:
    """Return whether a poll shows the end of a task, as the client reads it."""
    try:
        return parse_task(poll.response, poll.response.task_id or "").state != "running"
    except LoovaError:
        return False
