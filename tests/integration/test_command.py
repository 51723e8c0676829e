"""`flows/generate_video.py` as a command, in its own process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_loova import LoovaCredentials
from prefect_loova.cli.app import run
from prefect_loova.simulator import LoovaSimulator

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "flows" / "generate_video.py")]
KEYS = {"state", "task_id", "video", "record", "size_bytes", "sha256", "credits_cost", "reused"}


def command(*arguments: str, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def the_json(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)


def test_it_saves_a_video_and_finds_it_the_second_time(served, bucket, loova):
    arguments = ("a boat", "--bucket", bucket.name, "--duration", "4", "--poll-seconds", "0.1", "--json")
    first, second = command(*arguments, env=served), command(*arguments, env=served)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert the_json(first).keys() == KEYS
    assert the_json(first)["state"] == "saved"
    assert the_json(second) == the_json(first) | {"reused": True}
    assert the_json(first)["sha256"] == loova.sha256(the_json(first)["task_id"])
    assert loova.ledger["totals"]["posted"] == 1
    assert first.stdout.count("\n") + first.stderr.count("\n") <= 10, first.stderr
    assert "\x1b" not in first.stderr
    assert not re.search(r"\b[0-9a-f]{64}\b", first.stderr)
    for secret in (loova.api_key, bucket.limited_secret_key, "signature="):
        assert secret not in first.stdout + first.stderr


async def test_it_takes_credentials_and_bucket_from_named_blocks(served, place, loova):
    with temporary_settings({PREFECT_API_URL: served["PREFECT_API_URL"]}):
        await place.credentials.save("for-the-command", overwrite=True)
        await place.bucket.save("for-the-command", overwrite=True)
    env = {k: v for k, v in served.items() if not k.startswith(("LOOVA_", "AWS_"))}
    blocks = ("--credentials", "for-the-command", "--s3-block", "for-the-command")
    done = command("a boat", *blocks, "--duration", "4", "--poll-seconds", "0.1", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert the_json(done)["video"].startswith(f"s3://{place.bucket.bucket_name}/loova/")


@pytest.mark.parametrize(
    ("fault", "code", "state", "kind"),
    [
        ("lost_reply", 3, "in_doubt", "InDoubtError"),
        ("insufficient_credits", 4, "rejected", "InsufficientCreditsError"),
        ("generation_failed", 4, "failed", "TaskFailedError"),
    ],
)
def test_every_outcome_has_an_exit_code_and_an_error_in_json(served, bucket, loova, fault, code, state, kind):
    loova.fail(fault)
    done = command("a boat", "--bucket", bucket.name, "--poll-seconds", "0.1", "--json", env=served)
    found = the_json(done)
    assert (done.returncode, found["state"], found["error"]["type"]) == (code, state, kind)
    assert found["error"].keys() == {"type", "message", "task_id", "trace_id"}
    assert "Traceback" not in done.stderr
    assert "\\n" not in done.stderr
    assert found["error"]["message"].splitlines()[0] not in done.stderr  # it is not said twice
    assert loova.ledger["totals"]["posted"] == 1


def test_a_task_that_is_still_running_is_exit_code_5_and_the_next_run_continues(served, bucket, loova):
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    arguments = ("a boat", "--bucket", bucket.name, "--poll-seconds", "0.1", "--json")
    done = command(*arguments, "--max-wait", "0.5", env=served)
    assert (done.returncode, the_json(done)["state"]) == (5, "submitted"), done.stderr
    assert the_json(done)["error"]["task_id"] == loova.ledger["tasks"][0]["task_id"]
    loova.clear_faults()
    assert command(*arguments, env=served).returncode == 0
    assert loova.ledger["totals"]["posted"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((" ",), "prompt"),
        (("x", "--model", "seedance_9"), "model: 'seedance_9' was given"),
        (("x", "--ratio", "2:1"), "ratio: '2:1' was given"),
        (("x", "--duration", "3"), "duration: 3 was given"),
        (("x", "--duration", "16"), "duration: 16 was given"),
        (("x", "--duration", "5.5"), "duration: 5.5 was given"),
        (("x", "--duration", "five"), "duration: 'five' was given"),
        (("x", "--take", "-1"), "take: -1 was given"),
        (("x", "--audio", "https://example.com/a.mp3"), "audio alone is refused"),
        (("x", "--image", "file:///etc/passwd"), "image_urls.0"),
        (("x", *(["--image", "https://example.com/a.png"] * 10)), "image_urls: '10 images' was given"),
        (("x", "--function-mode", "first_last_frames"), "first_last_frames takes 1 image"),
        (("x", "--poll-seconds", "0"), "must be a number of seconds above 0"),
        (("x", "--max-wait", "nan"), "must be a number of seconds above 0"),
        (("x", "--no-such-option"), "--no-such-option"),
        ((), "PROMPT"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_error_before_anything_else(bad_input, arguments, says):
    code, text = bad_input(*arguments, "--json", "--bucket", "b")
    found = json.loads(text)
    assert (code, found["state"], found["error"]["type"]) == (2, "invalid", "InvalidRequestError")
    assert says in found["error"]["message"]


@pytest.fixture
def bad_input(capsys):
    """The command in this process: what it refuses, it refuses before a server or a bucket is looked for."""

    def call(*arguments: str, name: str = "generate") -> tuple[int, str]:
        return run([name, *arguments]), capsys.readouterr().out

    return call


@pytest.mark.parametrize("days", ["abc", "0", "367", "7.5"])
def test_a_report_includes_1_to_366_days(bad_input, days):
    code, text = bad_input("--days", days, "--json", name="credits")
    assert (code, f"{days!r} was given: must be a number of days" in json.loads(text)["error"]["message"]) == (2, True)


def test_all_problems_of_a_request_are_reported_together(bad_input):
    _, text = bad_input(" ", "--duration", "99", "--ratio", "x", "--bucket", "b", "--json")
    assert len(json.loads(text)["error"]["message"].splitlines()) == 3


@pytest.mark.parametrize(("key", "says"), [(None, "is not set"), ("", "is empty")])
def test_without_a_key_it_says_what_to_do_and_does_not_simulate(environment, bucket, key, says):
    env = {k: v for k, v in environment.items() if k != "LOOVA_API_KEY"} | (
        {} if key is None else {"LOOVA_API_KEY": key}
    )
    done = command("a boat", "--bucket", bucket.name, env=env)
    assert done.returncode == 2
    assert f"LOOVA_API_KEY {says}" in done.stderr
    assert "--simulate" in done.stderr
    assert done.stdout == ""


def test_a_wrong_key_is_refused_and_nothing_is_bought(served, bucket, loova):
    done = command("a boat", "--bucket", bucket.name, "--json", env=served | {"LOOVA_API_KEY": "wrong-key"})
    assert (done.returncode, the_json(done)["error"]["type"]) == (4, "AuthenticationError")
    assert "wrong-key" not in done.stdout + done.stderr
    assert loova.ledger["totals"]["billed"] == 0


@pytest.mark.parametrize(("prefix", "code"), [("../other", 2), ("/absolute", 2)])
def test_a_bad_prefix_is_refused_before_anything_is_sent(served, bucket, loova, prefix, code):
    done = command("a boat", "--bucket", bucket.name, "--prefix", prefix, "--json", env=served)
    assert (done.returncode, the_json(done)["state"]) == (code, "invalid")
    assert "prefix" in the_json(done)["error"]["message"]
    assert loova.ledger["totals"]["posted"] == 0


def test_a_missing_bucket_is_an_error_before_the_submit(served, loova):
    done = command("a boat", "--bucket", "no-such-bucket-here", "--json", env=served)
    assert (done.returncode, the_json(done)["error"]["type"]) == (1, "StorageError")
    assert "no-such-bucket-here" in the_json(done)["error"]["message"]
    assert loova.ledger["totals"]["posted"] == 0


def test_a_simulated_run_writes_an_mp4_and_continues_after_a_kill(killable_prefect, tmp_path):
    """The real thing: kill -9 while Loova generates, and run it again; one purchase, one video, on this machine."""
    env = dict(os.environ) | {"PREFECT_API_URL": killable_prefect.api_url}
    arguments = ("a boat at sea", "--simulate", "--duration", "4", "--ratio", "1:1")
    first = subprocess.Popen([*COMMAND, *arguments], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if "submitted for" in line:
            break
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stderr.close()

    again = command(*arguments, env=env, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    path = Path(again.stdout.splitlines()[-1])
    assert path.is_file() and path.is_relative_to(tmp_path)
    assert "paid by an earlier run" in again.stdout
    assert again.stdout.count("\n") + again.stderr.count("\n") <= 10, again.stderr
    with LoovaSimulator(state=tmp_path / ".loova-simulated" / "loova") as loova:
        assert loova.ledger["totals"]["billed"] == 1


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to handle")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_submit_waits_for_the_answer_and_loses_nothing(served, bucket, loova, sent):
    loova.fail("slow_reply", delay_seconds=6)  # on a busy machine the signal may be seconds late
    arguments = ("a boat", "--bucket", bucket.name, "--duration", "4", "--poll-seconds", "0.1", "--json")
    run = subprocess.Popen(
        [*COMMAND, *arguments], env=served, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not loova.ledger["totals"]["posted"]:
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(sent)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    error = json.loads(out)["error"]
    assert (error["type"], error["task_id"]) == ("InterruptedRunError", loova.ledger["tasks"][0]["task_id"])
    again = command(*arguments, env=served)
    assert (again.returncode, the_json(again)["reused"]) == (0, True), again.stderr
    assert loova.ledger["totals"]["posted"] == 1


def test_the_block_of_the_command_is_the_block_of_the_package():
    assert LoovaCredentials.get_block_type_slug() == "loova-credentials"
