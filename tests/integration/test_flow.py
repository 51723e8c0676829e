"""The flow of one video, on a real Prefect server and a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import replace

import av
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context

from prefect_loova import VideoRequest, generate_video, get_credits, save_video, submit_video, wait_for_video
from prefect_loova.errors import InDoubtError, InvalidRequestError, RejectedError, TaskFailedError, WaitTimeoutError
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
REQUEST = VideoRequest(prompt="A futuristic city at sunset", ratio="9:16", duration=4)


def run(request: VideoRequest, place, **options):
    return generate_video(request, credentials=place.credentials, bucket=place.bucket, poll_seconds=0.1, **options)


async def test_a_prompt_becomes_a_checked_video_in_the_bucket(place, loova, bucket, tmp_path):
    saved = await run(REQUEST, place)

    task = loova.ledger["tasks"][0]
    assert saved.state == "saved" and not saved.reused
    assert saved.task_id == task["task_id"]
    assert saved.credits_cost == 60
    assert saved.video == f"s3://{bucket.name}/loova/{REQUEST.key}/video.mp4"
    found = bucket.client.get_object(Bucket=bucket.name, Key=f"loova/{REQUEST.key}/video.mp4")
    body = found["Body"].read()
    assert hashlib.sha256(body).hexdigest() == saved.sha256 == loova.sha256(task["task_id"])
    assert len(body) == saved.size_bytes
    assert found["ContentType"] == "video/mp4"
    known = {"task-id": saved.task_id, "request-key": REQUEST.key, "model": "seedance_2_0"}
    assert known.items() <= found["Metadata"].items()
    path = tmp_path / "video.mp4"
    path.write_bytes(body)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert float(video.duration / av.time_base) == pytest.approx(4, abs=0.1)
        assert stream.width / stream.height == pytest.approx(9 / 16, rel=0.05)


async def test_the_tasks_of_a_run_ask_loova_on_one_connection_and_submit_on_another(place, loova):
    with Proxy(loova.port) as proxy:
        credentials = place.credentials.model_copy(update={"base_url": f"{proxy.url}/api"})
        await run(REQUEST, replace(place, credentials=credentials))
    [submit] = [seen.client_port for seen in proxy.seen if seen.method == "POST"]
    [read] = {seen.client_port for seen in proxy.seen if seen.method == "GET"}
    assert {"/api/v1/credits", "/api/v1/tasks"} <= {seen.path.partition("?")[0] for seen in proxy.seen}
    assert read != submit


async def test_a_second_run_for_a_saved_video_does_not_call_loova(place, loova):
    first = await run(REQUEST, place)
    before = loova.ledger["totals"]
    again = await run(REQUEST, place)
    assert again == first.model_copy(update={"reused": True})
    assert loova.ledger["totals"] == before


async def test_ten_runs_at_once_pay_once_and_all_have_the_video(place, loova):
    videos = await asyncio.gather(*(run(REQUEST, place, concurrency_limit="") for _ in range(10)))
    assert loova.ledger["totals"]["posted"] == loova.ledger["totals"]["billed"] == 1
    assert len({video.sha256 for video in videos}) == 1
    assert [video.reused for video in videos].count(False) == 1


async def test_a_run_continues_to_wait_for_the_task_of_an_earlier_run(place, loova):
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    with pytest.raises(WaitTimeoutError, match="ask for the same request again"):
        await run(REQUEST, place, max_wait=0.5)
    loova.clear_faults()
    saved = await run(REQUEST, place)
    assert saved.reused
    assert loova.ledger["totals"]["posted"] == 1


async def test_another_take_is_another_video(place, loova):
    first, second = await run(REQUEST, place), await run(REQUEST.model_copy(update={"take": 1}), place)
    assert first.video != second.video
    assert loova.ledger["totals"]["billed"] == 2


@pytest.mark.parametrize("fault", ["lost_reply", "bad_gateway", "html", "empty_body"])
async def test_a_lost_answer_to_a_submit_is_in_doubt_and_never_sent_again(place, loova, fault):
    loova.fail(fault)
    for _ in range(2):
        with pytest.raises(InDoubtError) as caught:
            await run(REQUEST, place)
        assert caught.value.credits_spent == "maybe"
    assert loova.ledger["totals"]["posted"] == 1


@pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning")
async def test_a_run_that_cannot_be_suspended_fails_and_says_why(place, loova, caplog):
    loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await run(REQUEST, place, on_in_doubt="suspend")
    assert "is not possible here (the run has no deployment)" in caplog.text

    @flow
    async def outer() -> None:
        await run(REQUEST, place, on_in_doubt="suspend")

    @task
    async def in_a_task() -> None:
        await run(REQUEST, place, on_in_doubt="suspend")

    for other in (outer, in_a_task):
        with pytest.raises(InDoubtError):
            await other()
    for reason in ("it is a subflow", "it runs in a task"):
        assert f"is not possible here ({reason})" in caplog.text
    assert loova.ledger["totals"]["posted"] == 1


async def test_a_flow_that_times_out_leaves_the_job_to_the_next_run(place, loova):
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    where = {
        "credentials": place.credentials,
        "bucket": place.bucket,
        "poll_seconds": 0.1,
        "concurrency_limit": "",  # Prefect may refuse a slot for longer than the run may last
    }
    with pytest.raises(TimeoutError):
        await generate_video.with_options(timeout_seconds=6)(REQUEST, **where)
    assert loova.ledger["totals"]["billed"] == 1
    loova.clear_faults()
    assert (await run(REQUEST, place)).reused
    assert loova.ledger["totals"]["posted"] == 1


async def test_wait_suspend_without_a_deployment_is_refused_before_anything_is_paid(place, loova):
    with pytest.raises(InvalidRequestError, match=r"wait: 'suspend' was given, .*the run has no deployment"):
        await run(REQUEST, place, wait="suspend")
    assert loova.ledger["totals"]["posted"] == 0


async def test_the_next_run_retries_a_refused_submit(place, loova):
    loova.fail("insufficient_credits")
    with pytest.raises(RejectedError, match="credits"):
        await run(REQUEST, place)
    assert (await run(REQUEST, place)).state == "saved"
    assert loova.ledger["totals"]["billed"] == 1


async def test_a_run_waits_while_too_many_tasks_are_running(place, loova):
    loova.fail("too_many_running_tasks")
    assert (await run(REQUEST, place)).state == "saved"
    assert (loova.ledger["totals"]["posted"], loova.ledger["totals"]["billed"]) == (2, 1)


async def test_a_failed_generation_is_not_bought_again_unless_a_parameter_allows_it(place, loova):
    loova.fail("generation_failed")
    for _ in range(2):
        with pytest.raises(TaskFailedError) as caught:
            await run(REQUEST, place)
        assert caught.value.task_id == loova.ledger["tasks"][0]["task_id"]
    assert loova.ledger["totals"]["billed"] == 1
    saved = await run(REQUEST, place, max_paid_attempts=2)
    assert saved.task_id == loova.ledger["tasks"][1]["task_id"]
    assert loova.ledger["totals"]["billed"] == 2


async def test_errors_of_the_video_host_are_retried(place, loova):
    loova.fail("video_500", times=2)
    loova.fail("video_cut")
    assert (await run(REQUEST, place)).sha256 == loova.sha256(loova.ledger["tasks"][0]["task_id"])


async def test_a_saved_video_that_was_deleted_is_downloaded_again_and_not_bought_again(place, loova, bucket, caplog):
    first = await run(REQUEST, place)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"loova/{REQUEST.key}/video.mp4")
    caplog.clear()
    again = await run(REQUEST, place)
    assert again.sha256 == first.sha256
    assert loova.ledger["totals"]["billed"] == 1
    assert "/video.mp4 is saved, " in caplog.text and "was already saved" not in caplog.text
    caplog.clear()
    await run(REQUEST, place)
    assert "/video.mp4 was already saved, " in caplog.text


def test_a_sync_flow_submits_the_tasks_and_reads_their_results(place, loova):
    where = {"credentials": place.credentials, "bucket": place.bucket}

    @flow
    def evening_video(prompt: str) -> str:
        submission = submit_video.submit(VideoRequest(prompt=prompt, duration=4), **where).result()
        wait_for_video.submit(submission, **where, poll_seconds=0.1).result()
        return save_video.submit(submission, **where).result().video

    assert evening_video("a boat").endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


@pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning")
async def test_a_task_runs_outside_of_a_flow(credentials, loova):
    balance = await get_credits(credentials)
    assert (balance.available, balance.total) == (10_000, 10_000)


async def test_a_retry_of_the_flow_replays_the_results_of_wait_and_save(place, loova):
    where = {"credentials": place.credentials, "bucket": place.bucket}
    tries = []

    @flow(retries=1)
    async def fails_once_at_its_end() -> str:
        submission = await submit_video(REQUEST, **where)
        await wait_for_video(submission, **where, poll_seconds=0.1)
        saved = await save_video(submission, **where)
        tries.append(loova.ledger["totals"])
        if len(tries) == 1:
            raise RuntimeError("after the video was saved")
        return saved.sha256

    assert await fails_once_at_its_end() == loova.sha256(loova.ledger["tasks"][0]["task_id"])
    assert len(tries) == 2
    assert tries[0] == tries[1]


async def test_the_run_shows_names_tags_and_artifacts_and_no_secret(place, loova, bucket):
    request = REQUEST.model_copy(update={"prompt": f"{bucket[-12:]} | <b>city</b> **at** [sunset](javascript:x)"})

    @flow(name="outer")
    async def outer() -> str:
        await run(request, place)
        return str(get_run_context().flow_run.id)

    await outer()
    async with get_client() as prefect:
        runs = await prefect.read_flow_runs(limit=200)
        inner = next(one for one in runs if one.name == request.name)
        tasks = await prefect.read_task_runs()
        mine = [one for one in tasks if one.flow_run_id == inner.id]
        artifacts = await prefect.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[inner.id]))
        )
        logs = await prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[inner.id])), limit=200)
    assert {one.name.split()[0] for one in mine} == {"submit", "wait", "save"}
    assert all("loova" in one.tags for one in mine)
    shown = {one.type: str(one.data) for one in artifacts if one.type != "result"}
    assert {"markdown"} <= shown.keys()
    everything = json.dumps(
        [one.model_dump(mode="json") for one in (inner, *mine, *artifacts, *logs)], default=str, ensure_ascii=False
    )
    report = next(str(one.data) for one in artifacts if "Request key" in str(one.data))
    rest = re.sub(r"^!\[.*\]\(data:image[^)]*\)$", "", report, flags=re.MULTILINE)
    assert "<b>" not in rest and "**" not in rest and "](" not in rest
    assert request.name.endswith(" 9:16 4s")
    assert request.key in report and f"s3://{bucket.name}/loova/" in "".join(str(one.data) for one in artifacts)
    for secret in (loova.api_key, bucket.limited_secret_key, "signature="):
        assert secret not in everything
