"""Reviews in the bucket: no decision is lost, whoever writes at the same time, and none is added twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prefect_loova import VideoRequest
from prefect_loova.errors import InvalidRequestError, StorageError
from prefect_loova.jobs.reviews import change_review, find_review, open_reviews, read_review
from prefect_loova.models.reviews import Review, ReviewedTake, TakeDecision
from tests.integration.jobs.workers import Workers, through, until
from tests.support.proxy import NetworkFault, Proxy

pytestmark = pytest.mark.takes

GROUP = VideoRequest(prompt="a kite", duration=4).group
PUT_REVIEW = r"^PUT .*/_reviews/"


def retake(number: int) -> TakeDecision:
    return TakeDecision(what="retake", take=number, who=f"person {number}")


async def test_all_decisions_of_people_who_write_at_the_same_time_are_kept(workers: Workers) -> None:
    async with workers.worker() as first, workers.worker() as second:
        decisions = [retake(number) for number in range(5)]
        changes = [
            change_review(jobs, GROUP, lambda review, one=one: review.decided(one))
            for jobs, one in zip([first, second] * 3, decisions, strict=False)
        ]
        await asyncio.gather(*changes)
        review = await read_review(first, GROUP)
    assert review is not None
    assert sorted(review.decisions, key=lambda one: one.take or 0) == decisions


async def test_a_decision_that_is_written_between_the_read_and_the_write_is_kept(
    workers: Workers, proxy: Proxy
) -> None:
    proxy.inject(NetworkFault(what="delay", matching=PUT_REVIEW, seconds=1.0))
    mine, seen = retake(1), list[list[int | None]]()

    def change(review: Review) -> Review:
        seen.append([one.take for one in review.decisions])
        return review.decided(mine)

    async with workers.worker(s3=through(proxy, workers.bucket)) as slow, workers.worker() as other:
        waiting = asyncio.create_task(change_review(slow, GROUP, change))
        await until(lambda: any(one.fault for one in proxy.seen))
        await change_review(other, GROUP, lambda review: review.decided(retake(2)))
        review = await waiting
    assert seen == [[], [2]]
    assert [one.take for one in review.decisions] == [2, 1]


@pytest.mark.parametrize("what", ["drop", "answer"])
async def test_a_decision_whose_answer_is_lost_is_there_once(workers: Workers, proxy: Proxy, what: Any) -> None:
    proxy.inject(NetworkFault(what=what, when="after", matching=PUT_REVIEW, status=500))
    once = retake(1)
    async with workers.worker(s3=through(proxy, workers.bucket)) as jobs:
        review = await change_review(jobs, GROUP, lambda review: review.decided(once))
        assert await read_review(jobs, GROUP) == review
    assert review.decisions == (once,)


async def test_reviews_that_wait_are_listed_and_found_by_their_first_letters(workers: Workers) -> None:
    takes = (ReviewedTake(key="a" * 64, take=0, prompt="a kite", duration=4),)
    drop = TakeDecision(what="drop", who="Ada")
    decided = VideoRequest(prompt="decided", duration=4).group
    async with workers.worker(s3=workers.bucket.client) as jobs:
        await change_review(jobs, GROUP, lambda review: review.model_copy(update={"takes": takes}))
        await change_review(jobs, decided, lambda review: review.model_copy(update={"takes": takes}).decided(drop))
        assert [one.group for one in await open_reviews(jobs)] == [GROUP]
        assert (await find_review(jobs, GROUP[:6])).group == GROUP
        for wrong in ("xyz1", "ab", "0" * 64):
            with pytest.raises(InvalidRequestError, match="group: "):
                await find_review(jobs, wrong)


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({"format": 2}, "a newer version of prefect-loova wrote"),
        ({"api_origin": "https://other.test"}, "was made for https://other.test"),
        ({"decisions": "none"}, "is not a review of prefect-loova"),
    ],
)
async def test_a_review_that_cannot_be_read_stays_as_it_is(workers: Workers, stored: dict[str, Any], says: str) -> None:
    body = json.dumps({"format": 1, "group": GROUP, "api_origin": workers.loova.origin} | stored).encode()
    place = {"Bucket": str(workers.bucket), "Key": f"loova/_reviews/{GROUP}.json"}
    workers.bucket.client.put_object(**place, Body=body)
    async with workers.worker() as jobs:
        with pytest.raises(StorageError, match=says):
            await change_review(jobs, GROUP, lambda review: review.decided(retake(1)))
    assert workers.bucket.client.get_object(**place)["Body"].read() == body
