"""`--simulate` and the playground: they share a folder, or refuse and say what to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prefect_loova.cli.simulation import servers
from prefect_loova.simulator import LoovaSimulator
from tests.support.terminal import COMMAND

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]


def ran(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    done = [*COMMAND, *arguments]
    return subprocess.run(done, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def env(killable_prefect) -> dict[str, str]:
    """That of a person with a Prefect server and no account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LOOVA_", "PREFECT_"))}
    return kept | {"PREFECT_API_URL": killable_prefect.api_url}


@contextmanager
def playground(*arguments: str, env: dict[str, str], cwd: Path) -> Iterator[None]:
    """Run a playground, and end it with Ctrl-C."""
    command = [*COMMAND, "playground", *arguments]
    with subprocess.Popen(command, env=env, cwd=cwd, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "s3://loova-simulated/loova/prompts.csv\n", process.stderr.read()
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_beside_a_playground_a_simulated_command_uses_it_and_a_second_one_is_refused(
    env: dict[str, str], tmp_path: Path
) -> None:
    with playground("--block", "shared-play", env=env, cwd=tmp_path):
        made = ran("generate", "a boat", "--simulate", "--duration", "4", env=env, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        assert "by the playground that runs" in made.stderr
        assert Path(made.stdout.splitlines()[-1]).is_file()

        same = ran("playground", "--block", "another", env=env, cwd=tmp_path)
        assert (same.returncode, same.stdout) == (2, "")
        assert same.stderr.endswith("use its blocks, 'shared-play', or give another --state and another --block\n")

        other = ran("playground", "--block", "shared-play", "--state", "elsewhere", env=env, cwd=tmp_path)
        assert (other.returncode, other.stdout) == (2, "")
        assert other.stderr.startswith(
            "invalid: block: 'shared-play' belongs to a playground that runs at http://127.0"
        )
        assert other.stderr.endswith("use that one, stop it, or give another --block\n")
    with LoovaSimulator(state=tmp_path / ".loova-simulated" / "loova") as loova:
        assert loova.ledger["totals"]["billed"] == 1
    assert not (tmp_path / ".loova-simulated" / "playground.json").exists()
    with playground("--block", "shared-play", "--state", "elsewhere", env=env, cwd=tmp_path):
        pass  # the blocks of a playground that has ended are replaced


def test_beside_another_simulated_command_it_names_the_option_for_another_folder(
    env: dict[str, str], tmp_path: Path
) -> None:
    with servers(tmp_path / ".loova-simulated"):
        done = ran("collect", "--simulate", env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "invalid: state: another command uses .loova-simulated: wait for it to end, or give another --state\n"
    )


def test_the_keys_of_a_playground_are_for_its_owner_only_and_a_killed_one_is_not_used(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with servers(state, block="loova") as (credentials, _):
        facts = state / "playground.json"
        left_behind = facts.read_bytes()
        assert facts.stat().st_mode & 0o077 == 0
        assert httpx.get(f"{credentials.base_url.removesuffix('/api')}/_simulator/ledger").status_code == 200
    facts.write_bytes(left_behind)  # as kill -9 leaves it
    with servers(state) as (again, _):
        assert again.base_url == credentials.base_url


def test_a_simulated_list_leaves_its_videos_on_the_disk_and_nothing_of_the_progress_in_a_pipe(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("prompt,duration\na boat,4\na train,4\na boat,4\n")
    done = ran("batch", "list.csv", "--simulate", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 videos: 2 saved; 120 credits ($3.84 to $9.60) spent by this run\n"
    folder = tmp_path / ".loova-simulated" / "videos"
    assert f"Open them on this machine: {folder}" in done.stderr
    assert sorted(file.name[:-13] for file in folder.iterdir()) == ["a-boat-16x9-4s", "a-train-16x9-4s"]
    done = ran("publish", "--report", "list.report.csv", "--simulate", env=env, cwd=tmp_path)
    page = tmp_path / ".loova-simulated" / "published" / "index.html"
    assert done.stdout.endswith(f"Open the page on this machine:\n{page}\n"), done.stderr
    shown = re.findall(r' (?:src|poster)="([^"]+)"', page.read_text())
    assert sorted(shown) == ["a-boat-16x9.jpg", "a-boat-16x9.mp4", "a-train-16x9.jpg", "a-train-16x9.mp4"]
    assert all((page.parent / name).stat().st_size > 1000 for name in shown)
    for control in ("\x1b", "\r", "next poll"):
        assert control not in done.stderr
