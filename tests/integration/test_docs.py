"""What the guides show is run, and what they print from the code is what the code says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from prefect_loova import InDoubtError, LoovaCredentials, VideoRequest, submit_video
from prefect_loova.jobs import Happening, JobTimes
from prefect_loova.manifest import COLUMNS
from prefect_loova.models import JobInDoubt
from prefect_loova.simulator import FAULTS
from prefect_loova.states import moves_as_markdown

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {path.name: path.read_text() for path in DOCS.rglob("*.md")}

pytestmark = pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning")


def example(guide: str, number: int = 0) -> dict[str, Any]:
    """The names that a guide's example defines."""
    code = re.findall(r"```python\n(.*?)```", GUIDES[guide], re.DOTALL)[number]
    names: dict[str, Any] = {"__name__": guide}
    exec(compile(code, guide, "exec"), names)
    return names


def test_every_example_is_run_by_a_test():
    assert {name: text.count("```python") for name, text in GUIDES.items() if "```python" in text} == {
        "batches.md": 1,
        "in-doubt.md": 1,
        "testing.md": 2,
    }


async def test_a_job_in_doubt_is_adopted_as_shown(prefect_server, credentials, bucket, loova):
    from tests.integration.conftest import block_of

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
        [*(f"loova.job.{happening}" for happening in get_args(Happening)), "loova.credits.low"]
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


@pytest.mark.parametrize("guide", [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")])
def test_every_link_between_files_leads_somewhere(guide):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / guide).read_text()):
        assert ((DOCS / guide).parent / target).exists(), target
