"""The live suite on the simulator, on a server by another hand, and on servers that are wrong.

It was never run on the real service. These tests show that it can tell right from wrong, and what it spends.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import RejectedError, TaskNotFoundError
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import LoovaSimulator
from tests.live import __main__ as live
from tests.live.assumptions import ASSUMPTIONS
from tests.live.model import Exchange, Row, Seen
from tests.live.other_loova import KEY, OtherLoova
from tests.live.spending import Folder, Purse
from tests.live.submits import BODY, INVALID, PRICE, VIDEO
from tests.live.trial import DAY, go, mp4
from tests.live.wrong import WRONG, bought, polled, refused, says
from tests.support.docs_blocks import GUIDES

ROOT = Path(__file__).parents[2]
CHECKED = [one.id for one in ASSUMPTIONS if one.check]


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


def test_a_refused_submit_is_told_and_not_repeated_by_itself(other: OtherLoova, tmp_path: Path) -> None:
    other.change = says(bought, code=402, message="Insufficient credits", data=None)
    detail = "the submit was refused (HTTP 200, code 402, Insufficient credits); to submit again, remove its file"
    posts = 0
    for _ in range(2):
        assert go(other, tmp_path)["submit-shape"].detail == detail
        posts = posts or submitted(other)
    assert submitted(other) == posts
    (tmp_path / "requests" / "submit.json").unlink()
    other.change = lambda answer: None
    assert go(other, tmp_path)["submit-shape"].outcome == "confirmed"


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
    purse = Purse(Folder(tmp_path), PRICE)

    def send() -> Exchange:
        raise AssertionError(httpx.post(closed.base_url))

    assert purse.submit(VIDEO, send) == "no answer to the submit: ConnectError"
    assert Folder(tmp_path).closed is None


def test_two_runs_at_a_time_send_a_submit_once(other: OtherLoova, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with pytest.raises(FileExistsError):
        folder.submit("submit", lambda: folder.submit("submit", pytest.fail))
    assert folder.closed


def test_a_run_that_is_killed_during_the_submit_never_submits_again(other: OtherLoova, tmp_path: Path) -> None:
    environment = os.environ | {"LOOVA_API_KEY": KEY, "LOOVA_BASE_URL": other.base_url, "LOOVA_LIVE_SPEND": "40"}
    command = [sys.executable, "-m", "tests.live", "--folder", str(tmp_path), "--poll-seconds", "0.05"]
    running: list[subprocess.Popen[str]] = []
    other.change = lambda answer: running[0].kill() if bought(answer) else None
    for code in (-signal.SIGKILL, 0):
        running[:] = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)]
        out, _ = running[0].communicate(timeout=60)
        assert running[0].returncode == code, out
    assert "Nothing is submitted" in out
    assert "submit.json was sent and may be billed (its answer is not known)" in out
    assert other.bought == [BODY]


def test_without_a_login_nothing_is_submitted_and_nothing_is_concluded(other: OtherLoova, tmp_path: Path) -> None:
    other.change = says(lambda answer: answer.key == KEY, code=401, message="Authentication failed", data=None)
    rows = go(other, tmp_path)
    assert submitted(other) == 0
    assert outcomes(rows, "refuted") == {"base-url", "credits-shape"}
    for name in ("unknown-task", "no-list", "refuses-blank-prompt", "submit-shape"):
        assert rows[name].detail == "the credits could not be read with this key"


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        ("Insufficient credits", "refused for another reason"),
        ("Too many running tasks: at most 6", "refused for another reason"),
        ("success", "does not say whether it was refused"),
    ],
)
def test_a_refusal_for_another_reason_confirms_nothing(message: str, detail: str, tmp_path: Path) -> None:
    with OtherLoova(mp4(), says(refused, code=200, message=message)) as loova:
        row = go(loova, tmp_path, wait_seconds=0)["refuses-blank-prompt"]
    assert row.outcome == "not checked"
    assert detail in row.detail


def test_answers_of_any_shape_do_not_end_the_run(tmp_path: Path) -> None:
    odd: list[Any] = [[], "text", 7, None, {"code": 200, "data": {"task_id": 5, "status": 3, "result": [1]}}]
    for number, body in enumerate(odd):
        with OtherLoova(mp4(), lambda answer, body=body: setattr(answer, "body", body)) as loova:  # type: ignore[misc]
            assert len(go(loova, tmp_path / str(number), wait_seconds=0)) == len(ASSUMPTIONS)


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
    other.change = says(bought, message=f"made with {KEY}")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    code = live.main(["--folder", str(tmp_path), "--poll-seconds", "0.05"])
    out = capsys.readouterr().out
    assert (code, len(other.bought)) == ((1, 1) if allowance else (0, 0))
    assert re.search(r"(?m)^(refuted|not checked) +price ", out)
    assert ("submit: HTTP 200, code 200, made with [API key]" in out) == bool(allowance)
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
    seen = Seen("http://127.0.0.1", 0)
    seen.exchanges["credits"] = Exchange("credits", "credits", 200, {}, '{"code": 200, "data": {}}', 0, 0)
    assert live.ask(Folder(tmp_path), seen, None) == spends
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
