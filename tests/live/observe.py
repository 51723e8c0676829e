"""Asks an API, and downloads the video: everything that a run sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import httpx

from prefect_loova._redaction import hide_secrets
from prefect_loova.errors import IncompleteVideoError
from prefect_loova.transfer.mp4 import Mp4Check
from tests.live.model import Exchange, Seen, Video, is_over
from tests.live.spending import Folder, Purse
from tests.live.submits import BODY, INVALID, VIDEO

WRONG_KEY = "prefect-loova-wrong-key"
NO_SUCH_TASK = "prefect-loova-no-such-task"
SUBMIT_SECONDS = 60.0
_PATHS = {"submit": "/v1/video/seedance-2", "poll": "/v1/tasks", "credits": "/v1/credits"}
_MOST_REDIRECTS = 5
_BLANK = BODY | {"prompt": " "}


@dataclass(frozen=True)
class Settings:
    """How a run asks.

    Attributes:
        api_key: The key.
        base_url: The URL above `/v1`.
        folder: Remembers what must not be sent twice.
        poll_seconds: The first pause between two polls. Each is 7% longer.
        wait_seconds: How long to poll.
        say: Takes a line about what happens.
        clock: Returns the time, in seconds since 1970.
    """

    api_key: str
    base_url: str
    folder: Path
    poll_seconds: float = 20.0
    wait_seconds: float = 10_800.0
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.time


class Observer:
    """Asks an API and keeps what it sees. Redirects of the API are not followed."""

    def __init__(self, settings: Settings, http: httpx.Client) -> None:
        """Start with nothing seen."""
        self._settings = settings
        self._http = http
        self.folder = Folder(settings.folder)
        self.seen = Seen(settings.base_url, settings.clock())

    def ask_for_free(self) -> None:
        """Send what cannot cost anything: reads, and a submit that no key belongs to."""
        self._read("credits", "credits")
        self._read("credits-wrong-key", "credits", key=WRONG_KEY)
        self._read("poll-wrong-key", "poll", {"task_id": NO_SUCH_TASK}, key=WRONG_KEY)
        self._read("poll-unknown-task", "poll", {"task_id": NO_SUCH_TASK})
        self._read("poll-without-task-id", "poll")
        refused = self._try("submit-wrong-key", lambda: self._post("submit-wrong-key", _BLANK, key=WRONG_KEY))
        if refused:
            self.seen.exchanges[refused.name] = refused

    def spend(self, allowance: float) -> None:
        """Send the submits that the allowance covers, or take their answers from the folder."""
        if not self.seen.has_login and self.folder.task_id is None:
            reason = "the credits could not be read with this key"
            self.seen.skipped |= dict.fromkeys([one.name for one in (*INVALID, VIDEO)] + ["credits-before"], reason)
            return
        purse = Purse(self.folder, allowance)
        self._credits("credits-before", is_time=allowance > 0 and not self.folder.closed)
        for submit in (*INVALID, VIDEO):
            if submit is VIDEO:
                self._credits("credits-after-refusals", is_time=allowance > 0 and not self.folder.answered(VIDEO.name))
            answer = purse.submit(submit, lambda one=submit: self._post(one.name, one.body))  # type: ignore[misc]
            if isinstance(answer, Exchange):
                self.seen.exchanges[submit.name] = answer
                self._say(f"{submit.name}: {answer.says}")
            else:
                self.seen.skipped[submit.name] = answer

    def watch(self) -> None:
        """Poll the bought task until it ends, and download its video."""
        task_id = self.folder.task_id
        if task_id is None:
            return
        self._credits("credits-after-submit")
        self._poll(task_id)
        url = self.seen.polls[-1].result.get("video_url") if self.seen.polls else None
        if isinstance(url, str):
            self._say("downloading the video")
            self.seen.video = download(url, self._http)
        if self.seen.polls and is_over(self.seen.polls[-1]):
            self._credits("credits-at-the-end")

    def _poll(self, task_id: str) -> None:
        pause, ends = self._settings.poll_seconds, time.monotonic() + self._settings.wait_seconds
        while True:
            one = self._try("poll", lambda: self._get("poll", "poll", {"task_id": task_id}))
            if one:
                self.seen.polls.append(one)
                self._say(f"poll {len(self.seen.polls)}: {one.data.get('status')}")
                if is_over(one):
                    return
            if time.monotonic() + pause > ends:
                return
            time.sleep(pause)
            pause *= 1.07

    def _say(self, line: str) -> None:
        self._settings.say(hide_secrets(line, self._settings.api_key))

    def _credits(self, name: str, *, is_time: bool = True) -> None:
        """Read the credits once in all runs, at their time: a later balance would say something else."""
        kept = self.folder.answered(name)
        one = kept or (self._try(name, lambda: self._get(name, "credits")) if is_time else None)
        if one:
            self.seen.exchanges[name] = one if kept else self.folder.keep(one)

    def _read(
        self, name: str, on: Literal["poll", "credits"], params: dict[str, str] | None = None, key: str = ""
    ) -> None:
        one = self._try(name, lambda: self._get(name, on, params, key))
        if one:
            self.seen.exchanges[name] = one

    def _try(self, name: str, ask: Callable[[], Exchange]) -> Exchange | None:
        try:
            return ask()
        except httpx.HTTPError as error:
            self.seen.skipped[name] = f"no answer: {type(error).__name__}"
            self._say(f"{name}: {self.seen.skipped[name]}")
            return None

    def _get(
        self, name: str, on: Literal["poll", "credits"], params: dict[str, str] | None = None, key: str = ""
    ) -> Exchange:
        return self._ask(name, on, "GET", key, params=params)

    def _post(self, name: str, body: dict[str, Any], key: str = "") -> Exchange:
        return self._ask(name, "submit", "POST", key, json=body, timeout=SUBMIT_SECONDS)

    def _ask(
        self, name: str, on: Literal["submit", "poll", "credits"], method: str, key: str, **content: Any
    ) -> Exchange:
        at, start = self._settings.clock(), time.monotonic()
        headers = {"Authorization": f"Bearer {key or self._settings.api_key}", "Accept": "application/json"}
        answer = self._http.request(method, self._settings.base_url + _PATHS[on], headers=headers, **content)
        fields = {field.lower(): value for field, value in answer.headers.items()}
        return Exchange(name, on, answer.status_code, fields, answer.text, time.monotonic() - start, at)


def download(url: str, http: httpx.Client) -> Video:
    """Download a video without the API key, check it, and download a part of it again."""
    urls = [url]
    try:
        while True:
            with http.stream("GET", urls[-1], headers={"Accept-Encoding": "identity"}) as answer:
                location = answer.headers.get("location")
                if not (answer.is_redirect and location and len(urls) <= _MOST_REDIRECTS):
                    return _read_video(tuple(urls), answer, http)
            urls.append(urljoin(urls[-1], location))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return Video(tuple(urls), 0, {}, problem=f"no answer: {type(error).__name__}")


def _read_video(urls: tuple[str, ...], answer: httpx.Response, http: httpx.Client) -> Video:
    headers = {field.lower(): value for field, value in answer.headers.items()}
    check, length, start, facts, problem = Mp4Check(), 0, bytearray(), None, ""
    try:
        for chunk in answer.iter_bytes():
            length += len(chunk)
            start += chunk[: max(0, 1_100 - len(start))]
            if not problem:
                try:
                    check.feed(chunk)
                except IncompleteVideoError as error:
                    problem = str(error)
        facts = check.finish(length_is_known="content-length" in headers) if not problem else None
    except (IncompleteVideoError, httpx.HTTPError) as error:
        problem = f"{type(error).__name__}: {error}"
    status, is_right = _read_part(urls[-1], headers, bytes(start), http) if answer.status_code == 200 else (None, False)
    return Video(urls, answer.status_code, headers, length, facts, problem, status, is_right)


def _read_part(url: str, headers: dict[str, str], start: bytes, http: httpx.Client) -> tuple[int | None, bool]:
    asked = {"Range": "bytes=100-1099", "Accept-Encoding": "identity"}
    if headers.get("etag", "").startswith('"'):
        asked["If-Range"] = headers["etag"]
    try:
        with http.stream("GET", url, headers=asked) as part:
            return part.status_code, part.status_code == 206 and part.read() == start[100:1_100]
    except httpx.HTTPError:
        return None, False
