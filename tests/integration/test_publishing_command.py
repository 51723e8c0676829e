"""`prefect-loova publish` in its own process: killed and run again, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy import NetworkFault, Proxy
from tests.support.terminal import COMMAND

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]


@pytest.fixture
def proxy(bucket) -> Iterator[Proxy]:
    with Proxy(int(bucket.endpoint_url.rpartition(":")[2])) as running:
        yield running


class Shell:
    """A folder with the report of a list, and the commands in it."""

    def __init__(self, folder: Path, env: dict[str, str], bucket: Any) -> None:
        self.folder, self.env, self.bucket = folder, env, bucket

    def start(self, *arguments: str, s3: str | None = None) -> subprocess.Popen[str]:
        env = self.env | ({"AWS_ENDPOINT_URL_S3": s3} if s3 else {})
        command = [*COMMAND, *arguments, "--bucket", self.bucket.name, "--json"]
        return subprocess.Popen(command, env=env, cwd=self.folder, stdout=-1, stderr=-1, text=True)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert out.count("\n") == 1, err
        return process.returncode, json.loads(out)

    def names(self) -> list[str]:
        found = self.bucket.client.list_objects_v2(Bucket=self.bucket, Prefix="loova/_published/").get("Contents", [])
        return sorted(one["Key"].rpartition("/")[2] for one in found)


@pytest.fixture
def shell(served, bucket, tmp_path) -> Shell:
    """A list of three videos that are made, two of which differ in nothing but their take."""
    shell = Shell(tmp_path, served, bucket)
    (tmp_path / "list.csv").write_text("prompt,duration,take\na boat,4,0\na boat,4,1\na train,4,0\n")
    code, report = shell.run("batch", "list.csv", "--poll-seconds", "0.1")
    assert (code, len(report["videos"])) == (0, 3)
    return shell


NAMED = ("--report", "list.report.csv", "--name", "{slug}-{take}.mp4")
VIDEOS = {"a-boat-0.mp4", "a-boat-1.mp4", "a-train-0.mp4"}


def test_a_command_that_is_killed_is_finished_by_the_next_one(shell: Shell, proxy: Proxy):
    for at in (r"\.mp4", r"manifest\.json", r"index\.html"):
        proxy.clear_faults()
        proxy.inject(NetworkFault(at=1 if "mp4" in at else 0, what="kill", matching=f"^PUT .*{at}"))
        process = shell.start("publish", *NAMED, s3=proxy.url)
        proxy.kill_process(lambda killed=process: killed.pid)
        process.communicate(timeout=120)
        assert process.returncode == -9
        assert "index.html" not in shell.names()
    assert {*shell.names()} > VIDEOS
    code, published = shell.run("publish", *NAMED)
    assert (code, [one["is_new"] for one in published["videos"]]) == (0, [False] * 3)
    assert "index.html" in shell.names()


def test_what_is_refused_has_exit_code_2_and_nothing_is_copied(shell: Shell):
    for arguments, problem in (
        (("--report", "list.report.csv"), "would be 2 videos"),
        (("--report", "list.csv"), "report: list.csv is no report of a batch"),
        (("f" * 64,), f"keys: '{'f' * 64}' was given: no job has this key"),
        ((), "keys, report: they name no video"),
    ):
        code, told = shell.run("publish", *arguments)
        assert (code, told["state"]) == (2, "invalid"), told
        assert problem in told["error"]["message"]
    assert shell.names() == []
