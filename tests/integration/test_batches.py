"""Many videos on a real Prefect server: batches, manifests, detached runs, the collector, quota, budget, events."""

from __future__ import annotations

import asyncio
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.concurrency.asyncio import concurrency

from prefect_loova import (
    BatchError,
    BudgetError,
    Submission,
    VideoRequest,
    collect_videos,
    generate_from_manifest,
    generate_video,
    generate_videos,
    report_credits,
)
from prefect_loova._prefect.concurrency import slot, slot_count
from prefect_loova._prefect.pages import escaped
from prefect_loova.errors import InvalidRequestError, WaitTimeoutError
from prefect_loova.store.budget import today
from tests.integration.conftest import block_of, left_in_the_middle_of_the_submit

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]


def requests(count: int, start: int = 0) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"video {number}", duration=4) for number in range(start, start + count)]


def batch(requests: list[VideoRequest], place, **options: Any):
    return generate_videos(requests, place.credentials, place.bucket, poll_seconds=0.1, **options)


@pytest.fixture
def lister(place, bucket):
    """The place of one who may list the bucket."""
    return replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


async def artifacts(key: str) -> list[str]:
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [str(one.data) for one in sorted(found, key=lambda one: one.created)]


async def events_of(resource: str, count: int = 1) -> list[dict[str, Any]]:
    for _ in range(50):
        async with get_client() as client:
            body = {"filter": {"resource": {"id_prefix": [resource]}, "event": {"prefix": ["loova."]}}, "limit": 50}
            found = (await client._client.post("/events/filter", json=body)).json()["events"]
        if len(found) >= count:
            break
        await asyncio.sleep(0.2)
    return found


async def test_a_batch_pays_each_once_and_a_second_run_pays_nothing(place, loova):
    report = await batch([*requests(8), *requests(2)], place)
    assert (report.count(), report.count("saved"), report.credits_charged) == (8, 8, 480)
    assert report.videos[0].rows == (1, 9)
    assert loova.ledger["totals"]["refused"] == 0
    again = await batch([*requests(8), *requests(1, start=8)], place)
    assert (again.count("reused"), again.count("saved"), again.credits_charged) == (8, 1, 60)
    assert loova.ledger["totals"]["billed"] == 9


async def test_one_bad_video_does_not_stop_the_others_and_the_run_says_what_is_missing(place, loova):
    loova.fail("prompt_refused")
    loova.fail("lost_reply")
    with pytest.raises(BatchError, match=r"6 videos: 4 saved, 1 in doubt, 1 content refused; 300 credits") as caught:
        await batch(requests(6), place)
    assert "moderation" in str(caught.value)
    assert caught.value.report.count("saved") == 4
    shown = (await artifacts("loova-batch"))[-1]
    assert shown.index("in doubt") < shown.index("| saved")
    again = await batch(requests(6), place, on_failure="report")
    assert (again.count("in_doubt"), again.count("content_refused")) == (1, 1)
    assert (again.count("saved"), again.count("reused")) == (0, 4)
    assert (loova.ledger["totals"]["billed"], loova.ledger["totals"]["posted"]) == (5, 6)


async def test_of_twenty_videos_three_are_refused_for_their_content_and_never_bought_again(place, loova):
    for number in (3, 8):
        loova.fail("content_refused", prompt=f"video {number} ", times=None)
    loova.fail("content_refused_output", prompt="video 15 ", times=None)
    twenty = [VideoRequest(prompt=f"video {number} of 20", duration=4) for number in range(20)]
    report = await batch(twenty, place, on_failure="report")
    assert (report.count("saved"), report.count("content_refused"), report.count("failed")) == (17, 3, 0)
    refused = [video for video in report.videos if video.outcome == "content_refused"]
    assert [video.rows for video in refused] == [(4,), (9,), (16,)]
    assert [video.credits_charged for video in refused] == [0, 0, 60]
    page = (await artifacts("loova-batch"))[-1]
    assert "17 saved\\, 3 content refused" in page
    assert page.count("**content refused** ") == 3
    for video in refused:
        (event,) = [one for one in await events_of(f"loova.job.{video.key}") if "refused" in one["event"]]
        assert event["event"] == "loova.job.content_refused"
        assert "sensitive" in event["payload"]["reason"].lower()

    posted = loova.ledger["totals"]["posted"]
    again = await batch(twenty, place, on_failure="report", max_paid_attempts=3)
    assert (again.count("reused"), again.count("content_refused")) == (17, 3)
    assert loova.ledger["totals"]["posted"] == posted == 20

    with_fallbacks = [one.model_copy(update={"fallback_prompt": f"harmless {n}"}) for n, one in enumerate(twenty)]
    made = await batch(with_fallbacks, place)
    assert (made.count("reused"), made.count("saved"), made.credits_charged) == (17, 3, 180)
    assert [video.rows for video in made.videos if video.is_fallback] == [(4,), (9,), (16,)]
    assert (await batch(with_fallbacks, place)).count("reused") == 20
    assert loova.ledger["totals"]["posted"] == 23


async def test_a_fallback_prompt_is_made_in_the_same_run_within_its_budget(place, loova):
    loova.fail("content_refused", prompt="first")
    loova.fail("content_refused_output", prompt="second", times=None)
    prompts = ("first", "second", "third")
    videos = [VideoRequest(prompt=prompt, fallback_prompt=f"{prompt}, harmless", duration=4) for prompt in prompts]
    report = await batch([videos[0], videos[2]], place)
    assert [(video.outcome, video.is_fallback) for video in report.videos] == [("saved", True), ("saved", False)]
    assert report.credits_charged == 120
    tight = await batch([videos[1]], place, max_credits=100, on_failure="report")
    assert (tight.videos[0].outcome, tight.credits_charged) == ("content_refused", 60)
    assert "the budget of 100 credits leaves nothing for the fallback_prompt" in tight.videos[0].reason
    report = await batch([videos[1]], place, max_credits=100)
    assert (report.videos[0].outcome, report.videos[0].is_fallback, report.credits_charged) == ("saved", True, 60)


async def test_one_video_falls_back_after_its_output_was_refused(place, loova):
    loova.fail("content_refused_output", prompt="a brand", times=None)
    request = VideoRequest(prompt="a brand", fallback_prompt="a label", duration=4)
    saved = await generate_video(request, place.credentials, place.bucket, poll_seconds=0.1)
    assert (saved.request["prompt"], loova.ledger["totals"]["billed"]) == ("a label", 2)
    again = await generate_video(request, place.credentials, place.bucket, poll_seconds=0.1)
    assert (again.key, again.reused, loova.ledger["totals"]["posted"]) == (saved.key, True, 2)


async def test_refusals_by_a_code_are_reported_and_the_other_videos_are_bought(place, loova):
    for number in range(0, 16, 2):
        loova.fail("refused_by_code", prompt=f"video {number} ", times=None)
    twenty = [VideoRequest(prompt=f"video {number} of 20", duration=4) for number in range(20)]
    report = await batch(twenty, place, on_failure="report")
    assert (report.count("saved"), report.count("in_doubt"), report.count()) == (12, 0, 20)
    reasons = [video.reason for video in report.videos if video.reason]
    assert len(reasons) == 8
    assert all("words that are not allowed" in reason for reason in reasons)
    assert (loova.ledger["totals"]["billed"], loova.ledger["totals"]["posted"]) == (12, 20)


async def test_submits_of_a_killed_run_do_not_stop_the_next_run(place, loova):
    await left_in_the_middle_of_the_submit(requests(4), place)
    with pytest.raises(BatchError, match="12 videos: 8 saved, 4 in doubt; 720 credits"):
        await batch(requests(12), place)
    assert loova.ledger["totals"]["posted"] == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_credits": 200}, "max_credits: 200 was given"),
        ({"keep_credits": 9_900}, "keep_credits: 9900 was given, and the account has 10,000 credits"),
    ],
)
async def test_a_batch_over_budget_is_refused_as_a_whole_before_anything_is_spent(place, loova, bucket, options, says):
    with pytest.raises(BudgetError, match="4 of 4 videos are to be bought, for up to 240 credits") as caught:
        await batch(requests(4), place, **options)
    assert says in str(caught.value)
    assert loova.ledger["totals"]["posted"] == 0
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket, Prefix="loova/_open")
    report = await batch(requests(4), place, over_budget="stop", on_failure="report", **options)
    assert report.credits_charged <= 200
    assert report.count("not_started") >= 1


async def test_a_run_that_prefect_retries_counts_what_it_spent_before(place, loova):
    tries: list[int] = []

    @flow(retries=1)
    async def outer() -> None:
        tries.append(1)
        await batch(requests(len(tries)), place, max_credits=100)
        raise RuntimeError("after the first batch")

    with pytest.raises(BudgetError, match="max_credits: 100 was given, and this run has already spent 60"):
        await outer()
    assert (len(tries), loova.ledger["totals"]["billed"]) == (2, 1)


async def test_all_invalid_requests_are_reported_before_anything_is_spent(place, loova):
    bad: list[Any] = [{"prompt": "a"}, {"prompt": " ", "duration": 99}, {"prompt": "c", "ratio": "5:4"}]
    with pytest.raises(Exception, match=r"(?s)requests\.1.*requests\.2") as caught:
        await batch(bad, place)
    assert "duration" in str(caught.value)
    assert loova.ledger["totals"]["posted"] == 0


async def test_the_collector_finishes_a_detached_batch(lister, loova):
    report = await batch(requests(8), lister, wait=False)
    assert (report.count("submitted"), report.count("queued")) == (6, 2)
    assert report.credits_charged == 360
    loova.advance(1)
    found = await collect_videos(lister.credentials, lister.bucket)
    assert (len(found.saved), len(found.submitted), found.queued) == (6, 2, 0)
    loova.advance(1)
    assert len((await collect_videos(lister.credentials, lister.bucket)).saved) == 2
    assert loova.ledger["totals"]["billed"] == 8
    assert (await batch(requests(8), lister, wait=False)).count("reused") == 8


async def test_a_detached_run_ends_after_the_submit_and_its_job_is_collected_by_task(lister, loova):
    (request,) = requests(1)
    submission = await generate_video(request, lister.credentials, lister.bucket, wait=False)
    assert isinstance(submission, Submission)
    loova.advance(1)
    found = await collect_videos(lister.credentials, lister.bucket, key=submission.task_id)
    assert [saved.task_id for saved in found.saved] == [submission.task_id]


MANIFEST = 'prompt,duration\n"a boat, with ""sails""\nat sea",4\n@image1 walks,4\n"a boat, with ""sails""\nat sea",4\n'


async def test_a_manifest_in_s3_is_made_and_a_report_written_beside_it(place, loova, bucket):
    bucket.client.put_object(Bucket=bucket, Key="loova/lists/prompts.csv", Body=MANIFEST.encode())
    options = {"credentials": place.credentials, "bucket": place.bucket, "poll_seconds": 0.1}
    manifest = f"s3://{bucket.name}/loova/lists/prompts.csv"
    dry = await generate_from_manifest(manifest, **options, dry_run=True)
    assert (dry.count("not_started"), loova.ledger["totals"]["posted"]) == (2, 0)
    assert dry.left_to_buy.startswith("2 videos, 2 to be bought for up to 120 credits (")
    assert "Up to 120 credits" in (await artifacts("loova-prices"))[-1]
    report = await generate_from_manifest(manifest, **options)
    assert report.count("saved") == 2
    async with get_client() as client:
        is_gallery = ArtifactFilter(key=ArtifactFilterKey(any_=["loova-batch"]))
        galleries = await client.read_artifacts(artifact_filter=is_gallery)
    assert f"The videos of {escaped(manifest)}" in [one.description for one in galleries]
    body = bucket.client.get_object(Bucket=bucket, Key="loova/lists/prompts.report.csv")["Body"].read().decode()
    rows = list(csv.DictReader(body.splitlines()))
    assert [(row["rows"], row["outcome"]) for row in rows] == [("1 3", "saved"), ("2", "saved")]
    assert all(row["video"].startswith(f"s3://{bucket.name}/loova/") for row in rows)


async def test_all_problems_of_a_manifest_are_reported_and_nothing_is_spent(place, loova, tmp_path: Path):
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("prompt,duration,ratio\n=1+1,5,16:9\na,99,5:4\n")
    with pytest.raises(InvalidRequestError, match="has 3 problems in 2 rows; nothing was started"):
        await generate_from_manifest(str(manifest), place.credentials, place.bucket)
    for name in (str(tmp_path / "missing.csv"), "s3://no-such-bucket/x.csv", "s3://x"):
        with pytest.raises(InvalidRequestError, match="manifest: "):
            await generate_from_manifest(name, place.credentials, place.bucket)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_report_that_cannot_be_written_does_not_fail_the_videos(place, loova, tmp_path, caplog):
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("prompt,duration\na boat,4\n")
    (tmp_path / "prompts.report.csv").mkdir()
    report = await generate_from_manifest(str(manifest), place.credentials, place.bucket, poll_seconds=0.1)
    assert report.count("saved") == 1
    assert "no report was written beside the manifest" in caplog.text


async def test_the_budget_of_a_day_applies_to_all_runs(lister, loova):
    bounded = lister.credentials.model_copy(update={"max_credits_per_day": 200.0})
    place = replace(lister, credentials=bounded)
    report = await batch(requests(6), place, on_failure="report")
    assert (report.count("saved"), report.count("not_started")) == (3, 3)
    assert "max_credits_per_day: the limit is 200 credits" in next(
        v.reason for v in report.videos if v.outcome == "not_started"
    )
    with pytest.raises(BudgetError):
        await generate_video(VideoRequest(prompt="one more", duration=4), place.credentials, place.bucket)
    assert loova.ledger["totals"]["billed"] == 3


async def test_the_limit_is_created_with_6_slots_shared_and_released(place, loova):
    await batch(requests(2), place, concurrency_limit="made")
    assert await slot_count("made") == 6
    async with get_client() as client:
        limit = await client.read_global_concurrency_limit_by_name("made")
        assert limit.active_slots == 0
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="two", limit=2))
    assert await slot_count("two") == 2
    await batch(requests(6, start=10), place, concurrency_limit="two")
    assert await slot_count("") == 6


async def test_a_slot_that_is_never_released_delays_a_run_only_for_a_while(caplog):
    async with get_client() as client:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="full", limit=1))

    @flow
    async def waits() -> str:
        async with concurrency("full", lease_duration=60), slot("full", timeout=1):
            return "went on"

    assert await waits() == "went on"
    assert "no slot of the concurrency limit full became free in 1 s: submitting without one" in caplog.text


async def test_a_run_behind_another_waiter_ends_at_its_own_max_wait():
    async with get_client() as client:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="one", limit=1))

    async def waits(max_wait: float) -> None:
        async with slot("one", max_wait=max_wait):
            raise AssertionError("there is none")

    @flow
    async def both() -> float:
        async with concurrency("one", lease_duration=60):
            first = asyncio.create_task(waits(30))
            await asyncio.sleep(1)  # it has its turn now
            started = asyncio.get_running_loop().time()
            with pytest.raises(WaitTimeoutError, match="no slot of the concurrency limit one"):
                await waits(1)
            took = asyncio.get_running_loop().time() - started
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        return took

    assert await both() < 10


async def test_no_slot_within_max_wait_is_an_error_before_anything_is_bought():
    async with get_client() as client:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="taken", limit=1))

    @flow
    async def waits() -> None:
        async with concurrency("taken", lease_duration=60), slot("taken", max_wait=0):
            raise AssertionError("it went on")

    with pytest.raises(WaitTimeoutError, match=r"taken was free within max_wait \(0 s\).*nothing was bought"):
        await waits()


async def test_a_job_sends_events(place, loova):
    request = VideoRequest(prompt="an event", duration=4)
    await generate_video(request, place.credentials, place.bucket, poll_seconds=0.1)
    found = await events_of(f"loova.job.{request.key}", 3)
    told = {event["event"]: event["payload"] for event in found}
    assert set(told) == {"loova.job.submitted", "loova.job.succeeded", "loova.job.saved"}
    assert told["loova.job.saved"]["video"].endswith(f"{request.key}/video.mp4")
    assert told["loova.job.saved"]["credits_cost"] == 60
    assert loova.api_key not in json.dumps(found)


async def test_the_credits_report_shows_the_days_and_warns_of_a_low_balance(lister, loova):
    await batch(requests(2), lister)
    report = await report_credits(lister.credentials, lister.bucket, days=1, low_below=20_000)
    assert (report.available, report.is_low) == (9_880, True)
    assert [(day.day, day.videos, day.credits) for day in report.days] == [(today(), 2, 120)]
    assert "| 2 | 120 |" in (await artifacts("loova-credits"))[-1]
    (event,) = await events_of(f"loova.account.{loova.origin.partition('://')[2]}")
    assert event["payload"] == {"schema_version": 1, "available": 9_880, "low_below": 20_000}
