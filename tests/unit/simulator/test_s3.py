"""The embedded S3 server: its folder, its ports, and what survives a kill."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_loova.simulator import supervisor
from prefect_loova.simulator.s3 import EmbeddedS3, EmbeddedS3Error

USER = """
import sys, time
from prefect_loova.simulator.s3 import EmbeddedS3
s3 = EmbeddedS3(sys.argv[1]).start()
s3.client().put_object(Bucket=s3.bucket, Key="paid", Body=b"450 credits")
print(s3.endpoint_url, flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed_user(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that stored an object in a folder and now sleeps."""
    with subprocess.Popen([sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as user:
        yield user
        user.kill()


def read(s3: EmbeddedS3, key: str) -> bytes:
    return s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()


def test_data_address_and_keys_are_the_same_after_the_process_was_killed(
    tmp_path: Path, killed_user: subprocess.Popen[str]
) -> None:
    assert killed_user.stdout is not None
    endpoint_url = killed_user.stdout.readline().strip()
    keys = (tmp_path / "s3" / "server.json").read_text()
    with pytest.raises(EmbeddedS3Error, match=f"the folder {tmp_path / 's3'} is in use by another process"):
        EmbeddedS3(tmp_path).start()
    killed_user.kill()
    killed_user.wait()
    with EmbeddedS3(tmp_path) as s3:
        assert read(s3, "paid") == b"450 credits"
        assert s3.endpoint_url == endpoint_url
        assert s3.keeps_data
    assert (tmp_path / "s3" / "server.json").read_text() == keys


def test_no_server_is_left_behind_by_a_killed_process(tmp_path: Path, killed_user: subprocess.Popen[str]) -> None:
    assert killed_user.stdout is not None
    port = int(killed_user.stdout.readline().rpartition(":")[2])
    killed_user.kill()
    killed_user.wait()
    with supervisor.locked(tmp_path / "s3" / "server.lock", wait=10):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def supervised(lock: Path) -> subprocess.Popen[str]:
    """Run a supervised command that prints a line, and then sleeps with stdout open."""
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    command = [sys.executable, "-I", supervisor.__file__, str(lock), *sleeper]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_supervised_command_ends_when_the_pipe_closes(tmp_path: Path) -> None:
    with supervised(tmp_path / "lock") as supervisor_process:
        assert supervisor_process.stdout is not None
        assert supervisor_process.stdout.readline() == "up\n"
        supervisor_process.communicate(timeout=10)
        assert supervisor_process.returncode != 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_supervised_command_ends_even_if_the_supervisor_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path / "lock") as supervisor_process:
        assert supervisor_process.stdout is not None
        assert supervisor_process.stdout.readline() == "up\n"
        supervisor_process.kill()
        assert supervisor_process.stdout.read() == ""


def test_a_supervisor_without_the_lock_starts_nothing(tmp_path: Path) -> None:
    with supervisor.locked(tmp_path / "lock"), supervised(tmp_path / "lock") as refused:
        out, err = refused.communicate(timeout=10)
        assert (refused.returncode, out) == (1, "")
        assert err == f"{tmp_path / 'lock'} is locked by another process\n"


def test_the_folder_and_its_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as s3:
        folder = tmp_path / "s3"
        assert s3.secret_key not in (folder / "server.log").read_text()
        if sys.platform != "win32":
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "server.json").stat().st_mode) == 0o600


def test_other_ports_are_used_if_those_of_the_last_start_are_in_use(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as s3:
        s3.client().put_object(Bucket=s3.bucket, Key="paid", Body=b"450 credits")
        port = int(s3.endpoint_url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port + 10_002)), EmbeddedS3(tmp_path) as s3:
        assert s3.endpoint_url != f"http://127.0.0.1:{port}"
        assert read(s3, "paid") == b"450 credits"


@pytest.mark.parametrize("port", [55_532, 65_535])
def test_a_port_with_no_room_above_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(EmbeddedS3Error, match="at most"):
        EmbeddedS3(tmp_path, port=port).start()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1] - 10_000
        with pytest.raises(EmbeddedS3Error, match=rf"port {first}.* is in use"):
            EmbeddedS3(tmp_path, port=first).start()


def test_a_port_that_is_taken_is_named_by_moto_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedS3Error, match=f"port {port} is in use"):
            EmbeddedS3(tmp_path, port=port, server="moto").start()


def test_a_bucket_name_that_s3_refuses_is_said_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EmbeddedS3Error, match="the bucket 'a' cannot be created"):
        EmbeddedS3(tmp_path, bucket="a").start()
    assert time.monotonic() - started < 20


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "data").mkdir()
    (tmp_path / "s3" / "data" / "filerldb2").write_text("a file, where SeaweedFS keeps a folder")
    with pytest.raises(EmbeddedS3Error, match=r"did not start[\s\S]*last lines of the server's log[\s\S]*filerldb2"):
        EmbeddedS3(tmp_path).start()


def test_a_folder_is_free_again_after_a_start_that_failed(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedS3Error, match="cannot be created"):
        EmbeddedS3(tmp_path, bucket="a").start()
    with EmbeddedS3(tmp_path) as s3:
        assert s3.client().list_objects_v2(Bucket=s3.bucket)["KeyCount"] == 0


def test_a_proxy_in_the_environment_is_not_asked(tmp_path: Path) -> None:
    code = "from prefect_loova.simulator.s3 import EmbeddedS3\nwith EmbeddedS3({!r}, server='moto') as s3: print('up')"
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", code.format(str(tmp_path))]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "up\n", ran.stderr


def test_without_seaweedfs_moto_serves_and_one_line_says_that_data_are_lost(tmp_path: Path) -> None:
    code = (
        "from prefect_loova.simulator.s3 import EmbeddedS3\n"
        "with EmbeddedS3({!r}, server='moto') as s3:\n"
        "    s3.client().put_object(Bucket=s3.bucket, Key='a', Body=b'1')\n"
        "    print(s3.keeps_data, s3.client().get_object(Bucket=s3.bucket, Key='a')['Body'].read())"
    )
    command = [sys.executable, "-c", code.format(str(tmp_path))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "False b'1'\n"
    assert ran.stderr == (
        "SeaweedFS is not installed: the embedded S3 server keeps its data in memory and loses them at exit\n"
    )


def test_it_does_not_import_prefect() -> None:
    code = "import sys, prefect_loova.simulator.s3; print('prefect' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "False\n", ran.stderr


def test_the_kept_settings_are_readable_json(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as s3:
        kept = json.loads((tmp_path / "s3" / "server.json").read_text())
        assert s3.endpoint_url == f"http://127.0.0.1:{kept['port']}"
