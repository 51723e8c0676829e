"""What a run asks of Prefect's API: how many requests, and which events together."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_loova import VideoRequest, generate_video, generate_videos
from tests.support.proxy import NetworkFault, Proxy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]

STEPS = ["loova.job.saved", "loova.job.submitted", "loova.job.succeeded"]


@pytest.fixture(scope="module")
def running_proxy(prefect_server) -> Proxy:
    """A proxy before Prefect's server. It stays: Prefect's services in this process go on to use it."""
    return Proxy(int(urlsplit(PREFECT_API_URL.value()).port or 0)).__enter__()


@pytest.fixture
def prefect_api(running_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy, which records what runs ask of Prefect's server."""
    running_proxy.clear_faults()
    running_proxy.seen.clear()
    running_proxy.watch = None
    with temporary_settings({PREFECT_API_URL: f"{running_proxy.url}/api"}):
        yield running_proxy


def requests(count: int) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"{number} of {uuid4()}", duration=4) for number in range(count)]


async def make(wanted: list[VideoRequest], place, **options: Any) -> int:
    report = await generate_videos(wanted, place.credentials, place.bucket, poll_seconds=0.1, **options)
    return report.count("saved")


async def events_of(request: VideoRequest) -> list[dict[str, Any]]:
    """The events of a job, when its three steps are told."""
    body = {"filter": {"resource": {"id": [f"loova.job.{request.key}"]}}, "limit": 50}
    for _ in range(50):
        async with get_client() as client:
            found = json.loads((await client.request("POST", "/events/filter", json=body)).content)["events"]
        if len(found) >= len(STEPS):
            break
        await asyncio.sleep(0.2)
    return sorted(found, key=lambda event: event["event"])


def kinds(proxy: Proxy) -> Counter[str]:
    """The requests that the server answered; SQLite refuses some with 503, and Prefect sends them again."""
    answered = [seen for seen in proxy.seen if seen.status not in (None, 503)]
    return Counter(f"{seen.method} {seen.path.removeprefix('/api')}" for seen in answered)


async def test_a_video_of_a_batch_asks_prefect_for_its_page_and_nothing_else(place, prefect_api):
    await make(requests(1), place, preview="none")
    costs = []
    for count in (6, 18):
        prefect_api.seen.clear()
        assert await make(requests(count), place, preview="none") == count
        asked = kinds(prefect_api)
        regular = sum(
            number for what, number in asked.items() if what.startswith(("PATCH", "POST /logs", "POST /events"))
        )
        costs.append(asked.total() - regular)
        assert asked["GET /v2/concurrency_limits/loova"] <= 2
    assert costs[1] - costs[0] < 1.5 * 12  # one each, and a busy server may be asked again for a slot


async def test_events_of_a_batch_are_sent_together_and_say_what_events_sent_alone_say(place, prefect_api):
    [alone] = requests(1)
    await generate_video(alone, place.credentials, place.bucket, poll_seconds=0.1)
    assert "POST /events" not in kinds(prefect_api)
    wanted = requests(6)
    assert await make(wanted, place, preview="none") == 6
    assert 1 <= kinds(prefect_api)["POST /events"] <= 5
    for request in wanted:
        for one, event in zip(await events_of(alone), await events_of(request), strict=True):
            assert event["event"] == one["event"]
            assert event["payload"].keys() == one["payload"].keys()
            assert event["resource"].keys() == one["resource"].keys()
            assert roles(event) == roles(one)
            assert event["occurred"] < event["received"]


def roles(event: dict[str, Any]) -> list[str]:
    related = event["related"]
    tags = [one["prefect.resource.id"] for one in related if one["prefect.resource.role"] == "tag"]
    return sorted(one["prefect.resource.role"] for one in related if one["prefect.resource.role"] != "tag") + tags


async def test_events_that_prefect_refuses_together_arrive_one_by_one_and_once(place, prefect_api):
    lost = NetworkFault(what="answer", when="after", status=405, matching="POST /api/events$", times=99)
    refused = NetworkFault(what="answer", status=405, matching="POST /api/events$", times=99)
    for fault in (refused, lost):
        prefect_api.clear_faults()
        prefect_api.inject(fault)
        wanted = requests(3)
        assert await make(wanted, place, preview="none") == 3
        for request in wanted:
            assert [event["event"] for event in await events_of(request)] == STEPS


async def test_after_a_refused_slot_a_batch_pauses_before_each_further_slot(place, prefect_api):
    refused = NetworkFault(what="answer", status=503, matching="increment-with-lease$")
    prefect_api.inject(refused)
    limit = f"loova-{uuid4()}"  # Prefect asks for the slots of a limit where it asked first: here, through the proxy
    assert await make(requests(4), place, preview="none", concurrency_limit=limit) == 4
    firsts = {seen.path: seen.replied for seen in reversed(prefect_api.seen) if seen.path.endswith("/renew")}
    times = sorted(filter(None, firsts.values()))
    assert len(times) >= 4
    assert all(later - earlier > 0.1 for earlier, later in pairwise(times[:4]))  # without the pause, about 0.06 s


async def test_the_progress_bar_of_a_batch_is_created_before_its_first_slot(place, prefect_api):
    prefect_api.inject(NetworkFault(what="delay", seconds=1, matching="POST /api/artifacts/$"))
    came: dict[str, float] = {}
    prefect_api.watch = lambda line: came.setdefault(line, time.monotonic())
    assert await make(requests(2), place, preview="none", concurrency_limit=f"loova-{uuid4()}") == 2
    waited = came["POST /api/v2/concurrency_limits/increment-with-lease"] - came["POST /api/artifacts/"]
    assert waited >= 1
