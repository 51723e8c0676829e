"""A signed link that is renewed is paid once, and a purchase under a former key is found before anything is bought."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prefect_loova.batches.pricing import price_videos
from prefect_loova.errors import (
    AbandonedError,
    InDoubtError,
    LoovaError,
    RecordMismatchError,
    StorageError,
    TaskFailedError,
    WaitTimeoutError,
)
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import Submission
from tests.integration.jobs.workers import AT_ONCE, PATIENT, TIMES, Clock, Workers, through, until
from tests.support.proxy import NetworkFault, Proxy

LINK = "https://b.s3.amazonaws.com/cat.png?AWSAccessKeyId=AKIA&Signature={}%3D&Expires=1800000000"


def asked(signature: str, of: type[VideoRequest] = VideoRequest) -> VideoRequest:
    return of(prompt="a cat", duration=4, image_urls=[LINK.format(signature)])


class AsBefore(VideoRequest):
    """The request as an earlier version knows it: the signature is a part of its key."""

    @property
    def key(self) -> str:
        return str(asked(self.image_urls[0].partition("Signature=")[2].partition("%3D")[0]).former_key)

    @property
    def former_key(self) -> None:
        return None


async def bought(
    workers: Workers, request: VideoRequest, max_wait: float = 5, paid: int = 1, **settings: Any
) -> Submission:
    async with workers.worker(**settings) as jobs:
        return await submit_video(jobs, request, max_wait=max_wait, max_paid_attempts=paid)


async def left(workers: Workers, request: VideoRequest, *moves: str) -> None:
    """A record as a worker that is gone left it."""
    facts: dict[str, Any] = {"bought": {"task_id": "task-of-before"}, "give_up": {"decision": DECISION}}
    async with workers.worker() as jobs:
        record = JobRecord.claimed(request, workers.loova.origin, {"host": "a dead one"})
        for move in moves:
            record = record.move(move, **facts.get(move, {}))  # type: ignore[arg-type]
        await jobs.records.create(record)


DECISION = Decision(what="give-up", who="a person", when="2026-01-01T00:00:00Z", why="no need")  # type: ignore[arg-type]


def record_keys(workers: Workers) -> set[str]:
    return {key.split("/")[1] for key in workers.keys if key.endswith("/record.json")}


async def test_a_renewed_link_is_paid_once(workers: Workers) -> None:
    first = await bought(workers, asked("s1"))
    second = await bought(workers, asked("s2"))
    assert (second.task_id, second.reused) == (first.task_id, True)
    assert workers.totals["posted"] == 1
    assert "s1" not in workers.bytes_of(f"loova/{first.key}/record.json").decode()


async def test_a_purchase_under_a_former_key_is_found_before_anything_is_bought(workers: Workers) -> None:
    before = await bought(workers, asked("s1", AsBefore))
    now = await bought(workers, asked("s1"))
    assert (now.key, now.task_id, now.reused) == (asked("s1").former_key, before.task_id, True)
    assert workers.totals["posted"] == 1
    assert record_keys(workers) == {now.key}


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        (["begin", "doubt"], InDoubtError),
        (["begin", "doubt", "give_up"], AbandonedError),
        (["begin", "bought", "fail"], TaskFailedError),
        (["begin"], WaitTimeoutError),
        ([], WaitTimeoutError),
    ],
    ids=["in doubt", "abandoned", "failed", "submitting", "claimed"],
)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a refusal under the new key"])
async def test_a_record_under_a_former_key_prevents_a_purchase(
    workers: Workers, moves: list[str], expected: type[LoovaError], beside: bool
) -> None:
    if beside:
        await left(workers, asked("s1"), "begin", "refused")
    await left(workers, asked("s1", AsBefore), *moves)
    with pytest.raises(expected):
        await bought(workers, asked("s1"), max_wait=0.2, times=PATIENT)
    async with workers.worker() as jobs:
        (order,) = await price_videos(jobs, [asked("s1")])
    assert order.state == (["claimed", *moves][-1] if moves else "claimed").replace("begin", "submitting").replace(
        "doubt", "in_doubt"
    ).replace("give_up", "abandoned").replace("fail", "failed")
    assert workers.totals["posted"] == 0


async def test_a_request_that_was_refused_under_a_former_key_is_bought_there_once(workers: Workers) -> None:
    await left(workers, asked("s1", AsBefore), "begin", "refused")
    now = await bought(workers, asked("s1"))
    again, before = await bought(workers, asked("s1")), await bought(workers, asked("s1", AsBefore))
    assert {one.task_id for one in (now, again, before)} == set(workers.task_ids)
    assert record_keys(workers) == {now.key} == {asked("s1").former_key}
    assert workers.totals["posted"] == 1


async def test_a_worker_of_an_earlier_version_does_not_buy_what_a_newer_one_bought(workers: Workers) -> None:
    await bought(workers, asked("s1"))
    with pytest.raises(RecordMismatchError):
        await bought(workers, asked("s1", AsBefore))
    closed = json.loads(workers.bytes_of(f"loova/{asked('s1').former_key}/record.json"))
    # What an earlier version reads of it: a format that it refuses.
    assert closed == {"format": 2, "closed_for": asked("s1").key, "api_origin": workers.loova.origin}
    assert workers.totals["posted"] == 1
    assert (await bought(workers, asked("s1"))).reused


@pytest.mark.parametrize("link", ["s1", "s2", "s3"])
async def test_a_batch_finds_what_was_bought_by_any_of_the_links_to_one_picture(workers: Workers, link: str) -> None:
    before = await bought(workers, asked(link, AsBefore))
    async with workers.worker() as jobs:
        (order,) = await price_videos(jobs, [asked("s1"), asked("s2"), asked("s2"), asked("s3")])
        assert (order.rows, order.price) == ((1, 2, 3, 4), 0)
        assert order.submission is not None
        assert order.submission.task_id == before.task_id
        assert (await submit_video(jobs, order.request)).task_id == before.task_id
    assert workers.totals["posted"] == 1


@pytest.mark.parametrize(
    ("moves", "expected"),
    [(["begin", "doubt"], InDoubtError), (["begin", "bought", "fail"], TaskFailedError)],
    ids=["in doubt", "failed"],
)
async def test_a_record_under_the_second_link_prevents_a_purchase_in_a_batch(
    workers: Workers, moves: list[str], expected: type[LoovaError]
) -> None:
    await left(workers, asked("s1", AsBefore), "begin", "refused")
    await left(workers, asked("s2", AsBefore), *moves)
    async with workers.worker() as jobs:
        (order,) = await price_videos(jobs, [asked("s1"), asked("s2")])
        assert (order.price, bool(order.reason)) == (0, True)
        with pytest.raises(expected):
            await submit_video(jobs, order.request)
    assert workers.totals["posted"] == 0


@pytest.mark.parametrize("turn", range(3))
async def test_workers_of_both_versions_at_once_buy_a_link_once(workers: Workers, turn: int) -> None:
    kinds = [VideoRequest, AsBefore] * 4
    asking = (bought(workers, asked(f"s{turn}", kind), max_wait=20, times=PATIENT) for kind in kinds)
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert workers.totals["posted"] == 1
    for one in found:
        assert isinstance(one, RecordMismatchError) or one.task_id == workers.task_ids[0]  # type: ignore[union-attr]
    assert any(isinstance(one, Submission) for one in found)


async def test_a_worker_of_an_earlier_version_that_buys_between_the_read_and_the_claim_is_noticed(
    workers: Workers, proxy: Proxy
) -> None:
    former = str(asked("s1").former_key)
    proxy.inject(NetworkFault(what="delay", seconds=2, matching=rf"^PUT .*{former}"))
    newer = asyncio.create_task(bought(workers, asked("s1"), s3=through(proxy, workers.bucket)))
    await until(lambda: any(former in seen.path and seen.method == "PUT" for seen in proxy.seen))
    older = await bought(workers, asked("s1", AsBefore))
    assert (await newer).task_id == older.task_id
    assert workers.totals["posted"] == 1


@pytest.mark.parametrize(
    "fault", [NetworkFault(when="after"), NetworkFault(when="before"), NetworkFault(what="answer", status=500)]
)
async def test_a_lost_answer_to_closing_the_former_key_stops_nothing(
    workers: Workers, proxy: Proxy, fault: NetworkFault
) -> None:
    former = str(asked("s1").former_key)
    proxy.inject(NetworkFault(**(vars(fault) | {"matching": rf"^PUT .*{former}"})))
    await bought(workers, asked("s1"), s3=through(proxy, workers.bucket))
    assert workers.totals["posted"] == 1
    assert f"loova/{former}/record.json" in workers.keys


async def test_a_former_key_that_cannot_be_closed_stops_the_submit_soon(workers: Workers, proxy: Proxy) -> None:
    former = str(asked("s1").former_key)
    proxy.inject(NetworkFault(what="answer", status=412, matching=rf"^PUT .*{former}", times=1000))
    clock = Clock()
    with pytest.raises(StorageError, match=f"{former}.*may not be read"):
        await bought(workers, asked("s1"), s3=through(proxy, workers.bucket), sleep=clock.sleep)
    assert workers.totals["posted"] == 0
    assert len(proxy.seen) < 40
    assert sum(clock.slept) < 60


async def test_a_link_without_such_a_signature_costs_no_further_request(workers: Workers, proxy: Proxy) -> None:
    bare = asked("s1").model_copy(update={"image_urls": (LINK.partition("?")[0],)})
    await bought(workers, bare, s3=through(proxy, workers.bucket))
    assert {seen.path.split("?")[0].split("/")[-2] for seen in proxy.seen if "record.json" in seen.path} == {bare.key}
    proxy.seen.clear()
    await bought(workers, asked("s1"), s3=through(proxy, workers.bucket))
    assert [seen.method for seen in proxy.seen if "record.json" in seen.path] == ["GET"]


async def test_a_job_under_a_former_key_is_taken_over_there(workers: Workers) -> None:
    await left(workers, asked("s1", AsBefore))
    taken = await bought(workers, asked("s1"), times=AT_ONCE.model_copy(update={"doubt_after": TIMES.doubt_after}))
    assert taken.key == asked("s1").former_key
    assert workers.totals["posted"] == 1
