"""A person resolves a job in doubt: with the commands in the error, with the flow, and with its artifact."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from prefect_loova import InDoubtError, VideoRequest, generate_video, resolve_job, submit_video
from prefect_loova._prefect.context import Location
from prefect_loova.cli.app import run
from prefect_loova.cli.simulation import simulated
from prefect_loova.errors import (
    AbandonedError,
    InvalidRequestError,
    InvalidTransitionError,
    StorageError,
    TaskNotFoundError,
)
from tests.integration.conftest import block_of

FLOWS = Path(__file__).parents[2] / "flows"
REQUEST = VideoRequest(prompt="a | <b>boat</b>", duration=4)
pytestmark = [
    pytest.mark.one_s3_server,
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning"),
]
ME = {"who": "me", "why": "looked in the dashboard"}


def ran(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, *command]
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def lister(environment, bucket) -> dict[str, str]:
    """The environment of one who may list the bucket."""
    return environment | {
        "AWS_ACCESS_KEY_ID": bucket.server.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.server.secret_key,
    }


@pytest.fixture
def place_of_a_lister(credentials, bucket) -> Location:
    return Location(credentials, block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


async def in_doubt(place: Location, loova) -> InDoubtError:
    loova.fail("lost_reply")
    with pytest.raises(InDoubtError) as caught:
        await submit_video(REQUEST, credentials=place.credentials, bucket=place.bucket)
    return caught.value


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.one_s3_server
async def test_the_command_that_the_error_shows_adopts_the_task_and_the_next_run_saves_it(lister, place, loova, bucket):
    error = await in_doubt(place, loova)
    (task,) = loova.ledger["tasks"]
    (shown,) = [line for line in str(error).splitlines() if "adopt TASK_ID" in line]
    words = shlex.split(shown.partition("prefect-loova ")[2].replace("TASK_ID", task["task_id"]), comments=True)
    done = await asyncio.to_thread(ran, "-m", "prefect_loova.cli", *words, "--why", "found it", env=lister)
    assert done.returncode == 0, done.stderr
    assert "is submitted, decided by" in done.stdout
    saved = await generate_video(REQUEST, credentials=place.credentials, bucket=place.bucket, poll_seconds=0.1)
    assert (saved.task_id, saved.reused) == (task["task_id"], True)
    record = json.loads(bucket.client.get_object(Bucket=bucket, Key=f"loova/{REQUEST.key}/record.json")["Body"].read())
    assert record["attempts"][0]["decision"].items() >= {"what": "adopt", "why": "found it"}.items()
    assert loova.ledger["totals"]["posted"] == 1


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.one_s3_server
async def test_the_command_lists_the_facts_of_each_job(lister, place, loova, bucket):
    await in_doubt(place, loova)
    arguments = (str(FLOWS / "resolve_job.py"), "--bucket", bucket.name)
    listed = await asyncio.to_thread(ran, *arguments, env=lister)
    assert listed.returncode == 0, listed.stderr
    assert f"{REQUEST.key[:12]}, attempt 1: a | <b>boat</b>" in listed.stdout
    assert "The difference of 60 is the price of this video" in listed.stdout
    as_json = await asyncio.to_thread(ran, *arguments, REQUEST.key[:10], "--json", env=lister)
    (job,) = json.loads(as_json.stdout)["jobs"]
    assert (job["key"], job["credits_before"], job["credits_after"]) == (REQUEST.key, 10_000, 9_940)
    given_up = await asyncio.to_thread(ran, *arguments, REQUEST.key[:10], "give-up", "--json", env=lister)
    assert json.loads(given_up.stdout)["job"]["attempts"][0]["state"] == "abandoned"
    assert (await asyncio.to_thread(ran, *arguments, env=lister)).stdout == "No job is in doubt.\n"
    for secret in (loova.api_key, bucket.server.secret_key):
        assert secret not in listed.stdout + listed.stderr + as_json.stdout


def test_the_command_names_the_jobs_that_it_cannot_read(lister, bucket):
    for key in (f"loova/_open/{REQUEST.key}", f"loova/{REQUEST.key}/record.json"):
        bucket.client.put_object(Bucket=bucket, Key=key, Body=b"not JSON")
    arguments = ("-m", "prefect_loova.resolve", "--bucket", bucket.name)
    listed = ran(*arguments, env=lister)
    assert (listed.returncode, listed.stdout) == (
        0,
        "No job that can be read is in doubt; 1 open job cannot be read.\n",
    )
    assert f"job {REQUEST.key} cannot be read, and may be in doubt: s3://" in listed.stderr
    as_json = json.loads(ran(*arguments, "--json", env=lister).stdout)
    assert (as_json["jobs"], [one["key"] for one in as_json["problems"]]) == ([], [REQUEST.key])
    assert "is not a job record" in as_json["problems"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("abc", "adopt"), "task_id: none was given"),
        (("abc", "give-up", "task"), "task_id: task was given"),
        (("abc", "buy"), "decision: 'buy' was given: must be one of adopt, submit-again, give-up, take-back"),
        (("abc", "give-up", "x", "y"), "unexpected arguments"),
        (("0" * 64, "give-up", "--prefix", "../x"), "prefix"),
    ],
)
@pytest.mark.one_s3_server
def test_bad_input_is_exit_code_2_and_names_what_is_wrong(environment, monkeypatch, capsys, arguments, says):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(["resolve", *arguments, "--bucket", "b", "--json"]) == 2
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


def test_the_commands_name_a_simulated_location(tmp_path):
    async def place_named() -> str:
        async with where.open() as jobs:
            return jobs.location_arguments

    with simulated(tmp_path / "state", "loova") as where:
        named = asyncio.run(place_named())
    assert named == f"--simulate --state {tmp_path / 'state'}"


@pytest.mark.one_s3_server
async def test_the_commands_name_stored_blocks(prefect_server, place):
    await place.credentials.save("of-mine", overwrite=True)
    await place.bucket.save("mine-too", overwrite=True)
    stored = type(place.credentials).aload("of-mine"), type(place.bucket).aload("mine-too")
    async with Location(await stored[0], await stored[1], "videos").open() as jobs:
        assert jobs.location_arguments == "--credentials of-mine --s3-block mine-too --prefix videos"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.one_s3_server
async def test_the_flow_decides_and_shows_the_remaining_jobs(place_of_a_lister, loova, bucket):
    where = {"credentials": place_of_a_lister.credentials, "bucket": place_of_a_lister.bucket}
    await in_doubt(place_of_a_lister, loova)
    (job,) = await resolve_job(**where)
    shown = await Artifact.aget(key="loova-in-doubt")
    assert shown is not None
    assert REQUEST.key in str(shown.data) and "<b>" not in str(shown.data)
    with pytest.raises(InvalidRequestError, match="give both"):
        await resolve_job(**where, key=job.key)
    with pytest.raises(TaskNotFoundError):
        await resolve_job(**where, key=job.key, decision="adopt", task_id="sim_mistyped", **ME)
    assert await resolve_job(**where, key=job.key, decision="submit-again", **ME) == []
    with pytest.raises(InvalidTransitionError, match="not in doubt"):
        await resolve_job(**where, key=job.key, decision="give-up", **ME)
    shown = await Artifact.aget(key="loova-in-doubt")
    assert shown is not None
    assert shown.data == "No job is in doubt."
    saved = await generate_video(REQUEST, **where, poll_seconds=0.1)
    assert saved.task_id == loova.ledger["tasks"][1]["task_id"]


@pytest.mark.one_s3_server
@pytest.mark.usefixtures("prefect_server")
async def test_a_decision_counts_even_if_the_other_jobs_cannot_be_listed(place, loova):
    await in_doubt(place, loova)
    with pytest.raises(StorageError, match="s3:ListBucket"):
        await resolve_job(place.credentials, place.bucket)
    assert await resolve_job(place.credentials, place.bucket, key=REQUEST.key, decision="give-up", **ME) == []
    with pytest.raises(AbandonedError):
        await submit_video(REQUEST, credentials=place.credentials, bucket=place.bucket)
