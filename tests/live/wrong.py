"""Servers that are wrong in one way: for each checked assumption, how its answers differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.live.observe import NO_SUCH_TASK, WRONG_KEY
from tests.live.other_loova import KEY, Answer
from tests.live.submits import INVALID
from tests.live.trial import mp4
from tests.support.films import film

Where = Callable[[Answer], bool]
Change = Callable[[Answer], None]


def credits(answer: Answer) -> bool:
    return answer.endpoint == "credits" and answer.key == KEY


def bought(answer: Answer) -> bool:
    return answer.endpoint == "submit" and answer.body["code"] == 200


def refused(answer: Answer) -> bool:
    return answer.endpoint == "submit" and answer.body["code"] == 10001


def polled(answer: Answer) -> bool:
    return answer.endpoint == "poll" and answer.body["code"] == 200


def running(answer: Answer) -> bool:
    return polled(answer) and not answer.body["data"]["result"]


def finished(answer: Answer) -> bool:
    return polled(answer) and bool(answer.body["data"]["result"])


def unknown(answer: Answer) -> bool:
    return answer.task_id == NO_SUCH_TASK and answer.key == KEY


def listing(answer: Answer) -> bool:
    return answer.endpoint == "poll" and not answer.task_id


def video(answer: Answer) -> bool:
    return answer.endpoint == "video"


def anonymous(*endpoints: str) -> Where:
    return lambda answer: answer.endpoint in endpoints and answer.key == WRONG_KEY


def asked(body: dict[str, Any]) -> Where:
    return lambda answer: answer.asked == body and answer.key == KEY


def says(where: Where, status: int = 200, headers: dict[str, str] | None = None, **envelope: Any) -> Change:
    """Change the envelope, the HTTP status and the headers of some answers."""

    def change(answer: Answer) -> None:
        if where(answer):
            answer.status = status
            answer.headers |= headers or {}
            if envelope:
                answer.body = answer.body | envelope

    return change


def shows(where: Where, **data: Any) -> Change:
    """Change fields of the data of some answers."""

    def change(answer: Answer) -> None:
        if where(answer):
            answer.body["data"] |= data

    return change


def made(**result: Any) -> Change:
    """Change fields of a finished task's result."""

    def change(answer: Answer) -> None:
        if finished(answer):
            answer.body["data"]["result"] |= result

    return change


def plays(cut: Callable[[bytes], bytes]) -> Change:
    """Change the bytes of the video."""

    def change(answer: Answer) -> None:
        if video(answer):
            answer.body = cut(answer.body)

    return change


class ChargesRefusals:
    """Takes a credit for each refusal."""

    def __init__(self) -> None:
        self.refused = 0

    def __call__(self, answer: Answer) -> None:
        self.refused += refused(answer)
        if credits(answer):
            answer.body["data"]["api_available_credits"] -= self.refused


def no_envelope(answer: Answer) -> None:
    if credits(answer):
        answer.body = answer.body["data"]


def no_model(answer: Answer) -> None:
    if polled(answer):
        del answer.body["data"]["model"]


def video_on_the_api_host(answer: Answer) -> None:
    made(video_url=f"{answer.origin}/v.mp4")(answer)


def link_for_a_minute(answer: Answer) -> None:
    made(video_url=f"{answer.origin}/v.mp4?Expires={int(time.time()) + 60}")(answer)


def no_ranges(answer: Answer) -> None:
    if answer.status == 206:
        answer.status, answer.body = 200, mp4()


TASK = {"task_id": "record_id", "status": "running", "created_at": "2024-01-01T12:00:00Z", "credits_cost": 12.0}
WRONG: dict[str, Change] = {
    "base-url": says(credits, 404, code=404, data=None),
    "envelope": no_envelope,
    "trace-id": says(credits, trace_id=""),
    "login-failure": says(anonymous("credits"), code=403),
    "login-failure-of-a-submit": says(anonymous("submit"), code=200, message="Task created"),
    "error-status": says(anonymous("credits", "poll"), 500),
    "no-redirect": says(credits, 302, {"Location": "/elsewhere"}),
    "no-list": says(listing, code=200, data={"tasks": ["record_id"]}),
    "credits-shape": shows(credits, api_available_credits="many"),
    "unknown-task": says(unknown, code=200, data={"status": "failed", "result": None}),
    "unknown-task-code": says(unknown, code=10004),
    **{one.name: says(asked(one.body), code=200, data=TASK) for one in INVALID},
    "refusals-are-read": says(refused, code=0, message="your request is queued"),
    "refusals-are-free": ChargesRefusals(),
    "submit-shape": shows(bought, created_at="yesterday"),
    "task-id-length": shows(bought, task_id="x" * 300),
    "price": lambda answer: None,  # The quickstart's is not the table's.
    "balance": shows(credits, api_available_credits=47995),
    "poll-shape": no_model,
    "no-result-while-running": shows(running, result={"progress": 7}),
    "states": shows(polled, status="post_processing"),
    "result-decides": made(status="done"),
    "ends-in-time": made(finished_at="2024-01-01T16:00:00Z"),
    "cost-stays": shows(polled, credits_cost=75),
    "times": made(finished_at=1704110520),
    "polls-are-welcome": says(running, 429, code=429, message="Too many requests"),
    "has-url": made(video_url=None),
    "url-is-public": made(video_url="ftp://127.0.0.1/v.mp4"),
    "other-host": video_on_the_api_host,
    "without-key": says(video, 403),
    "redirects": says(video, 302, {"Location": "/again.mp4"}),
    "length": says(video, headers={"Content-Length": ""}),
    "etag": says(video, headers={"ETag": 'W/"v1"'}),
    "ranges": no_ranges,
    "whole": plays(lambda content: content[:-1000]),
    "fits-the-request": plays(lambda content: film(48, (64, 36))),
    "url-lifetime": link_for_a_minute,
}
