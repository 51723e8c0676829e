"""Lists that a command reads: problems are reported once and early, and an outage of S3 is not one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova.errors import InvalidRequestError, StorageError
from prefect_loova.jobs.local_files import LocalFiles
from prefect_loova.simulator.s3 import EmbeddedS3

ROOT = Path(__file__).parents[2]
WRONG = {
    "generate_from_manifest.py": ("list.csv", "prompt,duration\na,99\n", "line 2: duration: 99 was given"),
    "storyboard.py": ("story.yaml", "shots:\n  - prompt: a\n    duration: 99\n", "shot 1: duration: 99 was given"),
}


def environment(folder: Path) -> dict[str, str]:
    """That of a machine where no Prefect server is configured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "LOOVA_"))}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "LOOVA_API_KEY": "a-loova-key"}
    return kept | keys | {"PREFECT_HOME": str(folder / "prefect"), "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.mark.parametrize("flow", WRONG)
def test_problems_of_a_list_are_reported_once_before_a_prefect_server_starts(tmp_path: Path, flow: str) -> None:
    name, content, says = WRONG[flow]
    (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, str(ROOT / "flows" / flow), str(tmp_path / name), "--bucket", "my-videos"],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert (done.stdout + done.stderr).count(says) == 1
    assert "server" not in done.stderr
    assert not list(tmp_path.glob("prefect/*.db"))


def test_a_bucket_that_is_given_as_a_uri_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("prompt\na\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "generate_from_manifest.py"), "list.csv", "--bucket", "s3://my-videos/"],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "invalid: bucket: 's3://my-videos/' was given: give the name, my-videos"


def block(endpoint: str, access_key: str = "a", secret_key: str = "b") -> S3Bucket:
    parameters = AwsClientParameters(endpoint_url=endpoint, config={"retries": {"total_max_attempts": 1}})
    keys = AwsCredentials(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        aws_client_parameters=parameters,
    )
    return S3Bucket(bucket_name="my-videos", credentials=keys)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Bucket]:
    with EmbeddedS3(tmp_path_factory.mktemp("s3"), "my-videos", server="seaweedfs") as s3:
        yield block(s3.endpoint_url, s3.access_key, s3.secret_key)


async def test_an_outage_while_a_list_is_read_is_a_transient_storage_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"  # nobody listens
        with pytest.raises(StorageError, match=r"manifest: s3://my-videos/list.csv: no response") as failed:
            await Manifest("s3://my-videos/list.csv", block(endpoint)).read()
    assert failed.value.transient


@pytest.mark.parametrize("name", ["my-videos/none.csv", "no-such-bucket/list.csv", "my videos/list.csv", "x"])
async def test_a_missing_list_is_invalid_input(there: S3Bucket, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"manifest|bucket: 'my videos' was given"):
        await Manifest(f"s3://{name}", there).read()


def test_a_name_that_was_split_at_its_spaces_is_refused_with_a_hint(tmp_path: Path) -> None:
    local = Manifest(str(tmp_path / "list.csv"), block("http://127.0.0.1:9")).local_files(None)
    with pytest.raises(ValueError, match=r"no such file .*quotes within the cell .*JSON lines"):
        local.find("pics/my")


def test_a_path_with_backslashes_is_found(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "cat.png").write_bytes(b"x")
    assert LocalFiles(base=tmp_path).find(r"pics\cat.png") == tmp_path / "pics" / "cat.png"
    with pytest.raises(ValueError, match="outside"):
        LocalFiles(base=tmp_path / "pics", within=tmp_path / "pics").find(r"..\list.csv")
