"""What earlier versions stored goes on working: their bytes, in tests/stored, written by tests/stored/write.py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.serializers import JSONSerializer
from pydantic import TypeAdapter

import prefect_loova
from prefect_loova import LoovaCredentials, SavedVideo, Submission, VideoRequest
from prefect_loova.errors import LoovaError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.reviews import read_review
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.results import JobInDoubt, VideoTask
from prefect_loova.models.reviews import Draft, TakeGroup
from prefect_loova.simulator import LoovaSimulator
from tests.integration.jobs.workers import AT_ONCE, Workers
from tests.support.s3_servers import Bucket

STORED = sorted((Path(__file__).parents[2] / "stored").glob("*.json"), key=lambda path: path.name)

REVIEWED = VideoRequest(prompt="a kite", duration=6, takes=2, label="spring")

pytestmark = pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)


def put_back(path: Path, bucket: Bucket, loova: LoovaSimulator) -> dict[str, dict[str, Any]]:
    """Fill a bucket with the stored bytes; returns the records by their prompts.

    The simulator that they were written for is gone: its tasks are made again, and their new ids and its origin replace
    the old ones.
    """
    stored = json.loads(path.read_text())
    names = {stored["api_origin"]: loova.origin}
    for task in stored["tasks"]:
        answer = httpx.post(
            f"{loova.base_url}/v1/video/seedance-2",
            json=task["request"],
            headers={"Authorization": f"Bearer {loova.api_key}"},
        )
        names[task["task_id"]] = answer.json()["data"]["task_id"]
    records = {}
    for key, body in stored["objects"].items():
        for old, new in names.items():
            body = body.replace(old, new)
        bucket.client.put_object(Bucket=bucket, Key=key, Body=body.encode())
        if key.endswith("/record.json"):
            record = json.loads(body)
            records[record["request"]["prompt"]] = record
            if video := record["attempts"][0].get("video"):
                bucket.client.put_object(Bucket=bucket, Key=video["object_key"], Body=bytes(video["size_bytes"]))
    return records


async def test_each_record_is_read_as_it_was_written(path: Path, workers: Workers) -> None:
    records = put_back(path, workers.bucket, workers.loova)
    assert len(records) == 12
    async with workers.worker() as jobs:
        for record in records.values():
            read = (await jobs.records.expect(record["key"])).record
            kept = json.loads(read.model_dump_json(exclude_none=True))
            attempts = zip(kept.pop("attempts"), record["attempts"], strict=True)
            assert all(new == new | old for new, old in attempts)
            assert kept == {name: value for name, value in record.items() if name != "attempts"}


async def test_asking_again_pays_only_for_what_was_not_paid(path: Path, workers: Workers) -> None:
    records = put_back(path, workers.bucket, workers.loova)
    outcomes = {}
    posted = workers.totals["posted"]
    async with workers.worker(times=AT_ONCE) as jobs:
        for prompt, record in records.items():
            request = VideoRequest(prompt=prompt, duration=4)
            assert request.key == record["key"]
            try:
                submission = await submit_video(jobs, request, max_wait=5)
                outcomes[prompt] = "reused" if submission.reused else f"bought as attempt {submission.attempt}"
            except LoovaError as error:
                outcomes[prompt] = type(error).__name__
    assert outcomes == {
        "a job that is claimed": "bought as attempt 1",
        "a job that is submitting": "InDoubtError",
        "a job that is submitted": "reused",
        "a job that is succeeded": "reused",
        "a job that is saved": "reused",
        "a job that is failed": "TaskFailedError",
        "a job that is rejected": "bought as attempt 1",
        "a job that is in_doubt": "InDoubtError",
        "a job that is adopted": "reused",
        "a job that is to be submitted again": "bought as attempt 2",
        "a job that is abandoned": "AbandonedError",
        "a job that is bought twice": "reused",
    }
    assert workers.totals["posted"] - posted == 3


async def test_a_collector_finishes_what_was_paid_and_submits_what_was_queued(path: Path, workers: Workers) -> None:
    put_back(path, workers.bucket, workers.loova)
    posted = workers.totals["posted"]
    saved: list[SavedVideo] = []
    submitted: list[Submission] = []
    in_doubt: set[str] = set()
    async with workers.worker(workers.bucket.client, times=AT_ONCE) as jobs, asyncio.timeout(60):
        # S3 counts the age of the submit that was cut off in whole seconds.
        while len(saved) < 7 or len(in_doubt) < 2:
            found = await collect(jobs, slots=100)
            assert found.problems == []
            saved += found.saved
            submitted += found.submitted
            in_doubt = {job.prompt for job in found.in_doubt}
    prompts = sorted((video.request["prompt"], video.attempt) for video in saved)
    assert prompts == [
        ("a job that is adopted", 1),
        ("a job that is bought twice", 1),
        ("a job that is bought twice", 2),
        ("a job that is submitted", 1),
        ("a job that is succeeded", 1),
        ("queued", 1),
        ("queued, twice at most", 1),
    ]
    assert sorted(one.prompt for one in submitted) == ["queued", "queued, twice at most"]
    assert workers.totals["posted"] - posted == 2
    assert in_doubt == {"a job that is in_doubt", "a job that is submitting"}
    assert found.queued == 0


async def test_a_review_and_its_decisions_are_honoured(path: Path, workers: Workers) -> None:
    put_back(path, workers.bucket, workers.loova)
    stored = json.loads(path.read_text())  # noqa: ASYNC240
    written = [(key, body) for key, body in stored["objects"].items() if "/_reviews/" in key]
    assert bool(written) == ("review" in stored)
    for key, body in written:
        known = stored["review"]
        group = TakeGroup(REVIEWED.all_takes, (1,), Draft("seedance_2_0_fast", 4))
        assert key == f"loova/_reviews/{group.id}.json"
        async with workers.worker() as jobs:
            review = await read_review(jobs, group.id)
        assert review is not None
        old = json.loads(body) | {"api_origin": workers.loova.origin}
        assert is_kept(old, review.model_dump(mode="json"))
        read = group.with_review(review)
        assert [take.final.key for take in read.takes] == known["keys"]
        assert read.chosen is not None and read.chosen.shown.key == known["chosen"]
        assert (review.verdicts[0].gate, read.gate_retakes) == ("black", 1)


def is_kept(old: Any, read: Any) -> bool:
    """Return whether what is read has all that was stored. New fields may be beside it."""
    if isinstance(old, dict):
        return all(name in read and is_kept(value, read[name]) for name, value in old.items())
    if isinstance(old, list):
        return len(old) == len(read) and all(map(is_kept, old, read))
    return bool(old == read)


def test_requests_blocks_and_results_are_read(path: Path) -> None:
    stored = json.loads(path.read_text())
    for name, request in stored["requests"].items():
        read = VideoRequest.model_validate(request["stored"])
        assert is_kept(request["stored"], read.model_dump(mode="json")), name
        assert request["key"] in (read.key, read.former_key), name
    block = LoovaCredentials.model_validate(stored["block"])
    assert block.api_key.get_secret_value() == "a-key"
    assert block.max_credits_per_day == 900
    for kind in (VideoTask, Submission, SavedVideo, JobInDoubt):
        result = stored["results"][kind.__name__]
        read = TypeAdapter(kind).validate_python(result)
        assert is_kept(result, read.model_dump(mode="json"))


def test_results_that_prefect_kept_are_read(path: Path) -> None:
    kept = json.loads(path.read_text()).get("results_in_prefect", {})
    for name, written in kept.items():
        read = JSONSerializer().loads(written.encode())
        assert type(read) is getattr(prefect_loova, name)
        old = json.loads(written)["data"]
        assert is_kept(old, read.model_dump(mode="json"))
