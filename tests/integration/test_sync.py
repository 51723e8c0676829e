"""Sync and async callers of the same flows, tasks and client, on a real Prefect server and a real S3 server."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prefect import flow, task
from prefect.runtime import flow_run

from prefect_loova import (
    CreditBalance,
    SavedVideo,
    VideoRequest,
    collect_videos,
    generate_video,
    generate_videos,
    get_credits,
    save_video,
    submit_video,
    wait_for_video,
)
from prefect_loova._prefect.context import Location
from tests.integration.conftest import block_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
REQUEST = VideoRequest(prompt="a boat at sunset", duration=4)


def make(place: Location, request: VideoRequest = REQUEST) -> Any:
    return generate_video(request, place.credentials, place.bucket, poll_seconds=0.1)


def in_a_script(place: Location) -> SavedVideo:
    return make(place)


def in_a_sync_flow(place: Location) -> SavedVideo:
    @flow
    def morning() -> SavedVideo:
        return make(place)

    return morning()


def in_steps_of_a_sync_flow(place: Location) -> SavedVideo:
    @flow
    def morning() -> SavedVideo:
        location = {"credentials": place.credentials, "bucket": place.bucket}
        submission = submit_video(REQUEST, **location)
        wait_for_video(submission, **location, poll_seconds=0.1)
        return save_video.with_options(retries=1)(submission, **location)

    return morning()


def in_a_sync_task(place: Location) -> SavedVideo:
    @task
    def step() -> SavedVideo:
        return make(place)

    @flow
    def morning() -> SavedVideo:
        return step.submit().result()

    return morning()


def in_a_thread(place: Location) -> SavedVideo:
    made: list[SavedVideo] = []
    thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: made.append(make(place)),))
    thread.start()
    thread.join()
    return made[0]


def in_a_coroutine_of_a_sync_flow(place: Location) -> SavedVideo:
    async def helper() -> SavedVideo:
        return await make(place)

    @flow
    def morning() -> SavedVideo:
        return asyncio.run(helper())

    return morning()


def in_an_async_flow(place: Location) -> SavedVideo:
    @flow
    async def morning() -> SavedVideo:
        return await make(place)

    return asyncio.run(morning())


def in_a_cell_with_a_running_loop(place: Location) -> SavedVideo:
    async def cell() -> SavedVideo:
        return await make(place)

    return asyncio.run(cell())


def in_a_sync_flow_of_a_cell(place: Location) -> SavedVideo:
    @flow
    def morning() -> SavedVideo:
        return make(place)

    async def cell() -> SavedVideo:
        return morning()

    return asyncio.run(cell())


def in_a_thread_of_an_async_flow(place: Location) -> SavedVideo:
    @flow
    async def morning() -> SavedVideo:
        return await asyncio.to_thread(make, place)

    return asyncio.run(morning())


@pytest.mark.parametrize(
    "caller",
    [
        in_a_script,
        in_a_sync_flow,
        in_steps_of_a_sync_flow,
        in_a_sync_task,
        in_a_thread,
        in_a_coroutine_of_a_sync_flow,
        in_an_async_flow,
        in_a_cell_with_a_running_loop,
        in_a_sync_flow_of_a_cell,
        in_a_thread_of_an_async_flow,
    ],
)
def test_the_caller_gets_the_video_and_it_is_paid_once(caller: Callable[[Location], SavedVideo], place, loova):
    saved = caller(place)
    assert isinstance(saved, SavedVideo) and saved.state == "saved"
    assert caller(place).sha256 == saved.sha256
    assert loova.ledger["totals"]["billed"] == 1


def test_a_sync_caller_keeps_its_run_as_the_parent(place):
    seen = []

    @flow
    def morning() -> None:
        seen.append(flow_run.id)
        state = make_state(place)
        seen.append(str(state.state_details.flow_run_id))

    morning()
    assert seen[0] != seen[1] and seen[1]


def make_state(place: Location) -> Any:
    return generate_video(REQUEST, place.credentials, place.bucket, poll_seconds=0.1, return_state=True)


def test_sync_code_uses_the_other_flows_and_tasks_too(place, bucket):
    may_list = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)
    report = generate_videos([REQUEST], place.credentials, place.bucket, poll_seconds=0.1)
    assert [video.outcome for video in report.videos] == ["saved"]
    assert collect_videos(place.credentials, may_list).summary == "nothing to do"
    assert isinstance(get_credits(place.credentials), CreditBalance)


def test_the_client_has_the_same_requests_for_sync_code(place, loova):
    with place.credentials.get_client(sync_client=True) as client:
        bought = client.submit_video(REQUEST)
        assert client.get_task(bought.task_id).task_id == bought.task_id
        assert client.get_credits().available == loova.ledger["credits"]["available"]
    with pytest.raises(RuntimeError, match="use the client as `with"):
        client.get_credits()


SYNC_CALLERS = """
import asyncio, sys
from prefect import flow
from prefect_aws import AwsCredentials
from prefect_aws.s3 import S3Bucket
from prefect_loova import LoovaCredentials, VideoRequest, generate_video

def make():
    bucket = S3Bucket(bucket_name=sys.argv[1], credentials=AwsCredentials())
    return generate_video(
        VideoRequest(prompt="a boat", duration=4), LoovaCredentials.from_env(), bucket, poll_seconds=0.1
    )

@flow
def morning():
    return make()

async def cell():
    return morning()

callers = {"script": make, "flow": morning, "cell": lambda: asyncio.run(cell())}
print(callers[sys.argv[2]]().reused)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to handle")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("caller", ["script", "flow", "cell"])
def test_a_signal_during_the_submit_of_sync_code_waits_for_the_answer(served, bucket, loova, caller, sent):
    loova.fail("slow_reply", delay_seconds=4)
    run = [sys.executable, "-c", SYNC_CALLERS, bucket.name, caller]
    process = subprocess.Popen(run, env=served, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not loova.ledger["totals"]["posted"]:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0, err
    again = subprocess.run(run, env=served, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stdout.strip()) == (0, "True"), again.stderr
    assert loova.ledger["totals"]["posted"] == 1


@pytest.mark.parametrize("in_a_cell", [False, True])
def test_a_sync_flow_that_times_out_during_the_submit_keeps_the_answer(place, loova, in_a_cell):
    loova.fail("slow_reply", delay_seconds=12)
    patient = replace(place, credentials=place.credentials.model_copy(update={"submit_timeout": 30.0}))

    @flow(timeout_seconds=8)
    def morning() -> SavedVideo:
        # Without a limit: Prefect may refuse a slot for longer than the run may last.
        return generate_video(REQUEST, patient.credentials, patient.bucket, poll_seconds=0.1, concurrency_limit="")

    async def cell() -> SavedVideo:
        return morning()

    with pytest.raises(TimeoutError):
        asyncio.run(cell()) if in_a_cell else morning()
    assert loova.ledger["totals"]["posted"] == 1, "the timeout came before the submit"
    assert make(place).reused
    assert loova.ledger["totals"]["posted"] == 1
