"""What the guides show in Python is run, and what they print from the code is what the code says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from prefect_loova import InDoubtError, LoovaCredentials, MediaRules, VideoRequest, generate_video, submit_video
from prefect_loova.batches.manifest import COLUMNS
from prefect_loova.jobs.context import JobEvent, JobTimes
from prefect_loova.models.job_record import moves_as_markdown
from prefect_loova.models.media_types import EXTENSIONS
from prefect_loova.models.prices import MODELS, USD_PER_CREDIT
from prefect_loova.models.results import JobInDoubt
from prefect_loova.simulator import FAULTS
from tests.integration.conftest import block_of
from tests.support.docs_blocks import GUIDES, example, to_run

pytestmark = [
    pytest.mark.one_s3_server,
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning"),
]


def test_every_example_is_run_by_a_test():
    assert {guide: len(to_run(guide, "python")) for guide in GUIDES if to_run(guide, "python")} == {
        "index.md": 2,
        "one-video.md": 5,  # the fourth one is served by test_deployment.py
        "media.md": 1,
        "batches.md": 1,
        "schedule.md": 1,
        "detached.md": 2,  # the second one is served by test_deployment.py
        "budgets.md": 1,
        "in-the-ui.md": 1,
        "in-doubt.md": 1,
        "testing.md": 2,
        "bucket.md": 1,
        "answers.md": 1,
        "quality-gates.md": 5,  # run by test_gates.py
        "directing.md": 1,
    }


def test_the_fallback_prompt_is_a_request_as_shown():
    request = example("answers.md", 0)["request"]
    assert request.fallback == VideoRequest(prompt="a singer on a boat", duration=4)


@pytest.fixture
async def stored(prefect_server, place):
    """The place, with its blocks stored under the name that the guides use."""
    await place.credentials.save("loova", overwrite=True)
    await place.bucket.save("loova", overwrite=True)
    return place


async def bought(place, **fields: Any) -> None:
    """Have it submitted by an earlier run, so that the example looks at once instead of after its first pause."""
    await submit_video(VideoRequest(**fields), credentials=place.credentials, bucket=place.bucket)


@pytest.mark.one_s3_server
async def test_the_first_flow_saves_a_video(stored, loova):
    await bought(stored, prompt="a boat at sunset", duration=5)
    assert (await example("index.md", 1)["first_video"]("a boat at sunset")).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


def test_the_blocks_are_created_as_shown(prefect_server):
    example("index.md", 0)
    assert LoovaCredentials.load("loova").api_key.get_secret_value() == "..."


@pytest.mark.one_s3_server
async def test_a_video_goes_on_from_the_last_frame_as_shown(stored, loova, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    picture = (Path(__file__).parents[2] / "docs" / "logo.png").read_bytes()
    (tmp_path / "pictures" / "cat.png").write_bytes(picture)
    monkeypatch.chdir(tmp_path)
    starts = VideoRequest(prompt="@image1 begins to walk", image_urls=["pictures/cat.png"], duration=4)
    first = await generate_video(starts, stored.credentials, stored.bucket, poll_seconds=0.1)
    prompt, mode = "the cat walks into the night", "first_last_frames"
    await bought(stored, prompt=prompt, function_mode=mode, image_urls=[first.last_frame], duration=4)
    assert (await example("media.md")["walk_on"]()).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 2


@pytest.mark.one_s3_server
async def test_gates_judge_a_batch_as_shown(stored, loova):
    for take in range(2):
        await bought(stored, prompt="a kite", take=take)
    report = await example("quality-gates.md", 4)["two_good_kites"](stored.credentials, stored.bucket)
    assert report.is_complete and report.count() == 2
    assert loova.ledger["totals"]["billed"] == 2


@pytest.mark.one_s3_server
async def test_drafts_are_made_for_a_review_as_shown(stored, loova, tmp_path, monkeypatch):
    (tmp_path / "products.yaml").write_text(to_run("directing.md", "yaml")[0])
    monkeypatch.chdir(tmp_path)
    for place in ("the sea", "home", "night"):
        drafts = VideoRequest(prompt=f"a lamp at {place}", model="seedance_2_0_fast", duration=4, takes=2)
        for take in drafts.all_takes:
            await bought(stored, **take.model_dump(exclude={"takes"}))
    report = await example("directing.md")["lamps"]()
    assert [(video.is_draft, video.choice) for video in report.videos] == [(True, "to review")] * 6
    assert loova.ledger["totals"]["billed"] == 6


def test_the_guide_names_the_types_and_sizes_of_media():
    told = re.findall(r"(?m)^\| (image|video|audio)s \| ([^|]+) \| \d, each (\d+) MB", GUIDES["media.md"])
    assert len(told) == 3
    names = {"image/tiff": "TIFF", "video/quicktime": "MOV", "audio/mpeg": "MP3"}
    for kind, types, megabytes in told:
        taken = [names.get(one, one.partition("/")[2].upper()) for one in EXTENSIONS if one.startswith(kind)]
        assert sorted(types.upper().split(", ")) == sorted(taken)
        assert MediaRules().max_bytes(kind) == int(megabytes) * 1_000_000


@pytest.mark.one_s3_server
async def test_a_clip_is_made_as_shown(stored, loova):
    image = "https://example.com/shoe.png"
    await bought(stored, prompt="@image1 turns", image_urls=[image], ratio="9:16", duration=5)
    assert (await example("one-video.md", 0)["product_clip"]("@image1 turns", image)).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


@pytest.mark.one_s3_server
async def test_a_reason_is_told_as_shown(prefect_server, place, loova):
    clip_or_reason = example("one-video.md", 4)["clip_or_reason"]
    loova.fail("prompt_refused")
    told = await clip_or_reason(VideoRequest(prompt="a boat"), place.credentials, place.bucket)
    assert told.startswith("no video, credits spent: no. Loova refused the content of the request")
    loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await clip_or_reason(VideoRequest(prompt="a train"), place.credentials, place.bucket)


@pytest.mark.one_s3_server
async def test_the_steps_are_called_as_shown(stored, loova):
    await bought(stored, prompt="a sloop")
    assert (await example("one-video.md", 1)["video_in_steps"]("a sloop")).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


@pytest.mark.one_s3_server
def test_the_steps_are_called_from_a_sync_flow_as_shown(prefect_server, place, loova):
    place.credentials.save("loova", overwrite=True)
    place.bucket.save("loova", overwrite=True)
    asyncio.run(bought(place, prompt="a tram"))
    assert example("one-video.md", 2)["video_from_a_sync_flow"]("a tram").endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


COMMAND = Path(__file__).parents[2] / "prefect_loova" / "cli" / "generate.py"


def test_the_arguments_of_the_command_are_those_of_its_help():
    usage = re.search(r"prefect-loova generate PROMPT (.*?)```", GUIDES["one-video.md"], re.DOTALL)
    assert usage is not None
    printed = subprocess.run(
        [sys.executable, "-m", "prefect_loova.cli", "generate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"(?m)^  (--[a-z0-9-]+)", printed))
    assert set(re.findall(r"--[a-z0-9-]+", usage[1])) == options


def test_the_guide_lists_every_exit_code_of_the_command():
    (documented,) = re.findall(r'(?s)Exit codes: (.*?)"""', COMMAND.read_text())
    listed = re.findall(r"(?m)^\| (\d) \| ", GUIDES["one-video.md"])
    assert listed == sorted(re.findall(r"\b(\d) ", documented)) == list("0123456")


@pytest.mark.one_s3_server
async def test_a_nightly_list_is_made_and_served_as_shown(stored, loova, bucket, tmp_path: Path):
    await bought(stored, prompt="a kite", duration=4)
    bucket.client.put_object(Bucket=bucket, Key="loova/prompts.csv", Body=b"prompt,duration\na kite,4\n")
    summary = await example("schedule.md")["nightly_videos"](f"s3://{bucket.name}/loova/prompts.csv")
    assert summary.startswith("1 video: 1 reused")
    bucket.client.head_object(Bucket=bucket, Key="loova/prompts.report.csv")

    script = tmp_path / "nightly.py"
    script.write_text(to_run("schedule.md", "python")[0])
    env = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen([sys.executable, str(script)], env=env, stdout=log, stderr=log) as process,
    ):
        try:
            deployed = await until_deployed("nightly-videos/nightly")
        finally:
            process.terminate()
    assert [getattr(one.schedule, "cron", None) for one in deployed.schedules] == ["0 2 * * *"]
    assert deployed.parameters == {"manifest": "s3://my-videos/loova/prompts.csv"}


async def until_deployed(name: str) -> Any:
    async with get_client() as prefect:
        for _ in range(240):
            try:
                return await prefect.read_deployment_by_name(name)
            except ObjectNotFound:
                await asyncio.sleep(0.25)
    raise AssertionError("the flow was never served")


@pytest.mark.one_s3_server
async def test_a_video_is_ordered_and_collected_as_shown(prefect_server, credentials, bucket, loova):
    lister = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)
    await credentials.save("loova", overwrite=True)
    await lister.save("loova", overwrite=True)
    flows = example("detached.md")
    task_id = await flows["order_video"]("a ferry")
    assert [task["task_id"] for task in loova.ledger["tasks"]] == [task_id]
    loova.advance(1)
    assert await flows["collect"]() == "1 saved"


@pytest.mark.one_s3_server
async def test_a_clip_to_pass_around_is_made_as_shown(stored, loova):
    await bought(stored, prompt="a clip", duration=5)
    assert (await example("in-the-ui.md")["make_a_clip_to_pass_around"]("a clip")).endswith("/video.mp4")


def test_a_budget_is_set_as_shown(prefect_server, credentials):
    credentials.save("loova", overwrite=True)
    example("budgets.md")
    kept = LoovaCredentials.load("loova")
    assert (kept.max_credits_per_day, kept.api_key) == (2000, credentials.api_key)


def test_the_prices_are_the_codes():
    for model in MODELS.values():
        without, with_one = model.credits_per_second, model.credits_per_second_with_video
        assert f"| `{model.name}` | {without:g} | {with_one:g} |" in GUIDES["budgets.md"]
    low, high = USD_PER_CREDIT
    assert f"${low:.3f} to ${high:.3f}" in GUIDES["budgets.md"]


@pytest.mark.one_s3_server
async def test_a_signed_media_url_stands_in_a_flows_parameters_and_nowhere_else(prefect_server, place, loova):
    """As docs/security.md says, and what it advises instead."""
    url = "https://example.com/a.png?X-Amz-Signature="

    @flow
    async def given(request: VideoRequest) -> str:
        await submit_video(request, credentials=place.credentials, bucket=place.bucket)
        return everything_is_told()

    @flow
    async def signed_inside(prompt: str) -> str:
        request = VideoRequest(prompt=prompt, image_urls=[f"{url}inner-secret"])
        await submit_video(request, credentials=place.credentials, bucket=place.bucket)
        return everything_is_told()

    def everything_is_told() -> str:
        from prefect.runtime import flow_run

        return str(flow_run.id)

    outer = await kept_of(await given(VideoRequest(prompt="given", image_urls=[f"{url}outer-secret"])))
    assert "outer-secret" in str(outer["run"].parameters)
    assert "outer-secret" not in str([outer["tasks"], outer["logs"]])
    inner = await kept_of(await signed_inside("signed inside"))
    assert "inner-secret" not in str(inner)
    assert loova.api_key not in str([outer, inner])
    assert loova.ledger["tasks"][1]["request"]["image_urls"] == [f"{url}inner-secret"]


async def kept_of(flow_run_id: str) -> dict[str, Any]:
    """What Prefect's server keeps of a run."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]
    async with get_client() as prefect:
        (run,) = await prefect.read_flow_runs(flow_run_filter=only)
        tasks = await prefect.read_task_runs(flow_run_filter=only)
        logs = [log.message for log in await prefect.read_logs() if str(log.flow_run_id) == flow_run_id]
        artifacts = await prefect.read_artifacts(flow_run_filter=only)
    return {"run": run, "tasks": tasks, "logs": logs, "artifacts": artifacts}


async def test_a_job_in_doubt_is_adopted_as_shown(prefect_server, credentials, bucket, loova):
    lister = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)
    loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await submit_video(VideoRequest(prompt="a plane"), credentials=credentials, bucket=lister)
    (task,) = loova.ledger["tasks"]
    adopt = example("in-doubt.md")["adopt"]
    assert await adopt(credentials, lister, VideoRequest(prompt="a plane").key, task["task_id"]) == []
    found = await submit_video(VideoRequest(prompt="a plane"), credentials=credentials, bucket=lister)
    assert found.task_id == task["task_id"]


async def test_a_batch_is_made_as_shown(prefect_server, place, loova):
    report = await example("batches.md")["two_boats"](place.credentials, place.bucket)
    assert (report.count("saved"), loova.ledger["totals"]["billed"]) == (2, 2)


async def test_a_client_is_tested_as_shown(loova_simulator):
    await example("testing.md", 0)["test_a_client_asks_again_when_a_poll_fails"](loova_simulator)


async def test_a_pipeline_is_tested_as_shown(prefect_server, loova_simulator, s3_block):
    names = example("testing.md", 1)
    assert names["LoovaCredentials"] is LoovaCredentials
    await names["test_the_pipeline_never_pays_twice"](loova_simulator, s3_block)


def test_the_guide_lists_every_fault():
    listed = re.findall(r"(?m)^\| `(\w+)` \|", GUIDES["testing.md"])
    assert listed == list(FAULTS)


def test_the_table_of_moves_is_the_codes():
    printed = re.search(r"<!-- moves -->\n(.*?)\n<!-- /moves -->", GUIDES["job-record.md"], re.DOTALL)
    assert printed is not None
    assert printed[1] == moves_as_markdown()


def test_the_times_are_the_codes():
    for name, field in JobTimes.model_fields.items():
        assert f"| `{name}` | {field.default:g} s | {field.description} |" in GUIDES["job-record.md"]


def test_the_guide_lists_every_event():
    listed = re.findall(r"(?m)^\| `(loova\.[\w.]+)` \|", GUIDES["events.md"])
    assert sorted(listed) == sorted(
        [*(f"loova.job.{happening}" for happening in get_args(JobEvent)), "loova.credits.low"]
    )


def test_the_columns_of_a_manifest_are_the_requests_fields():
    for column in COLUMNS:
        assert f"`{column}`" in GUIDES["batches.md"]


def test_the_error_of_a_job_in_doubt_reads_as_shown():
    job = JobInDoubt(
        key="5476…d3af",
        attempt=1,
        record="s3://my-videos/loova/5476…d3af/record.json",
        place="--bucket my-videos --prefix loova",
        prompt="A futuristic city at sunset",
        model="seedance_2_0",
        submitted_at=datetime(2026, 11, 24, 13, 13, 42, tzinfo=UTC),
        credits_estimate=60,
        credits_before=10_000,
        credits_after=9_940,
    )
    shown = " ".join(GUIDES["in-doubt.md"].split())
    for line in (job.evidence, *job.next_steps):
        assert " ".join(line.split()) in shown
