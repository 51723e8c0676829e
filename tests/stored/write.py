"""Write what this version stores, as one JSON file that later versions must be able to go on with.

`python -m tests.stored.write tests/stored/NAME.json`: a bucket with a job in each state, two queued requests, the index
of a day and a review; a block; results of tasks and flows, as models and as Prefect keeps them. A file in this folder
is never written again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.serializers import JSONSerializer

from prefect_loova import (
    BatchReport,
    CollectedVideos,
    CreditsReport,
    LoovaCredentials,
    SavedVideo,
    StoryReport,
    Submission,
    VideoOutcome,
    VideoRequest,
    VideoTask,
)
from prefect_loova.client import LoovaClient
from prefect_loova.errors import InDoubtError, LoovaError
from prefect_loova.jobs.collect import enqueue
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import job_in_doubt
from prefect_loova.jobs.reviews import change_review
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.job_record import JobRecord, with_purchase
from prefect_loova.models.reviews import Draft, Review, TakeDecision, TakeGroup, TakeVerdict
from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.records import JobRecords
from tests.support.s3_servers import moto

ORIGIN = "https://loova.test"
AT_ONCE = JobTimes(take_over_after=0, doubt_after=0, lease=2, look_again=0.05)
REQUESTS = {
    "plain": VideoRequest(prompt="a boat", duration=4),
    "take": VideoRequest(prompt="a boat", duration=4, take=2, model="seedance_2_0_fast", ratio="9:16"),
    "media": VideoRequest(
        prompt="like @Image1",
        image_urls=["https://pictures.test/cat.png?X-Amz-Signature=s&X-Amz-Date=d&size=2"],
        video_urls=["https://films.test/walk.mp4?sig=s&se=e&sp=r&sv=v"],
    ),
    "signed by S3's version 2": VideoRequest(
        prompt="like @Image1",
        image_urls=["https://b.s3.amazonaws.com/cat.png?AWSAccessKeyId=AKIA&Signature=s%3D&Expires=1790000000"],
    ),
    "pinned": VideoRequest(
        prompt="go on",
        function_mode="first_last_frames",
        image_urls=[
            f"s3://my-videos/loova/_media/{'3f' * 32}.png#sha256={'3f' * 32}",
            "s3://my-videos/cat.png#etag=0123abcd",
        ],
    ),
}


async def _jobs(jobs: VideoJobs, loova: LoovaSimulator) -> dict[str, Any]:
    """A job in each state; returns results of tasks as Prefect stores them."""

    def request(state: str) -> VideoRequest:
        return VideoRequest(prompt=f"a job that is {state}", duration=4)

    async def leave(state: str, *moves: str, **facts: Any) -> JobRecord:
        record = JobRecord.claimed(request(state), ORIGIN, {"host": "a dead one"})
        await jobs.budget.reserve(record.key, 1, 0, record.current.credits_estimate)
        await jobs.records.index(record)
        for move in moves:
            record = record.move(move, **facts)  # type: ignore[arg-type]
        await jobs.records.create(record)
        return record

    def decision(what: Any) -> Decision:
        return Decision(what=what, who="a person", when=datetime.now(UTC), why="saw it in the dashboard")

    async def doubtful(state: str) -> JobRecord:
        loova.fail("lost_reply")
        try:
            await submit_video(jobs, request(state), max_wait=0)
        except InDoubtError:
            return (await jobs.records.expect(request(state).key)).record
        raise AssertionError("a lost reply is in doubt")

    results: dict[str, Any] = {}
    await leave("claimed")
    await leave("submitting", "begin", post_timeout_seconds=0.1)
    await submit_video(jobs, request("submitted"), max_wait=0)
    submission = await submit_video(jobs, request("succeeded"), max_wait=0)
    results["VideoTask"] = (await wait_for_video(jobs, submission, max_wait=5, poll_seconds=0.05)).model_dump(
        mode="json"
    )
    submission = await submit_video(jobs, request("saved"), max_wait=0)
    results["Submission"] = submission.model_dump(mode="json")
    await wait_for_video(jobs, submission, max_wait=5, poll_seconds=0.05)
    results["SavedVideo"] = (await save_video(jobs, submission))[0].model_dump(mode="json")
    loova.fail("generation_failed")
    submission = await submit_video(jobs, request("failed"), max_wait=0)
    with suppress(LoovaError):
        await wait_for_video(jobs, submission, max_wait=5, poll_seconds=0.05)
    loova.fail(on="submit", status=400, envelope={"code": 400, "message": "duration must be an even number"})
    with suppress(LoovaError):
        await submit_video(jobs, request("rejected"), max_wait=0)
    doubt = await doubtful("in_doubt")
    results["JobInDoubt"] = (await job_in_doubt(jobs, doubt.key)).model_dump(mode="json")
    doubt = await doubtful("adopted")
    await decide(jobs, doubt.key, decision("adopt"), loova.ledger["tasks"][-1]["task_id"])
    doubt = await doubtful("to be submitted again")
    await decide(jobs, doubt.key, decision("submit-again"))
    doubt = await doubtful("abandoned")
    await decide(jobs, doubt.key, decision("give-up"))
    doubt = await doubtful("bought twice")
    await decide(jobs, doubt.key, decision("submit-again"))
    late = loova.ledger["tasks"][-1]["task_id"]
    await submit_video(jobs, request("bought twice"), max_wait=0)
    await jobs.records.change(doubt.key, lambda record: with_purchase(record, 1, late))
    return results


async def _review(jobs: VideoJobs) -> dict[str, Any]:
    """A review of drafts with all that it may have; returns what a later version must find in it."""
    request = VideoRequest(prompt="a kite", duration=6, takes=2, label="spring")
    group = TakeGroup(request.all_takes, (1,), Draft("seedance_2_0_fast", 4))
    shown = [take.shown.key for take in group.takes]
    verdict = TakeVerdict(key=shown[0], gate="black", what="retake", reason="all black")
    decisions = (
        TakeDecision(what="retake", take=2, who="quality gate black", gate="black", why="all black"),
        TakeDecision(what="retake", take=3, prompt="a blue kite", duration=5, who="Ada", why="blue is better"),
        TakeDecision(what="drop", who="Ada"),
        TakeDecision(what="choose", take=1, key=shown[1], who="Grace", why="it is red"),
    )
    takes = group.reviewed_takes(dict.fromkeys(shown, "s3://my-videos/loova/video.mp4"))
    facts = {"request": request.as_stored(), "label": request.label, "takes": takes, "decisions": decisions}
    await change_review(jobs, group.id, lambda new: new.judged([verdict]).model_copy(update=facts))
    after = group.with_review(Review(group=group.id, api_origin=ORIGIN, decisions=decisions))
    return {"group": group.id, "keys": [take.final.key for take in after.takes], "chosen": shown[1]}


def _as_prefect_keeps_them(results: dict[str, Any]) -> dict[str, str]:
    """Each result of a task or a flow in Prefect's JSON, which names the class by the module that it is in."""
    saved = SavedVideo.model_validate(results["SavedVideo"])
    outcome = VideoOutcome(key=saved.key, name="a boat", rows=(1,), outcome="saved", credits_estimate=60.0)
    batch = BatchReport(videos=(outcome,))
    values = {
        "VideoTask": VideoTask.model_validate(results["VideoTask"]),
        "Submission": Submission.model_validate(results["Submission"]),
        "SavedVideo": saved,
        "BatchReport": batch,
        "StoryReport": StoryReport(title="a story", shots=batch),
        "CollectedVideos": CollectedVideos(saved=[saved]),
        "CreditsReport": CreditsReport(api_origin=ORIGIN, available=1.0, low_below=2.0, days=()),
    }
    return {name: JSONSerializer().dumps(value).decode() for name, value in values.items()}


async def stored() -> dict[str, Any]:
    """All of it."""
    with moto() as server, LoovaSimulator(api_key="a-key", generation_seconds=0, short_side=64) as loova:
        bucket = server.make_bucket()
        client = LoovaClient(loova.api_key, loova.base_url, timeout=3, submit_timeout=2)
        client.origin = ORIGIN
        async with client:
            records = JobRecords(bucket.client, bucket, "loova", ORIGIN)
            jobs = VideoJobs(client, records, times=AT_ONCE, by={"host": "h", "deployment": "d"})
            jobs = VideoJobs(client, records, times=AT_ONCE, by=jobs.by, max_credits_per_day=10_000)
            results = await _jobs(jobs, loova)
            await enqueue(jobs, [VideoRequest(prompt="queued", duration=4)])
            await enqueue(jobs, [VideoRequest(prompt="queued, twice at most", duration=4)], max_paid_attempts=2)
            review = await _review(jobs)
        objects = {}
        for found in bucket.client.list_objects_v2(Bucket=bucket)["Contents"]:
            if not found["Key"].endswith(".mp4"):
                body = bucket.client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
                objects[found["Key"]] = body.decode()
        return {
            "version": version("prefect-loova"),
            "bucket": str(bucket),
            "api_origin": ORIGIN,
            "objects": objects,
            "tasks": loova.ledger["tasks"],
            "review": review,
            "results": results,
            "results_in_prefect": _as_prefect_keeps_them(results),
            "requests": {
                name: {"stored": request.model_dump(mode="json"), "key": request.key}
                for name, request in REQUESTS.items()
            },
            "block": LoovaCredentials(api_key="a-key", max_credits_per_day=900).model_dump(  # type: ignore[arg-type]
                mode="json", context={"include_secrets": True}
            ),
        }


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(stored()), indent=1, default=str) + "\n")
