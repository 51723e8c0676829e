"""The flow as a deployment: served by a process of its own, run through the API with blocks as parameters."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flow_runs import resume_flow_run
from prefect.runner.storage import GitRepository
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from prefect_loova import VideoRequest, collect_videos, generate_video
from prefect_loova._prefect.context import Location
from tests.integration.conftest import block_of
from tests.support.docs_blocks import to_run

pytestmark = pytest.mark.processes

SERVE = """
from prefect_loova import generate_video

if __name__ == "__main__":
    generate_video.serve(name="served", print_starting_message=True)
"""


@pytest.fixture
def served(prefect_server, tmp_path: Path) -> Iterator[None]:
    yield from serve(SERVE, tmp_path)


@pytest.fixture
def served_as_shown(prefect_server, tmp_path: Path) -> Iterator[None]:
    yield from serve(to_run("detached.md", "python")[1], tmp_path)


def serve(code: str, tmp_path: Path) -> Iterator[None]:
    script = tmp_path / "serve.py"
    script.write_text(code)
    env = dict(os.environ) | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen([sys.executable, str(script)], env=env, stdout=log, stderr=log)
        yield
        process.terminate()
        process.wait(30)


async def parameters_of(place, **more: Any) -> dict[str, Any]:
    """As the run form of the Prefect UI sends them: blocks by reference."""
    credentials = await place.credentials.save("for-the-deployment", overwrite=True)
    bucket = await place.bucket.save("for-the-deployment", overwrite=True)
    return {
        "request": {"prompt": "a red kite", "duration": 4},
        "credentials": {"$ref": {"block_document_id": str(credentials)}},
        "bucket": {"$ref": {"block_document_id": str(bucket)}},
        "poll_seconds": 0.1,
    } | more


async def started(parameters: dict[str, Any], name: str = "served", **options: Any) -> FlowRun:
    for _ in range(120):
        try:
            return await run_deployment(f"generate-video/{name}", parameters=parameters, poll_interval=0.5, **options)
        except ObjectNotFound:
            await asyncio.sleep(0.5)  # it is not served yet
    raise AssertionError("the flow was never served")


@pytest.mark.one_s3_server
async def test_a_served_flow_runs_with_blocks_as_parameters(served, place, loova):
    run = await started(await parameters_of(place), timeout=90)
    assert run.state.is_completed(), run.state.message
    assert run.name == "a-red-kite 16:9 4s"
    assert loova.ledger["totals"]["billed"] == 1
    assert loova.api_key not in run.model_dump_json()


@pytest.mark.one_s3_server
async def test_a_run_in_doubt_is_suspended_asks_in_the_ui_and_goes_on(served, credentials, bucket, loova):
    """Twice in doubt: the second question must not be answered by the first answer."""
    # To adopt a task, all records have to be listed.
    place = Location(credentials, block_of(bucket, bucket.server.access_key, bucket.server.secret_key))
    loova.fail("lost_request")
    loova.fail("lost_reply")
    run = await started(await parameters_of(place, on_in_doubt="suspend"), timeout=0)
    form = await question(run, attempt=1)
    assert form["schema"]["required"] == ["decision", "who"]
    assert form["schema"]["properties"]["decision"]["enum"] == ["adopt", "submit-again", "give-up"]
    assert "Nothing was charged for this video by then" in plain(form["description"])

    with pytest.raises(RuntimeError, match="decision"):
        await resume_flow_run(run.id, run_input={"who": "me"})
    await resume_flow_run(run.id, run_input={"decision": "adopt", "task_id": "sim_mistyped", "who": "me"})
    assert "Loova does not know this task" in plain((await question(run, attempt=1, number=1))["description"])

    await resume_flow_run(run.id, run_input={"decision": "submit-again", "who": "me", "why": "not in the dashboard"})
    assert "The difference of 60 is the price" in plain((await question(run, attempt=2))["description"])
    (task,) = loova.ledger["tasks"]
    await resume_flow_run(run.id, run_input={"decision": "adopt", "task_id": task["task_id"], "who": "me"})

    ended = await until(run, lambda state: state.is_final())
    assert ended.is_completed(), ended.message
    assert (loova.ledger["totals"]["posted"], loova.ledger["totals"]["billed"]) == (2, 1)
    record = json.loads(
        await place.bucket.aread_path(f"loova/{VideoRequest(prompt='a red kite', duration=4).key}/record.json")
    )
    assert [attempt["state"] for attempt in record["attempts"]] == ["in_doubt", "saved"]
    assert [attempt["decision"]["what"] for attempt in record["attempts"]] == ["submit-again", "adopt"]
    assert record["attempts"][0]["decision"]["why"] == "not in the dashboard"


@pytest.mark.one_s3_server
async def test_a_run_that_is_cancelled_keeps_its_purchase_and_says_how_to_go_on(served, place, loova):
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    parameters = await parameters_of(place)
    run = await started(parameters, timeout=0)
    async with asyncio.timeout(60):
        while loova.ledger["totals"]["polls"] < 2:
            await asyncio.sleep(0.1)
    async with get_client() as prefect:
        await prefect.set_flow_run_state(run.id, Cancelling())
        assert (await until(run, lambda state: state.is_final())).is_cancelled()
        (task,) = loova.ledger["tasks"]
        async with asyncio.timeout(60):
            while not any(
                f"{task['task_id']}: waiting was cancelled. Loova cannot cancel the task" in log.message
                for log in await prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
            ):
                await asyncio.sleep(0.25)
    loova.clear_faults()
    assert (await started(parameters, timeout=90)).state.is_completed()
    assert loova.ledger["totals"]["posted"] == 1


@pytest.mark.one_s3_server
async def test_a_run_with_wait_suspend_leaves_its_worker_and_is_resumed_when_the_video_is_saved(
    served_as_shown, credentials, bucket, loova
):
    place = Location(credentials, block_of(bucket, bucket.server.access_key, bucket.server.secret_key))
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    run = await started(await parameters_of(place), "videos-without-a-worker", timeout=0)
    first = (await until(run, lambda state: state.is_paused())).state_details.pause_key
    assert (await collect_videos(place.credentials, place.bucket)).running == 1
    await resume_flow_run(run.id)  # somebody resumes it too early: it is suspended again
    await until(run, lambda state: state.is_paused() and state.state_details.pause_key != first)
    loova.clear_faults()
    elsewhere = {"credentials": place.credentials, "bucket": place.bucket, "prefix": "elsewhere"}
    await generate_video(VideoRequest(prompt="a red kite", duration=4), **elsewhere, poll_seconds=0.1)
    await collect_videos(**elsewhere)  # the same request in another prefix: its collector resumes no run of this one
    async with get_client() as prefect:
        assert (await prefect.read_flow_run(run.id)).state.is_paused()
    assert len((await collect_videos(place.credentials, place.bucket)).saved) == 1
    ended = await until(run, lambda state: state.is_final())
    assert ended.is_completed(), ended.message
    assert loova.ledger["totals"]["posted"] == 2  # one in each prefix


@pytest.mark.one_s3_server
async def test_a_suspended_run_of_a_video_that_fails_is_resumed_and_says_so(served, credentials, bucket, loova):
    place = Location(credentials, block_of(bucket, bucket.server.access_key, bucket.server.secret_key))
    loova.fail("generation_failed")
    run = await started(await parameters_of(place, wait="suspend"), timeout=0)
    await until(run, lambda state: state.is_paused())
    collected = await collect_videos(place.credentials, place.bucket)
    assert len(collected.failed) == 1
    async with get_client() as prefect, asyncio.timeout(90):
        while not (state := (await prefect.read_flow_run(run.id)).state).is_final():
            await asyncio.sleep(0.25)
    assert state.is_failed() and "TaskFailedError" in state.message
    assert loova.ledger["totals"]["posted"] == 1


async def question(run: FlowRun, attempt: int, number: int = 0) -> dict[str, Any]:
    """What the suspended run asks, as the UI reads it."""
    key = f"loova-{VideoRequest(prompt='a red kite', duration=4).key}-{attempt}-{number}"
    await until(run, lambda state: state.is_paused() and state.state_details.pause_key == key)
    async with get_client() as prefect:
        for _ in range(40):
            try:
                schema = await prefect.read_flow_run_input(run.id, f"suspended-{key}-schema")
                described = await prefect.read_flow_run_input(run.id, f"suspended-{key}-description")
                return {"schema": json.loads(schema), "description": json.loads(described)}
            except PrefectHTTPStatusError as error:  # not ObjectNotFound, here
                if error.response.status_code != 404:
                    raise
                await asyncio.sleep(0.25)  # the state is set before the form is there
    raise AssertionError("there is no form")


def plain(markdown: str) -> str:
    return markdown.replace("\\", "")


async def until(run: FlowRun, is_so: Callable[[Any], bool]) -> Any:
    async with get_client() as prefect, asyncio.timeout(90):
        while True:
            state = (await prefect.read_flow_run(run.id)).state
            if state is not None and is_so(state):
                return state
            assert state is None or not state.is_final(), state
            await asyncio.sleep(0.25)


@pytest.fixture
def git_repository(tmp_path: Path) -> str:
    """The URL of a git repository with the folder `flows`."""
    repository = tmp_path / "repository"
    shutil.copytree(Path(__file__).parents[2] / "flows", repository / "flows")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.test")
    for command in (("init", "-q"), ("add", "flows"), (*identity, "commit", "-q", "-m", "flows")):
        subprocess.run(["git", *command], cwd=repository, check=True)
    return repository.as_uri()


@pytest.fixture
def source_forgotten() -> Iterator[None]:
    """Prefect notes the source on the flow object, which all tests of this process share."""
    before = generate_video._storage, generate_video._entrypoint
    yield
    generate_video._storage, generate_video._entrypoint = before


@pytest.mark.one_s3_server
@pytest.mark.usefixtures("source_forgotten")
async def test_a_flow_of_a_git_repository_is_loaded_from_source_and_runs(prefect_server, git_repository, place, loova):
    source = GitRepository(url=git_repository)
    loaded: Any = await Flow.afrom_source(source=source, entrypoint="flows/generate_video.py:generate_video")
    saved = await loaded(VideoRequest(prompt="a kite", duration=4), place.credentials, place.bucket, poll_seconds=0.1)
    assert saved.video.endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1
    deployment = await loaded.ato_deployment("from-git")
    assert deployment.entrypoint == "flows/generate_video.py:generate_video"
