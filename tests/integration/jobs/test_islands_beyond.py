"""What cannot be read is named by key and stops nothing else: in a batch, the credits, the budget, and the doubts.

The collector's own poisons are in `test_islands`. On a real S3 server, with the simulator, over the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from prefect_loova.batches.credits import credits_report
from prefect_loova.batches.plan import PlannedVideo, admit
from prefect_loova.batches.pricing import is_stored, price_videos
from prefect_loova.batches.scheduler import BatchSteps, run_batch
from prefect_loova.batches.story import StoryPlan
from prefect_loova.batches.storyboard import Shot
from prefect_loova.errors import BudgetError, InDoubtError, InvalidRequestError, StorageError
from prefect_loova.flows.batch_run import _dry_run_outcome, _queued_outcome
from prefect_loova.jobs.collect import enqueue
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.reports import BatchReport, CollectedVideos
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo, Submission
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.test_islands import BAD, DEEP, GOOD, Place
from tests.integration.jobs.workers import FOR_EVER, Workers
from tests.support.proxy import NetworkFault, Proxy

pytestmark = pytest.mark.one_s3_server

PRICE = BAD.estimate_credits()


def _other_api(place: Place) -> None:
    place.record(JobRecord.claimed(BAD, "https://another.test", {}).model_dump(mode="json"))


async def _answered(status: int, place: Place) -> None:
    await place.bought()
    body = f"<Error><Code>{'AccessDenied' if status == 403 else 'InternalError'}</Code></Error>".encode()
    place.proxy.inject(
        NetworkFault(what="answer", status=status, body=body, matching=f"^GET .*{BAD.key}/record", times=FOR_EVER)
    )


POISONS: dict[str, Callable[[Place], Any]] = {
    "corrupt": lambda place: place.record(b"not JSON"),
    "empty": lambda place: place.record(b""),
    "an empty object": lambda place: place.record({}),
    "a list": lambda place: place.record([1]),
    "nested deeply": lambda place: place.record(DEEP),
    "of a newer format": lambda place: place.record({"format": 2}),
    "in an unknown state": lambda place: place.record(place.attempt(state="archived")),
    "of another request": lambda place: place.record(place.attempt() | {"key": "0" * 64}),
    "of another API": _other_api,
    "denied by S3": partial(_answered, 403),
}
"""Records that cannot be read."""

BAD_FOR_A_BATCH = POISONS | {
    "of a purchase without a task": lambda place: place.record(place.attempt(state="submitted")),
    "never answered by S3": partial(_answered, 500),
}


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0, short_side=32) as simulator:
        yield simulator


@pytest.fixture
def place(workers: Workers, proxy: Proxy) -> Place:
    return Place(workers, proxy, proxy)


async def poisoned(place: Place, poison: str) -> bytes:
    """Put a poison there; returns its bytes."""
    if (waits := BAD_FOR_A_BATCH[poison](place)) is not None:
        await waits
    return place.workers.bytes_of(f"loova/{BAD.key}/record.json")


@asynccontextmanager
async def worker(place: Place, **settings: Any) -> AsyncIterator[VideoJobs]:
    """A worker that may list, behind the proxy."""
    server = place.workers.bucket.server
    client = replace(server, endpoint_url=place.proxy.url).client(retries={"total_max_attempts": 1})
    async with place.workers.worker(s3=client, **settings) as jobs:
        yield jobs


def steps(jobs: VideoJobs) -> BatchSteps:
    async def save(submission: Submission) -> SavedVideo:
        saved, _ = await save_video(jobs, submission)
        return saved

    return BatchSteps(
        submit=partial(submit_video, jobs),
        wait=partial(wait_for_video, jobs, max_wait=5, poll_seconds=0.05),
        save=save,
        is_stored=partial(is_stored, jobs),
        slot=nullcontext,
    )


async def order_beside(place: Place, requests: list[VideoRequest]) -> tuple[PlannedVideo, BatchReport]:
    """Price a batch and work it off; returns the bad row as it was priced, and the report."""
    async with worker(place) as jobs:
        orders = await price_videos(jobs, requests)
        await enqueue(jobs, [order.request for order in orders if order.price])
        assert f"loova/_open/queued/{BAD.key}" not in place.workers.keys
        price, spent = sum(order.price for order in orders), sum(order.spent for order in orders)
        report = await run_batch(await admit(jobs, orders, max_credits=price + spent), steps(jobs), slots=2)
    (bad,) = (order for order in orders if order.request.key == BAD.key)
    return bad, report


@pytest.mark.parametrize("poison", BAD_FOR_A_BATCH)
async def test_a_batch_makes_its_good_videos_beside_a_record_that_is(poison: str, place: Place) -> None:
    body = await poisoned(place, poison)
    await place.bought(GOOD[0])
    posted = place.workers.totals["posted"]
    bad, report = await order_beside(place, [GOOD[0], BAD, GOOD[1], GOOD[2]])

    assert [one.outcome for one in report.videos] == ["reused", "failed", "saved", "saved"]
    assert place.workers.totals["posted"] == posted + 2
    counts = 0.0 if poison == "of another API" else PRICE
    assert (bad.price, bad.spent, bad.submission) == (0.0, counts, None)
    assert report.videos[1].key == BAD.key
    assert report.videos[1].credits_charged == counts
    assert "its job record cannot be read, so it is not submitted" in report.videos[1].reason
    assert _dry_run_outcome(bad).outcome == _queued_outcome(bad, False, CollectedVideos()).outcome == "failed"
    assert place.workers.bytes_of(f"loova/{BAD.key}/record.json") == body


async def test_a_batch_ends_if_s3_answers_for_none_of_its_records(place: Place) -> None:
    place.proxy.inject(NetworkFault(what="answer", status=500, matching="^GET .*/record", times=FOR_EVER))
    async with worker(place) as jobs:
        with pytest.raises(StorageError, match="GetObject"):
            await price_videos(jobs, GOOD[:3])
        place.proxy.seen.clear()
        with pytest.raises(StorageError, match="GetObject"):
            await price_videos(jobs, [VideoRequest(prompt=f"one of many {number}") for number in range(200)])
    assert len(place.proxy.seen) < 300  # 16 rows and those at the same time, 6 tries each; not 200


async def test_where_nothing_may_be_listed_a_denied_record_counts_as_missing(place: Place) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    place.proxy.inject(NetworkFault(what="answer", status=403, body=denied, matching="^GET ", times=FOR_EVER))
    async with worker(place) as jobs:
        orders = await price_videos(jobs, GOOD[:2])
    assert [order.price for order in orders] == [PRICE, PRICE]


@pytest.mark.parametrize("poison", POISONS)
async def test_the_credits_are_reported_beside_a_record_that_is(poison: str, place: Place) -> None:
    async with place.workers.worker() as jobs:
        await submit_video(jobs, GOOD[0])
        await jobs.budget.reserve(BAD.key, 1, 0, PRICE)
    body = await poisoned(place, poison)
    async with worker(place) as jobs:
        report = await credits_report(jobs, days=1, low_below=0)
    assert sum(day.credits for day in report.days) == GOOD[0].estimate_credits() + PRICE
    assert [key for key, _ in report.problems] == [BAD.key]
    assert BAD.key in report.problems[0][1]
    assert place.workers.bytes_of(f"loova/{BAD.key}/record.json") == body


@pytest.mark.parametrize("poison", POISONS)
async def test_a_budget_counts_and_goes_on_beside_a_record_that_is(poison: str, place: Place) -> None:
    async with place.workers.worker() as jobs:
        await jobs.budget.reserve(BAD.key, 1, 0, PRICE)
    await poisoned(place, poison)
    posted = place.workers.totals["posted"]
    async with worker(place, max_credits_per_day=3 * PRICE) as jobs:
        await submit_video(jobs, GOOD[0])
        await submit_video(jobs, GOOD[1])
        with pytest.raises(BudgetError, match="180 are spent"):
            await submit_video(jobs, GOOD[2])
    assert place.workers.totals["posted"] == posted + 2


@pytest.mark.parametrize("poison", [*POISONS, "never answered by S3"])
async def test_the_doubts_are_listed_beside_a_record_that_is(poison: str, place: Place) -> None:
    place.workers.loova.fail("lost_reply", prompt=GOOD[0].prompt)
    async with place.workers.worker() as jobs:
        with pytest.raises(InDoubtError):
            await submit_video(jobs, GOOD[0])
    body = await poisoned(place, poison)
    async with worker(place) as jobs:
        found = await find_doubts(jobs)
    assert [job.key for job in found.in_doubt] == [GOOD[0].key]
    assert [key for key, _ in found.problems] == [BAD.key]
    assert BAD.key in found.problems[0][1]
    assert place.workers.bytes_of(f"loova/{BAD.key}/record.json") == body


@pytest.mark.parametrize("poison", POISONS)
async def test_a_story_ends_one_chain_of_shots_only_at_a_record_that_is(poison: str, place: Place) -> None:
    body = await poisoned(place, poison)
    shots = [Shot(number, request.model_dump(mode="json")) for number, request in enumerate([BAD, GOOD[0]])]
    state = StoryPlan({shot.number: shot for shot in shots}, 1)
    async with worker(place) as jobs:
        bad, good = [await state.plan_shot(jobs, shot.number, shot.request) for shot in shots]
        report = await run_batch(await admit(jobs, [bad, good]), steps(jobs), slots=1)
    assert (bad.price, good.price) == (0, PRICE)
    assert [one.outcome for one in report.videos] == ["failed", "saved"]
    dry = state.outcome(shots[0], "a dry run")
    assert (dry.outcome, dry.key) == ("failed", BAD.key)
    assert "its job record cannot be read" in dry.reason
    assert place.workers.bytes_of(f"loova/{BAD.key}/record.json") == body


async def test_a_saved_shot_whose_video_may_not_be_read_is_named(place: Place) -> None:
    async with worker(place) as jobs:
        await run_batch(await admit(jobs, await price_videos(jobs, GOOD[:1])), steps(jobs), slots=1)
        place.proxy.inject(NetworkFault(what="answer", status=403, matching="^HEAD .*video.mp4", times=FOR_EVER))
        shot = Shot(1, GOOD[0].model_dump(mode="json"))
        state = StoryPlan({1: shot}, 1)
        await state.plan_shot(jobs, 1, shot.request)
    outcome = state.outcome(shot, "a dry run")
    assert (outcome.outcome, outcome.credits_charged) == ("failed", 0)
    assert "its video cannot be read" in outcome.reason


@pytest.mark.parametrize("poison", ["corrupt", "of a newer format", "nested deeply"])
async def test_a_reference_video_whose_record_cannot_be_read_is_refused_by_its_request(
    poison: str, place: Place
) -> None:
    async with worker(place) as jobs:
        await run_batch(await admit(jobs, await price_videos(jobs, [BAD])), steps(jobs), slots=1)
        await poisoned(place, poison)
        (name,) = (key for key in place.workers.keys if key.endswith(".mp4"))
        video = jobs.records.uri(name)
        asked = VideoRequest(prompt="after", duration=4, video_urls=[video])
        with pytest.raises(InvalidRequestError, match=r"^request 2: video_urls.0: .*its job record cannot be read"):
            await MediaPreparer(jobs, upload=False).prepare_all([GOOD[0], asked])
    assert place.workers.totals["posted"] == 1
