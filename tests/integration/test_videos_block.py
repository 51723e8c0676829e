"""`LoovaVideos`: Prefect's own tests for blocks, its runs, and its place in tasks and flows."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from prefect_loova import (
    LoovaVideos,
    SavedVideo,
    VideoRequest,
    collect_videos,
    generate_storyboard,
    generate_video,
    generate_videos,
    prepare_media,
    save_video,
    submit_video,
    wait_for_video,
)
from prefect_loova.errors import BudgetError, InvalidRequestError, RejectedError, WaitTimeoutError
from prefect_loova.jobs.context import JobTimes
from tests.integration.conftest import block_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
REQUEST = VideoRequest(prompt="a boat at sunset", duration=4)


class TestLoovaVideosAsABlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self):
        return LoovaVideos

    def test_prefect_finds_the_type_by_the_key_that_it_would_derive_itself(self, block):
        key = Block.__dispatch_key__.__func__(block)
        assert block.__dispatch_key__() == key and Block.get_block_class_from_key(key) is block

    def test_has_a_valid_image(self, block):
        """test_credentials.py reads the file that is published there."""
        assert str(block._logo_url).endswith("/docs/logo.png")


@pytest.fixture
def videos(place) -> LoovaVideos:
    return LoovaVideos(credentials=place.credentials, bucket=place.bucket, preview="none")


async def test_a_saved_block_triggers_waits_and_saves_in_async_code(videos, loova):
    await videos.save("loova", overwrite=True)
    loaded = await LoovaVideos.aload("loova")
    run = await loaded.trigger("a boat at sunset", duration=4)
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=None)
    with pytest.raises(WaitTimeoutError):
        await run.await_for_completion(max_wait=0.2, poll_seconds=0.1)
    loova.clear_faults()
    await run.wait_for_completion(poll_seconds=0.1)
    assert await run.astatus() == "succeeded"
    saved = await run.fetch_result()
    assert isinstance(saved, SavedVideo) and await run.status() == "saved"
    again = await loaded.atrigger(REQUEST)
    assert (await again.afetch_result()).sha256 == saved.sha256
    assert loova.ledger["totals"]["posted"] == 1


def test_sync_code_triggers_waits_and_saves_too_and_the_run_shows_the_video(videos, loova):
    runs = []

    @flow
    def morning() -> SavedVideo:
        runs.append(flow_run.id)
        run = videos.trigger(REQUEST)
        run.wait_for_completion(poll_seconds=0.1)
        return run.fetch_result()

    saved = morning()
    assert saved.video.endswith("/video.mp4")

    async def pages() -> list[Artifact]:
        of_the_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=runs))
        async with get_client() as prefect:
            return await prefect.read_artifacts(artifact_filter=of_the_run)

    assert saved.video in str(asyncio.run(pages()))
    assert loova.ledger["totals"]["billed"] == 1


async def test_cancel_is_refused_with_the_reason(videos):
    run = await videos.atrigger(REQUEST)
    with pytest.raises(InvalidRequestError, match=f"Loova cannot cancel the task {run.submission.task_id}"):
        run.cancel()


async def test_bad_input_is_refused_before_anything_is_sent(videos, loova):
    with pytest.raises(InvalidRequestError, match="duration"):
        await videos.atrigger("a boat", duration=99)
    with pytest.raises(InvalidRequestError, match="duration: give them in the request"):
        await videos.atrigger(REQUEST, duration=5)
    assert loova.ledger["totals"]["posted"] == 0


TRIGGER = """
import asyncio, sys
from pathlib import Path
from prefect_loova import LoovaVideos

videos = LoovaVideos.model_validate_json(Path(sys.argv[1]).read_text())
videos.trigger("a boat at sunset", duration=4)
print("triggered", flush=True)
import time
time.sleep(60)
"""


async def test_a_run_that_was_triggered_and_lost_is_found_again(videos, loova, tmp_path, environment):
    values = tmp_path / "block.json"
    secrets = {"include_secrets": True}
    values.write_text(videos.model_dump_json(context=secrets))
    process = subprocess.Popen(
        [sys.executable, "-c", TRIGGER, str(values)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == "triggered"
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = await videos.atrigger(REQUEST)
    await run.await_for_completion(poll_seconds=0.1)
    assert (await run.afetch_result()).task_id == loova.ledger["tasks"][0]["task_id"]
    assert loova.ledger["totals"]["posted"] == 1


async def test_tasks_and_flows_take_the_block_in_place_of_three_parameters(videos, loova, bucket):
    submission = await submit_video(REQUEST, videos=videos)
    await wait_for_video(submission, videos=videos, poll_seconds=0.1)
    saved = await save_video(submission, videos=videos)
    assert (await generate_video(REQUEST, videos=videos, poll_seconds=0.1)).sha256 == saved.sha256
    report = await generate_videos([REQUEST], videos=videos, poll_seconds=0.1)
    assert [video.outcome for video in report.videos] == ["reused"]
    may_list = videos.model_copy(
        update={"bucket": block_of(bucket, bucket.server.access_key, bucket.server.secret_key)}
    )
    assert (await collect_videos(videos=may_list)).summary == "nothing to do"
    assert loova.ledger["totals"]["posted"] == 1


async def test_a_call_without_blocks_or_with_both_names_the_parameters(videos, place, loova):
    with pytest.raises(InvalidRequestError, match="bucket: missing; give `videos`, or `credentials` and `bucket`"):
        await generate_video(REQUEST, place.credentials)
    with pytest.raises(InvalidRequestError, match="bucket, prefix: given together with `videos`"):
        await generate_video(REQUEST, bucket=place.bucket, prefix="x", videos=videos)
    assert loova.ledger["totals"]["posted"] == 0


def test_defaults_apply_only_to_what_the_request_does_not_name(videos):
    videos = videos.model_copy(update={"ratio": "9:16", "model": "seedance_2_0_fast"})
    assert videos.complete(REQUEST).ratio == "9:16"
    assert videos.complete(VideoRequest(prompt="a boat", ratio="1:1")).ratio == "1:1"
    assert videos.complete(VideoRequest(prompt="a boat", model="seedance_2_0")).model == "seedance_2_0"


async def test_trigger_tasks_and_flows_buy_one_video_with_the_defaults_of_the_block(videos, loova, tmp_path):
    videos = videos.model_copy(update={"ratio": "9:16", "model": "seedance_2_0_fast"})
    run = await videos.atrigger(REQUEST)
    assert (await submit_video(REQUEST, videos=videos)).key == run.submission.key
    prepared = await prepare_media(REQUEST, videos=videos)
    assert prepared.key == run.submission.key
    await run.await_for_completion(poll_seconds=0.1)
    saved = await generate_video(REQUEST, videos=videos, poll_seconds=0.1)
    assert saved.key == run.submission.key
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"shots": [REQUEST.model_dump(exclude_unset=True)]}))
    report = await generate_storyboard(str(story), videos=videos, dry_run=True)
    assert [(shot.key, shot.outcome) for shot in report.shots.videos] == [(saved.key, "reused")]
    assert loova.ledger["totals"]["posted"] == 1


async def test_the_task_that_waits_reads_the_setting_and_a_given_value_wins(videos, loova, monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "0.05")
    submission = await submit_video(REQUEST, videos=videos)
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=2)
    async with asyncio.timeout(10):
        await wait_for_video(submission, videos=videos)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "3600")
    other = await submit_video(VideoRequest(prompt="a kite", duration=4), videos=videos)
    loova.fail(on="poll", envelope={"data": {"status": "running", "result": None}}, times=2)
    async with asyncio.timeout(10):
        await wait_for_video(other, videos=videos, poll_seconds=0.05)


def test_a_request_keeps_its_key_in_a_block_without_defaults(videos):
    assert videos.complete(REQUEST).key == REQUEST.key


async def test_the_limits_of_the_block_win_over_those_of_its_credentials(videos, place, bucket):
    times = JobTimes(take_over_after=7)
    bounded = videos.model_copy(
        update={
            "credentials": place.credentials.model_copy(update={"max_credits_per_day": 1000.0}),
            "bucket": block_of(bucket, bucket.server.access_key, bucket.server.secret_key),
            "max_credits_per_day": 10.0,
            "job_times": times,
        }
    )
    assert bounded.location.credentials.job_times == times
    with pytest.raises(BudgetError):
        await bounded.atrigger(REQUEST)


async def test_a_refusal_is_the_error_of_the_trigger(videos, loova):
    loova.fail("insufficient_credits")
    with pytest.raises(RejectedError, match="credits"):
        await videos.atrigger(REQUEST)
    assert "loova-secret-key" not in repr(videos) and "loova-secret-key" not in videos.model_dump_json()
