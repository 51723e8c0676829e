"""Ctrl-C, as a terminal sends it: the command ends within seconds, and says what is bought and how to continue."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.prefect_server import PrefectServer
from tests.support.terminal import Terminal

SECONDS = 5.0
STILL_RUNNING: dict[str, Any] = {
    "on": "poll",
    "envelope": {"data": {"status": "running", "result": None}},
    "times": None,
}
pytestmark = [
    pytest.mark.processes,
    pytest.mark.one_s3_server,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc"),
    pytest.mark.xdist_group("commands"),
]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def says_it_once(command: Terminal, message: str) -> None:
    """Exit code 1, the message last, no traceback, and nothing of Prefect's own end."""
    assert command.code == 1, command.shown
    assert command.lines[-1].endswith(message), command.shown
    for noise in ("Traceback", "Error logging to API", "CancelledError", "KeyboardInterrupt", "Exception ignored"):
        assert noise not in command.shown, command.shown


def assert_interrupted(code: str, cwd: Path) -> None:
    """Run the code, which sends itself a signal. It ends at once, and says that nothing is lost."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "interrupted: nothing is lost: run the same command again to continue\n"


def test_a_signal_during_an_import_is_not_lost(tmp_path: Path) -> None:
    """Python ignores an exception that a signal raises in a callback of its import lock, so none is raised."""
    (tmp_path / "interrupted_import.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = (
        "from prefect_loova.cli.interrupts import end_on_signals\nend_on_signals(as_json=False)\n"
        "try:\n    import interrupted_import\nexcept BaseException:\n    pass\nprint('it went on')"
    )
    assert_interrupted(code, tmp_path)


def test_a_signal_that_another_thread_gets_is_not_lost(tmp_path: Path) -> None:
    code = (
        "import signal, threading, time\n"
        "from prefect_loova.cli.interrupts import end_on_signals, leave\nend_on_signals(as_json=False)\n"
        "def get_signal():\n    time.sleep(0.5)\n    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
        "threading.Thread(target=get_signal).start()\n"
        "try:\n    threading.Event().wait()\nexcept KeyboardInterrupt:\n    leave()"
    )
    assert_interrupted(code, tmp_path)


@pytest.fixture
def unserved(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Without a Prefect server: the command starts a temporary one."""
    return environment | {"PREFECT_HOME": str(tmp_path / "home")}


@pytest.mark.parametrize("after", [0.0, 0.4, 1.2])
def test_in_the_first_seconds_it_ends_at_once(unserved: dict[str, str], tmp_path: Path, after: float) -> None:
    command = Terminal("generate", "a boat", "--bucket", "my-videos", env=unserved, cwd=tmp_path)
    command.until(lambda: command.handles_signals)
    time.sleep(after)
    assert command.interrupt() < SECONDS
    says_it_once(command, "interrupted: nothing is lost: run the same command again to continue")


def test_it_ends_while_a_temporary_prefect_server_starts_and_ends_that_too(
    unserved: dict[str, str], bucket: Any, tmp_path: Path
) -> None:
    command = Terminal("generate", "a boat", "--bucket", bucket.name, env=unserved, cwd=tmp_path)
    command.until(lambda: command.prefect_server is not None)
    server = command.prefect_server
    time.sleep(0.5)
    assert command.interrupt() < SECONDS
    says_it_once(command, "interrupted: nothing is lost: run the same command again to continue")
    assert server is not None
    assert not is_alive(server)


def states_of_runs(home: Path) -> set[str]:
    """Return the states of the flow runs in the database of a temporary Prefect server."""
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return {state for (state,) in database.execute("SELECT state_type FROM flow_run")}


def test_beside_a_temporary_prefect_server_it_ends_and_names_the_task_in_json(
    unserved: dict[str, str], bucket: Any, loova: Any, tmp_path: Path
) -> None:
    loova.fail(**STILL_RUNNING)
    command = Terminal("generate", "a boat", "--bucket", bucket.name, "--json", env=unserved, cwd=tmp_path)
    command.until("next poll in")
    server = command.prefect_server
    assert command.interrupt() < SECONDS
    (task,) = loova.ledger["tasks"]
    says_it_once(command, "}")
    error = json.loads(command.lines[-1][command.lines[-1].index('{"state"') :])["error"]
    assert (error["type"], error["task_id"]) == ("InterruptedRunError", task["task_id"])
    assert error["message"] == (
        f"Loova task {task['task_id']} is bought; nothing is lost: run the same command again to get its video"
    )
    assert server is not None
    assert not is_alive(server)
    assert states_of_runs(tmp_path / "home") == {"CRASHED"}  # Ctrl-C did not end the server before the run


def test_a_batch_shows_a_bar_and_names_what_is_bought(
    served: dict[str, str], bucket: Any, loova: Any, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("prompt,duration\na,4\nb,4\nc,4\n")
    loova.fail(**STILL_RUNNING)
    command = Terminal("batch", "list.csv", "--bucket", bucket.name, env=served, cwd=tmp_path)
    command.until(
        lambda: "0 of 3 videos, running, next poll in" in command.shown and loova.ledger["totals"]["billed"] == 3
    )
    time.sleep(0.5)
    assert command.interrupt() < SECONDS
    says_it_once(command, "nothing is lost: run the same command again to get their videos")
    assert "3 Loova tasks are bought (" in command.lines[-1]
    assert all(task["task_id"] in command.lines[-1] for task in loova.ledger["tasks"])


def test_it_ends_beside_a_prefect_server_that_is_gone(
    served: dict[str, str], killable_prefect: PrefectServer, bucket: Any, loova: Any, tmp_path: Path
) -> None:
    loova.fail(**STILL_RUNNING)
    command = Terminal("generate", "a boat", "--bucket", bucket.name, env=served, cwd=tmp_path)
    command.until("next poll in")
    killable_prefect.kill()
    try:
        assert command.interrupt() < SECONDS
    finally:
        killable_prefect.start()
    (task,) = loova.ledger["tasks"]
    says_it_once(
        command,
        f"interrupted: Loova task {task['task_id']} is bought; nothing is lost: run the same command "
        "again to get its video",
    )


def test_a_second_ctrl_c_does_not_wait_for_the_answer_to_a_submit(
    served: dict[str, str], bucket: Any, loova: Any, tmp_path: Path
) -> None:
    loova.fail("slow_reply", delay_seconds=40)
    command = Terminal("generate", "a boat", "--bucket", bucket.name, env=served, cwd=tmp_path)
    command.until(lambda: loova.ledger["totals"]["posted"] == 1)
    command.press_ctrl_c()
    command.until("A submit waits for its answer")
    assert command.interrupt() < SECONDS
    says_it_once(
        command,
        "interrupted: a submit has no answer yet, so it may be bought: run the same command again, which shows whether "
        "it is",
    )
