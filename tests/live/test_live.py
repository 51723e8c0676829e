"""The live suite on the simulator, on a server by another hand, and on servers that are wrong.

It was never run on the real service. These tests show that it can tell right from wrong, and what it spends.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import RejectedError, TaskNotFoundError
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from tests.live import __main__ as live
from tests.live.assumptions import ASSUMPTIONS
from tests.live.model import Row
from tests.live.observe import NO_SUCH_TASK, WRONG_KEY, Settings
from tests.live.other_loova import KEY, Answer, OtherLoova
from tests.live.spending import Folder
from tests.live.submits import BODY, INVALID, PRICE
from tests.support.docs_blocks import GUIDES
from tests.support.films import film

CHECKED = [one.id for one in ASSUMPTIONS if one.check]
EVERYTHING = 160.0
DAY = 86_400


@cache
def mp4() -> bytes:
    return film(96, (64, 36))


def go(
    loova: OtherLoova | LoovaSimulator,
    folder: Path,
    allowance: float = EVERYTHING,
    days: float = 0,
    wait_seconds: float = 20,
) -> dict[str, Row]:
    """Run the suite, and return the rows by id."""
    key = loova.api_key if isinstance(loova, LoovaSimulator) else KEY
    settings = Settings(
        key,
        loova.base_url,
        folder / "requests",
        poll_seconds=0.05,
        wait_seconds=wait_seconds,
        say=lambda line: None,
        clock=lambda: time.time() + days * DAY,
    )
    seen = live.run(settings, lambda kept: allowance)
    return {row.id: row for row in live.write(seen, key, folder)}


def outcomes(rows: dict[str, Row], outcome: str) -> set[str]:
    return {row.id for row in rows.values() if row.outcome == outcome}


@pytest.fixture
def other() -> Iterator[OtherLoova]:
    with OtherLoova(mp4()) as loova:
        yield loova


# What it tells.


def test_the_simulator_confirms_every_assumption_that_can_be_checked(tmp_path: Path) -> None:
    with LoovaSimulator(generation_seconds=1, short_side=64) as loova:
        first = go(loova, tmp_path)
        assert outcomes(first, "confirmed") == set(CHECKED) - {"after-a-day"}
        loova.advance(1.5 * DAY)
        later = go(loova, tmp_path, days=1.5)
        assert later["after-a-day"].outcome == "confirmed"
        assert outcomes(first | later, "refuted") == set()
        assert loova.ledger["totals"] | {"billed": 1, "video_requests_with_key": 0} == loova.ledger["totals"]


def test_a_server_by_another_hand_confirms_all_but_the_price_of_the_quickstart(
    other: OtherLoova, tmp_path: Path
) -> None:
    rows = go(other, tmp_path)
    assert outcomes(rows, "refuted") == {"price"}
    assert outcomes(rows, "confirmed") == set(CHECKED) - {"price", "after-a-day"}
    assert rows["result-decides"].detail == "status running, in the result succeeded"
    assert set(other.video_keys) == {""}


# Servers that are wrong in one way.

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


def test_every_check_has_a_server_that_is_wrong() -> None:
    assert set(WRONG) | {"answer-time", "after-a-day"} == set(CHECKED)


@pytest.mark.parametrize("name", WRONG)
def test_a_server_that_is_wrong_refutes_the_assumption(name: str, tmp_path: Path) -> None:
    with OtherLoova(mp4(), WRONG[name]) as loova:
        assert go(loova, tmp_path, wait_seconds=0.3)[name].outcome == "refuted"


def test_an_answer_that_takes_too_long_refutes_the_assumption(other: OtherLoova, tmp_path: Path) -> None:
    assert go(other, tmp_path)["answer-time"].outcome == "confirmed"
    kept = tmp_path / "requests" / "submit.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"seconds": 45.0}))
    assert go(other, tmp_path)["answer-time"].outcome == "refuted"


def test_a_task_that_is_forgotten_after_a_day_refutes_the_assumption(other: OtherLoova, tmp_path: Path) -> None:
    assert go(other, tmp_path)["after-a-day"].outcome == "not checked"
    other.change = says(polled, code=404, data=None, message="task lookup failure")
    assert go(other, tmp_path, days=2, wait_seconds=0)["after-a-day"].outcome == "refuted"


# What it spends.


def submitted(loova: OtherLoova) -> int:
    """Return how many submits arrived with the real key."""
    return loova.posts.count(KEY)


def test_nothing_is_submitted_without_an_allowance(other: OtherLoova, tmp_path: Path) -> None:
    rows = go(other, tmp_path, allowance=0)
    assert submitted(other) == 0
    assert rows["unknown-task"].outcome == "confirmed"
    assert rows["submit-shape"] == Row("submit-shape", "not checked", "it may cost 40 credits, and the allowance is 0")


def test_an_allowance_of_one_video_buys_one_video_and_leaves_out_what_may_cost_more(
    other: OtherLoova, tmp_path: Path
) -> None:
    rows = go(other, tmp_path, allowance=PRICE)
    assert other.bought == [BODY]
    assert submitted(other) == 1 + sum(one.price <= PRICE for one in INVALID)
    assert rows["refuses-duration-3"].detail == "it may cost 50 credits, and the allowance is 40"


def test_a_second_run_submits_nothing_and_says_the_same(other: OtherLoova, tmp_path: Path) -> None:
    first, posts = go(other, tmp_path), submitted(other)
    second = go(other, tmp_path)
    assert submitted(other) == posts
    late = {"no-result-while-running", "polls-are-welcome", "envelope", "trace-id", "no-redirect", "url-lifetime"}
    assert {name: row for name, row in second.items() if name not in late} == {
        name: row for name, row in first.items() if name not in late
    }


def test_a_run_that_was_cut_while_it_polled_goes_on_with_the_same_task(other: OtherLoova, tmp_path: Path) -> None:
    cut = go(other, tmp_path, wait_seconds=0)
    assert cut["has-url"].detail == "the task still runs: run this again to go on, without paying"
    assert go(other, tmp_path, allowance=0)["whole"].outcome == "confirmed"
    assert len(other.bought) == 1


def test_a_submit_is_in_the_folder_before_it_is_sent(other: OtherLoova, tmp_path: Path) -> None:
    kept = tmp_path / "requests" / "submit.json"
    before = []
    other.change = lambda answer: before.append(kept.read_text()) if bought(answer) else None
    go(other, tmp_path)
    assert before == ["{}"]
    assert json.loads(json.loads(kept.read_text())["body"])["data"]["task_id"] == "record_id"


def test_a_lost_answer_ends_all_submits_until_a_person_removes_the_file(other: OtherLoova, tmp_path: Path) -> None:
    other.change = says(bought, 0)
    assert go(other, tmp_path)["submit-shape"].detail == "no answer to the submit: RemoteProtocolError"
    other.change, posts = lambda answer: None, submitted(other)
    detail = go(other, tmp_path)["submit-shape"].detail
    assert submitted(other) == posts
    assert "submit.json was sent and may be billed (its answer is not known)" in detail
    (tmp_path / "requests" / "submit.json").unlink()
    assert go(other, tmp_path)["submit-shape"].outcome == "confirmed"
    assert submitted(other) == posts + 1


def test_an_answer_in_doubt_ends_all_submits(tmp_path: Path) -> None:
    with OtherLoova(mp4(), says(refused, 502)) as loova:
        go(loova, tmp_path)
        rows = go(loova, tmp_path)
        assert submitted(loova) == 1
        assert "refuses-blank-prompt.json was sent and may be billed" in rows["submit-shape"].detail


def test_an_invalid_request_that_is_accepted_is_the_one_video(tmp_path: Path) -> None:
    with OtherLoova(mp4(), WRONG["refuses-blank-prompt"]) as loova:
        rows = go(loova, tmp_path, wait_seconds=0)
        assert submitted(loova) == 1
        assert rows["price"].detail == "a task was bought already, and one is enough"


def test_a_submit_that_was_surely_not_sent_may_be_sent_later(tmp_path: Path) -> None:
    with OtherLoova(mp4()) as closed:
        pass
    rows = go(closed, tmp_path)
    assert rows["submit-shape"].detail == "no answer to the submit: ConnectError"
    assert Folder(tmp_path / "requests").closed is None


def test_two_runs_at_a_time_send_a_submit_once(other: OtherLoova, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(FileExistsError):
        folder.submit("submit", lambda: folder.submit("submit", pytest.fail))
    assert folder.closed


# What it writes.


@pytest.fixture
def answers(other: OtherLoova, tmp_path: Path) -> dict[str, dict[str, Any]]:
    go(other, tmp_path)
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "fixtures").iterdir()}


def test_no_file_for_others_holds_a_secret_or_an_id(other: OtherLoova, tmp_path: Path) -> None:
    other.change = says(bought, message=f"made: {KEY} of a.person@example.com, record_id, order 1234567")
    go(other, tmp_path)
    texts = [path.read_text() for path in [*(tmp_path / "fixtures").iterdir(), tmp_path / "report.json"]]
    assert len(texts) > 20
    for secret in (KEY, "secret-signature", "trace_xxx", "47995", "47983"):
        assert not any(secret in text for text in texts), secret
    message = json.loads((tmp_path / "fixtures" / "submit.json").read_text())["body"]["message"]
    assert message == "made: redacted of redacted, redacted, order 0"


def test_the_folder_is_for_its_owner(other: OtherLoova, tmp_path: Path) -> None:
    go(other, tmp_path)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "requests").iterdir()} == {0}


async def test_the_simulator_replays_the_answers(answers: dict[str, dict[str, Any]]) -> None:
    async with replaying(answers["submit"]) as loova:
        task = await loova.submit_video(VideoRequest(prompt="A city"))
    assert (task.task_id, task.status, task.credits_cost) == ("redacted-task-id", "running", 12)
    async with replaying(answers["poll-2"]) as loova:
        done = await loova.get_task("redacted-task-id")
    assert (done.state, done.status, done.model) == ("succeeded", "succeeded", "seedance_2_0_fast")
    assert done.finished_at == datetime(2024, 1, 1, 12, 2, tzinfo=UTC)
    assert done.video_url == "http://127.0.0.1/redacted.mp4?Expires=redacted&Signature=redacted"
    async with replaying(answers["refuses-blank-prompt"]) as loova:
        with pytest.raises(RejectedError) as refusal:
            await loova.submit_video(VideoRequest(prompt="A city"))
    assert (refusal.value.http_status, refusal.value.code, refusal.value.loova_message) == (
        200,
        10001,
        "invalid parameters",
    )
    async with replaying(answers["poll-unknown-task"]) as loova:
        with pytest.raises(TaskNotFoundError):
            await loova.get_task("x")
    async with replaying(answers["credits"]) as loova:
        assert (await loova.get_credits()).available == 1000


@asynccontextmanager
async def replaying(fault: dict[str, Any]) -> AsyncIterator[LoovaClient]:
    with LoovaSimulator(short_side=64) as simulator:
        simulator.fail(**fault)
        async with LoovaClient(simulator.api_key, simulator.base_url) as loova:
            yield loova
        assert simulator.ledger["totals"]["billed"] == 0


# The command.


def test_the_command_needs_a_key_and_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOOVA_API_KEY", raising=False)
    assert live.main([]) == 2
    assert "LOOVA_API_KEY: is not set" in capsys.readouterr().err
    monkeypatch.setenv("LOOVA_API_KEY", KEY)
    monkeypatch.setenv("LOOVA_LIVE_SPEND", "all")
    assert live.main([]) == 2
    assert "LOOVA_LIVE_SPEND: 'all' was given" in capsys.readouterr().err


@pytest.mark.parametrize("allowance", ["", "40"])
def test_the_command_spends_nothing_unless_it_is_allowed(
    other: OtherLoova,
    allowance: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOOVA_API_KEY", KEY)
    monkeypatch.setenv("LOOVA_BASE_URL", other.base_url)
    monkeypatch.setenv("LOOVA_LIVE_SPEND", allowance)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    code = live.main(["--folder", str(tmp_path), "--poll-seconds", "0.05"])
    out = capsys.readouterr().out
    assert (code, len(other.bought)) == ((1, 1) if allowance else (0, 0))
    assert re.search(r"(?m)^(refuted|not checked) +price ", out)
    assert KEY not in out
    assert "secret-signature" not in out
    assert ("Nobody is asked here" in out) == (not allowance)


@pytest.mark.parametrize(("typed", "spends"), [("yes", PRICE), ("y", 0), ("", 0)])
def test_a_person_at_a_terminal_has_to_type_yes(
    typed: str, spends: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO(f"{typed}\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    assert live.ask(Folder(tmp_path), None) == spends
    assert "40 credits ($1.28 to $3.20)" in capsys.readouterr().out


# The page.


def test_the_page_has_the_tables_of_the_list() -> None:
    assert GUIDES["assumptions.md"] == live.page_with_tables(GUIDES["assumptions.md"])
    assert live.tables() in GUIDES["assumptions.md"]


def test_each_assumption_has_its_own_id_and_says_what_happens_or_why_it_cannot_be_checked() -> None:
    ids = [one.id for one in ASSUMPTIONS]
    assert len(set(ids)) == len(ids)
    for one in ASSUMPTIONS:
        assert (one.check is None) == one.live.startswith("Cannot be checked"), one.id
        assert one.if_wrong.endswith("."), one.id
        assert "|" not in one.claim + one.if_wrong + one.live, one.id
