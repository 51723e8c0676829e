"""Takes, templates and labels of a list, on a real Prefect server and S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from prefect_loova import VideoRequest, collect_videos, generate_from_manifest, generate_video, report_credits
from prefect_loova.errors import InvalidRequestError
from tests.integration.test_batches import artifacts, batch, events_of, lister

__all__ = ["lister"]

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.takes, pytest.mark.one_s3_server]

LIST = """
prompt_template: "{product} at {place}"
columns:
  product: [a chair, a lamp, a sofa, a table]
  place: [home, the sea, the office, the park, night]
takes: 2
label: spring
duration: 4
"""


async def test_a_template_of_4_by_5_values_and_2_takes_is_40_videos_that_are_paid_once(lister, loova, tmp_path: Path):
    path = tmp_path / "spring.yaml"
    path.write_text(LIST)
    where = {"credentials": lister.credentials, "bucket": lister.bucket, "preview": "none", "poll_seconds": 0.1}
    dry = await generate_from_manifest(str(path), dry_run=True, **where)
    assert dry.left_to_buy.startswith("40 videos, 40 to be bought for up to 2,400 credits")
    assert loova.ledger["totals"]["posted"] == 0
    page = (await artifacts("loova-prices"))[-1]
    assert "| a lamp at the sea | spring | 2 | 120 |" in page
    report = await generate_from_manifest(str(path), max_credits=2400, **where)
    assert (report.count("saved"), report.credits_charged) == (40, 2400)
    places = {((row,), take) for row in range(1, 21) for take in (0, 1)}
    assert {(one.rows, one.take) for one in report.videos} == places
    assert loova.ledger["totals"]["billed"] == 40
    again = await generate_from_manifest(str(path), **where)
    assert (again.count("reused"), again.credits_charged) == (40, 0)
    assert loova.ledger["totals"]["posted"] == 40
    spent = await report_credits(lister.credentials, lister.bucket, price_per_credit=0.01)
    assert spent.by_label() == {"spring": 2400.0}
    assert "| spring | 2,400 | 24.00 |" in (await artifacts("loova-credits"))[-1]


async def test_a_label_is_on_the_run_its_tasks_its_events_and_its_job(lister, loova):
    wanted = [VideoRequest(prompt="a", duration=4, label="north"), VideoRequest(prompt="b", duration=4, label="south")]
    state = await batch(wanted, lister, return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
        tasks = await client.read_task_runs()
    assert {"label:north", "label:south"} <= set(run.tags)
    mine = [set(task.tags) & {"label:north", "label:south"} for task in tasks if task.flow_run_id == run.id]
    assert sorted(map(sorted, mine)) == [["label:north"]] * 3 + [["label:south"]] * 3
    events = await events_of(f"loova.job.{wanted[0].key}", 3)
    assert {event["payload"]["label"] for event in events} == {"north"}
    assert {event["resource"]["loova.label"] for event in events} == {"north"}
    spent = await report_credits(lister.credentials, lister.bucket)
    assert spent.by_label() == {"north": 60, "south": 60}


async def test_the_label_of_a_queued_video_stays_with_it(lister, loova):
    wanted = [VideoRequest(prompt="queued", duration=4, label="night", takes=2)]
    await batch(wanted, lister, wait=False)
    while (await collect_videos(lister.credentials, lister.bucket)).running:
        pass
    spent = await report_credits(lister.credentials, lister.bucket)
    assert spent.by_label()["night"] == 120
    assert loova.ledger["totals"]["billed"] == 2


async def test_another_label_does_not_buy_the_video_again(lister, loova):
    request = VideoRequest(prompt="shared", duration=4, label="first")
    saved = await generate_video(request, lister.credentials, lister.bucket, poll_seconds=0.1)
    other = request.model_copy(update={"label": "second"})
    again = await generate_video(other, lister.credentials, lister.bucket, poll_seconds=0.1)
    assert (saved.label, again.label, again.reused) == ("first", "first", True)
    assert loova.ledger["totals"]["billed"] == 1


async def test_one_video_has_one_take(lister, loova):
    with pytest.raises(InvalidRequestError, match="takes: 2 was given: must be 1 here"):
        await generate_video(VideoRequest(prompt="a", takes=2), lister.credentials, lister.bucket)
    assert loova.ledger["totals"]["posted"] == 0
