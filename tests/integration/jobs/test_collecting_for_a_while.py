"""A collector that goes on for a while, on a real clock: slots are filled at once, and what it asks does not grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_loova.errors import InDoubtError, StorageError
from prefect_loova.jobs.collect import collect, enqueue
from prefect_loova.models.reports import CollectedVideos
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import FOR_EVER, Workers, through, until
from tests.support.proxy import NetworkFault, Proxy
from tests.support.s3_servers import Bucket

SLOTS = 3


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0.5, short_side=64, max_running=SLOTS) as made:
        yield made


async def queued(workers: Workers, count: int) -> None:
    async with workers.worker() as jobs:
        await enqueue(jobs, [VideoRequest(prompt=f"video {number}", duration=4) for number in range(count)])


def listing(proxy: Proxy, bucket: Bucket) -> Any:
    return through(proxy, bucket, bucket.server.access_key, bucket.server.secret_key)


async def kept(
    workers: Workers, seconds: float, poll_seconds: float = 0.1, s3: Any = None, **options: Any
) -> CollectedVideos:
    async with workers.worker(s3=s3 or workers.bucket.client) as jobs:
        return await collect(jobs, slots=SLOTS, keep_for=seconds, poll_seconds=poll_seconds, **options)


async def test_it_works_a_queue_off_and_then_ends_before_its_time(workers: Workers) -> None:
    await queued(workers, 12)
    started = time.monotonic()
    found = await kept(workers, 300)
    assert time.monotonic() - started < 150
    assert (len(found.saved), len(found.submitted), found.running, found.queued) == (12, 12, 0, 0)
    assert (workers.totals["billed"], workers.totals["refused"]) == (12, 0)
    assert not [key for key in workers.keys if "_open" in key]


async def test_a_video_that_is_being_saved_holds_up_no_submit(workers: Workers) -> None:
    await queued(workers, 9)

    async def until_all_are_bought(saved: SavedVideo) -> None:
        await until(lambda: workers.totals["billed"] == 9)

    found = await kept(workers, 300, on_saved=until_all_are_bought)
    assert len(found.saved) == 9


async def test_it_ends_at_its_time_and_polls_a_running_task_as_seldom_as_a_waiting_run(bucket) -> None:
    with LoovaSimulator(generation_seconds=3600, short_side=64) as slow:
        workers = Workers(bucket, slow)
        await queued(workers, 2)
        found = await kept(workers, 3, poll_seconds=0.5)
        assert (found.running, len(found.submitted), found.saved) == (2, 2, [])
        assert all(3 <= task["polls"] <= 12 for task in slow.ledger["tasks"])


async def test_the_record_of_a_running_task_is_not_read_again_for_each_poll(bucket) -> None:
    with LoovaSimulator(generation_seconds=3600, short_side=64) as slow:
        workers = Workers(bucket, slow)
        await queued(workers, 2)
        await kept(workers, 0)
        read: list[str] = []

        def note(params: dict[str, Any], **_: Any) -> None:
            read.append(params["Key"])

        bucket.client.meta.events.register("before-parameter-build.s3.GetObject", note)
        try:
            await kept(workers, 3)
        finally:
            bucket.client.meta.events.unregister("before-parameter-build.s3.GetObject", note)
        assert all(task["polls"] >= 8 for task in slow.ledger["tasks"])
        assert len([key for key in read if key.endswith("record.json")]) == 2


async def test_a_job_in_doubt_is_reported_once_however_often_it_is_read(bucket) -> None:
    with LoovaSimulator(generation_seconds=3600, short_side=64) as slow:
        workers = Workers(bucket, slow)
        slow.fail("lost_reply")
        with pytest.raises(InDoubtError):
            await workers.submit()
        await queued(workers, 1)
        found = await kept(workers, 1.5)
        assert (len(found.in_doubt), found.running, len(found.submitted)) == (1, 2, 1)


async def test_a_job_in_doubt_keeps_no_collector_at_work(workers: Workers) -> None:
    workers.loova.fail("lost_reply")
    await queued(workers, 1)
    started = time.monotonic()
    found = await kept(workers, 300)
    assert time.monotonic() - started < 100
    assert (len(found.in_doubt), found.submitted, workers.totals["billed"]) == (1, [], 1)


async def test_requests_that_are_queued_while_it_works_are_made_too(workers: Workers) -> None:
    await queued(workers, 1)

    async def queue_more(saved: SavedVideo) -> None:
        if workers.totals["billed"] == 1:
            await queued(workers, 3)

    await kept(workers, 300, on_saved=queue_more)
    await kept(workers, 300)
    assert workers.totals["billed"] == 3


@pytest.mark.parametrize("prefix", [r"_open%2F(&|$)", r"[^&]*queued"], ids=["open jobs", "queue"])
async def test_a_list_that_fails_for_a_while_ends_no_collector(
    workers: Workers, proxy: Proxy, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    await queued(workers, 6)
    proxy.inject(NetworkFault(what="answer", status=503, at=1, times=30, matching=rf"^GET .*prefix=loova%2F{prefix}"))
    found = await kept(workers, 300, s3=listing(proxy, workers.bucket))
    assert "The collector lists it again" in caplog.text
    assert (len(found.saved), found.running, found.queued, workers.totals["billed"]) == (6, 0, 0, 6)


async def test_a_list_that_fails_to_the_end_is_reported_at_the_end(workers: Workers, proxy: Proxy) -> None:
    proxy.inject(NetworkFault(what="answer", status=503, times=FOR_EVER, matching=r"^GET .*list-type=2"))
    started = time.monotonic()
    with pytest.raises(StorageError, match="503"):
        await kept(workers, 2, s3=listing(proxy, workers.bucket))
    assert time.monotonic() - started > 1.9


async def test_two_collectors_buy_each_once_and_leave_nothing(workers: Workers) -> None:
    await queued(workers, 18)
    found = await asyncio.gather(kept(workers, 300), kept(workers, 300))
    await kept(workers, 300)
    assert {saved.key for one in found for saved in one.saved} == {
        VideoRequest(prompt=f"video {number}", duration=4).key for number in range(18)
    }
    assert workers.totals["billed"] == 18
    assert not [key for key in workers.keys if "_open" in key]


async def test_no_list_of_the_bucket_grows_with_what_is_finished(workers: Workers) -> None:
    await queued(workers, 24)
    saved: list[SavedVideo] = []
    saved_before: list[int] = []
    entries, most = [], []

    async def note_saved(video: SavedVideo) -> None:
        saved.append(video)

    def note_saves(**_: Any) -> None:
        saved_before.append(len(saved))

    def note_entries(parsed: dict[str, Any], **_: Any) -> None:
        if parsed["Prefix"].endswith("/_open/"):
            entries.append(len(parsed.get("Contents", [])))
            most.append(workers.totals["billed"] + 1 - saved_before[-1])  # 1: a job that is being submitted

    events = workers.bucket.client.meta.events
    events.register("before-call.s3.ListObjectsV2", note_saves)
    events.register("after-call.s3.ListObjectsV2", note_entries)
    try:
        await kept(workers, 300, on_saved=note_saved)
    finally:
        events.unregister("before-call.s3.ListObjectsV2", note_saves)
        events.unregister("after-call.s3.ListObjectsV2", note_entries)
    assert len(entries) > 8
    assert saved_before[-1] > 0
    assert all(count <= bound for count, bound in zip(entries, most, strict=True)), (entries, most)
