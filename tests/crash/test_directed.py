"""A story of drafts, reviews, full shots, a film and its publication, killed with -9 in each of its runs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova._prefect.context import Location
from prefect_loova.batches.reviewed import decide_takes
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.doubt import find_doubts
from prefect_loova.jobs.reviews import open_reviews
from prefect_loova.models.attempts import Decision
from prefect_loova.simulator import LoovaSimulator
from tests.crash.conftest import EVERYTHING, SEED
from tests.integration.conftest import TIMES, block_of
from tests.support.proxy import NetworkFault, Proxy

pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]

STORY = """
duration: 4
shots:
  - {prompt: the boat, takes: 2}
  - {prompt: the fog, continue: true, takes: 2}
  - {prompt: the shore, continue: true, takes: 2}
  - {prompt: a child, takes: 2}
  - {prompt: the child runs, continue: true, takes: 2}
  - {prompt: the dog, takes: 2}
"""

DRAFTS, RETAKES, CHOSEN = 12, 1, 5
"""The submits that the decisions need: one shot is re-taken, and one is dropped."""

CHILD = """
import json, sys
from pydantic import SecretStr
from prefect_loova import LoovaCredentials, generate_storyboard, publish_videos
from prefect_loova.jobs.context import JobTimes
from tests.integration.conftest import block_of
from tests.support.s3_servers import Bucket, S3Server
given = json.load(sys.stdin)
bucket = Bucket(given["bucket"])
bucket.server = S3Server(**given["server"])
times = JobTimes(**given["times"])
credentials = LoovaCredentials(
    api_key=SecretStr(given["api_key"]), base_url=given["base_url"], job_times=times, timeout=5, submit_timeout=5
)
block = block_of(bucket, *given["keys"], endpoint_url=given["s3"])
options = {"draft": "seedance_2_0_fast", "review": "suspend", "preview": "none", "poll_seconds": 0.1}
if given["keys_to_publish"]:
    done = publish_videos(given["keys_to_publish"], credentials=credentials, bucket=block)
    print(json.dumps({"published": [one.video for one in done.videos]}))
else:
    report = generate_storyboard(given["story"], credentials, block, **options)
    print(json.dumps({"film": report.film, "keys": [one.key for one in report.shots.videos]}))
"""


class Stage:
    """The servers of one story, and the person who decides."""

    def __init__(self, bucket: Any, loova: LoovaSimulator, proxy: Proxy, prefect: str, story: Path) -> None:
        self.bucket, self.loova, self.proxy, self.prefect, self.story = bucket, loova, proxy, prefect, story
        credentials = LoovaCredentials(
            api_key=SecretStr(loova.api_key), base_url=loova.base_url, job_times=TIMES, timeout=5
        )
        self.place = Location(credentials, block_of(bucket, bucket.server.access_key, bucket.server.secret_key))

    def run(self, *faults: NetworkFault, publish: list[str] | None = None) -> dict[str, Any] | None:
        """Run one step in a process of its own. Return its result, or None if it was killed."""
        server = self.bucket.server
        given = {
            "bucket": self.bucket.name,
            "server": {name: getattr(server, name) for name in server.__dataclass_fields__},
            "keys": [server.access_key, server.secret_key],
            "times": TIMES.model_dump(),
            "api_key": self.loova.api_key,
            "base_url": self.loova.base_url,
            "s3": self.proxy.url,
            "story": str(self.story),
            "keys_to_publish": publish or [],
        }
        self.proxy.clear_faults()
        self.proxy.seen.clear()
        self.proxy.inject(*faults)
        env = os.environ | {"PREFECT_API_URL": self.prefect, "PREFECT_LOGGING_LEVEL": "ERROR"}
        with subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            self.proxy.kill_process(lambda: process.pid)
            out, said = process.communicate(json.dumps(given), timeout=120)
        self.proxy.clear_faults()
        if process.returncode == -9:
            return None
        assert process.returncode == 0, said[:6000]
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    def run_to_the_end(self, *faults: NetworkFault, publish: list[str] | None = None) -> dict[str, Any]:
        """Run one step, and again after each kill, as a person does who also decides about lost answers."""
        given = faults
        for _ in range(4):
            result = self.run(*given, publish=publish)
            if result is not None:
                return result
            given = ()
            asyncio.run(self._decide_about_lost_answers())
        raise AssertionError("it was killed again and again")

    async def _decide_about_lost_answers(self) -> None:
        """Adopt what was billed, and submit again what was not: the simulator's ledger is the person's dashboard."""
        await asyncio.sleep(TIMES.doubt_after + 5 + 0.5)  # until the record of a dead worker is in doubt
        async with self.place.open() as jobs:
            doubts = await find_doubts(jobs)
            known = {
                attempt.task_id
                for key in [name for name in await jobs.records.list_folders() if re.fullmatch("[0-9a-f]{64}", name)]
                for attempt in (await jobs.records.expect(key)).record.attempts
            }
            for doubt in doubts.in_doubt:
                lost = [task for task in self.loova.ledger["tasks"] if task["task_id"] not in known]
                mine = [task["task_id"] for task in lost if task["request"]["prompt"] == doubt.prompt]
                what: Any = "adopt" if mine else "submit-again"
                known |= {*mine[:1]}
                decision = Decision(what=what, who="me", when=datetime.now(UTC), why="the ledger")
                await decide(jobs, doubt.key, decision, mine[0] if mine else None)

    async def choose(self, **choices: tuple[str, dict[str, Any]]) -> None:
        """Decide about the takes that wait, by the prompt of their shot."""
        async with self.place.open() as jobs:
            for review in await open_reviews(jobs):
                what, options = choices[review.request["prompt"].replace(" ", "_")]
                await decide_takes(jobs, review, what, who="me", **options)  # type: ignore[arg-type]


FIRST: dict[str, tuple[str, dict[str, Any]]] = {
    "the_boat": ("choose", {"take": 1}),
    "the_fog": ("retake", {"prompt": "the mist"}),
    "the_shore": ("choose", {"take": 0}),
    "a_child": ("choose", {"take": 1}),
    "the_child_runs": ("choose", {"take": 0}),
    "the_dog": ("drop", {}),
}
RECORD, REVIEW, FILM, COPY = (
    r"^PUT .*record\.json",
    r"^PUT .*/_reviews/",
    r"^(PUT|POST) .*_storyboards/",
    r"^PUT .*_published",
)
BY_THE_RUN = r"^(?!.*[?&]X-Amz-Signature=)"
"""Loova fetches the first frame of a shot from a presigned URL. If that fails, so does the task, rightly."""


def faults_of(number: int) -> list[NetworkFault]:
    """Where each of the four runs is killed: at writes of each kind, or anywhere."""
    if number == 0:
        return [
            NetworkFault(what="kill", when="before", matching=REVIEW, at=2),
            NetworkFault(what="kill", when="after", matching=RECORD, at=3),
            NetworkFault(what="kill", when="before", matching=FILM),
            NetworkFault(what="kill", when="after", matching=COPY, at=2),
        ]
    dice = random.Random(SEED + number)
    most = (300, 60, 200, 40)
    return [
        NetworkFault(what="kill", when=dice.choice(("before", "after")), at=dice.randrange(at), matching=BY_THE_RUN)
        for at in most
    ]


@pytest.mark.parametrize("number", range(40 if EVERYTHING else 1))
def test_a_directed_story_that_is_killed_in_each_run_pays_for_exactly_what_was_decided(
    number, bucket, killable_prefect, tmp_path
):
    story = tmp_path / "harbour.yaml"
    story.write_text(STORY)
    drafting, retaking, making, publishing = faults_of(number)
    port = int(bucket.endpoint_url.rsplit(":", 1)[1])
    with Proxy(port) as proxy, LoovaSimulator(generation_seconds=0.2, short_side=64) as loova:
        stage = Stage(bucket, loova, proxy, killable_prefect.api_url, story)
        assert stage.run_to_the_end(drafting)["film"] is None
        assert loova.ledger["totals"]["billed"] == DRAFTS
        asyncio.run(stage.choose(**FIRST))
        assert stage.run_to_the_end(retaking)["film"] is None
        assert loova.ledger["totals"]["billed"] == DRAFTS + RETAKES
        asyncio.run(stage.choose(the_fog=("choose", {"take": 2})))
        made = stage.run_to_the_end(making)
        published = stage.run_to_the_end(publishing, publish=made["keys"])["published"]
        submits = [(task["request"]["model"], task["request"]["prompt"]) for task in loova.ledger["tasks"]]
        full = sorted(prompt for model, prompt in submits if model == "seedance_2_0")
        assert full == ["a child", "the boat", "the child runs", "the mist", "the shore"]
        again = stage.run()
        assert again is not None and (again["film"], again["keys"]) == (made["film"], made["keys"])
        totals = loova.ledger["totals"]
        assert totals["billed"] == DRAFTS + RETAKES + CHOSEN
    for uri in (made["film"], *published):
        assert bucket.client.head_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"))["ContentLength"] > 0
    assert len(published) == CHOSEN
