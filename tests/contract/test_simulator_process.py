"""The simulator as a command, and its state over restarts and kills."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prefect_loova.simulator import LoovaSimulator


class Command:
    """A running `python -m prefect_loova.simulator`."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect_loova.simulator", "--port", "0", "--short-side", "64", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        self.banner = "".join(lines)
        found = re.search(r"LOOVA_BASE_URL=(\S+)", self.banner)
        assert found, self.process.communicate()
        self.base_url = found[1]

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal. Return the exit code and stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def running(*arguments: str) -> Iterator[Command]:
    command = Command(*arguments)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


def ask(base_url: str, method: str, path: str, **options: object) -> httpx.Response:
    return httpx.request(method, base_url + path, headers={"Authorization": "Bearer the-key"}, **options)  # type: ignore[arg-type]


def test_the_banner_says_what_it_is_and_how_to_use_it() -> None:
    with running(
        "--api-key", "the-key", "--fault", "lost_reply:2", "--fault", '{"on": "poll", "status": 500}'
    ) as command:
        for text in ("SIMULATOR", "LOOVA_API_KEY=the-key", "/_simulator/ledger", "lost_reply"):
            assert text in command.banner
        assert re.search(r"LOOVA_BASE_URL=http://127\.0\.0\.1:\d+/api$", command.banner, re.MULTILINE)
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                ask(command.base_url, "POST", "/v1/video/seedance-2", json={"prompt": "A city"})
        assert ask(command.base_url, "GET", "/v1/tasks?task_id=x").status_code == 500
        assert command.end(signal.SIGINT) == (0, "")


def test_an_invalid_option_prints_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect_loova.simulator", "--fault", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'nonsense' was given: must be one of lost_reply" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_was_billed_survives_a_kill(tmp_path: Path) -> None:
    arguments = (
        "--api-key",
        "the-key",
        "--state",
        str(tmp_path / "new"),
        "--generation-seconds",
        "0",
        "--credits",
        "500",
    )
    with running(*arguments) as command:
        task_id = ask(command.base_url, "POST", "/v1/video/seedance-2", json={"prompt": "A city"}).json()["data"][
            "task_id"
        ]
        url = ask(command.base_url, "GET", f"/v1/tasks?task_id={task_id}").json()["data"]["result"]["video_url"]
        content = httpx.get(url).content
        code, _ = command.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
    with running(*arguments, "--video-port", url.split("/")[2].rpartition(":")[2]) as command:
        credits = ask(command.base_url, "GET", "/v1/credits").json()["data"]
        assert credits == {"api_available_credits": 425, "api_total_credits": 500}
        assert ask(command.base_url, "GET", f"/v1/tasks?task_id={task_id}").json()["data"]["status"] == "succeeded"
        # The signature of the old URL is still valid, and the video has the same bytes.
        assert httpx.get(url).content == content
        ledger = httpx.get(command.base_url.replace("/api", "/_simulator/ledger")).json()
        assert ledger["totals"] | {"posted": 1, "billed": 1, "polls": 2, "video_requests": 2} == ledger["totals"]
        assert command.end(signal.SIGTERM) == (0, "")


def test_a_restart_in_the_same_process_keeps_everything(tmp_path: Path) -> None:
    with LoovaSimulator(api_key="the-key", state=tmp_path, generation_seconds=60, short_side=64) as loova:
        posted = ask(loova.base_url, "POST", "/v1/video/seedance-2", json={"prompt": "A city"}).json()
        loova.advance(30)
        before = loova.ledger
    with LoovaSimulator(api_key="the-key", state=tmp_path, generation_seconds=5, short_side=64) as loova:
        assert loova.ledger | {"now": 0} == before | {"now": 0}
        path = f"/v1/tasks?task_id={posted['data']['task_id']}"
        assert ask(loova.base_url, "GET", path).json()["data"]["status"] == "running"
        loova.advance(30)
        assert ask(loova.base_url, "GET", path).json()["data"]["status"] == "succeeded"


def test_the_ledger_can_be_read_after_close_and_the_loggers_of_uvicorn_are_unchanged() -> None:
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    before = [vars(logging.getLogger(name)) | {"_cache": None} for name in names]
    with LoovaSimulator(api_key="the-key", short_side=64) as loova:
        ask(loova.base_url, "POST", "/v1/video/seedance-2", json={"prompt": "A city"})
    assert loova.ledger["totals"]["billed"] == 1
    assert [vars(logging.getLogger(name)) | {"_cache": None} for name in names] == before


def test_a_port_in_use_is_an_error_at_once() -> None:
    with LoovaSimulator(short_side=64) as loova, pytest.raises(OSError, match="in use"):
        LoovaSimulator(port=loova.port).start()


def test_closing_does_not_wait_for_requests() -> None:
    loova = LoovaSimulator(short_side=64, faults=["slow_reply"]).start()
    with httpx.Client() as client, pytest.raises(httpx.TimeoutException):
        headers = {"Authorization": f"Bearer {loova.api_key}"}
        client.post(f"{loova.base_url}/v1/video/seedance-2", json={"prompt": "A city"}, headers=headers, timeout=0.1)
    loova.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(loova.base_url)


def test_the_simulator_starts_without_prefect_and_the_plugin_without_anything() -> None:
    program = (
        "import sys, pytest; import prefect_loova.simulator.pytest_plugin;"
        "assert not {'av', 'pydantic', 'starlette', 'uvicorn', 'httpx', 'prefect'} & set(sys.modules);"
        "from prefect_loova.simulator import LoovaSimulator; LoovaSimulator().start().close();"
        "assert 'prefect' not in sys.modules and 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
