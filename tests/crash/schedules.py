"""One schedule of faults: a job runs until it ends, and the ledgers of the servers are checked against the invariants.

Where it ends in doubt, a person decides by Loova's ledger, and it has to end saved.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.crash.environment import API_KEY, REQUEST, Environment, ForkServer, Run, task_ids
from tests.crash.faults import Wire
from tests.support.proxy import NetworkFault, Seen
from tests.support.s3_servers import S3Server

AT_ONCE = 16
PARTS = 8 * 1024 * 1024 + 64 * 1024
"""The size of a video that goes to S3 in two parts."""

MOST_RUNS = 10
MOST_REQUESTS = 600
MOST_REQUESTS_UNHARMED = 120
"""Of a run to which nothing is done. An undisturbed one sends some 25 requests (35 with two parts); one that finds what
others left may wait for a claim (1 s), a lost submit (2 s) and a lease (1 s), each a second longer as S3 tells ages
in whole seconds: 65 looks of 0.1 s, and a few requests to clear away an upload."""


@dataclass
class Schedule:
    """What is done on which wire, counted over all runs, to a job whose video has this size."""

    faults: Mapping[Wire, Iterable[NetworkFault]]
    video_bytes: int | None = None


@dataclass
class Outcome:
    """How a schedule ended."""

    schedule: Schedule
    state: str
    runs: list[Run]
    seen: dict[Wire, list[Seen]]
    story: str
    broken: list[str] = field(default_factory=list)


def run_schedule(forks: ForkServer, s3: S3Server, bucket: str, prefix: str, schedule: Schedule) -> Outcome:
    """Run a job with faults until it ends saved or in doubt, then let a person decide if it is in doubt."""
    with Environment(forks, s3, bucket, prefix, schedule.video_bytes) as stage:
        stage.inject(schedule.faults)
        run, broken = stage.run(), []
        while not _is_over(stage, run) and len(stage.runs) < MOST_RUNS:
            broken += [f"after run {len(stage.runs)}: {problem}" for problem in _torn_videos(stage)]
            run = stage.run()
        stage.clear_faults()
        stage.wait_until_quiet()
        broken += broken_invariants(stage, run.state)
        if run.state == "in_doubt" and not broken:
            broken = list(broken_after_decision(stage))
        return Outcome(schedule, run.state, stage.runs, stage.seen, stage.story, broken)


def _is_over(stage: Environment, run: Run) -> bool:
    if run.state == "in_doubt":
        # Where S3 did not take the doubt either, the next run finds a submit that is overdue.
        record = stage.record()
        return record is None or record["attempts"][-1]["state"] != "submitting"
    return run.state in ("saved", "hangs")


def run_all(
    forks: ForkServer,
    s3: S3Server,
    schedules: list[Schedule],
    seed: int,
    what: str = "schedules",
    at_once: int = AT_ONCE,
) -> Counter[str]:
    """Run schedules, several at a time and each below a prefix of its own; hold every one against the invariants."""
    bucket = s3.make_bucket()

    def one(numbered: tuple[int, Schedule]) -> Outcome:
        number, schedule = numbered
        return run_schedule(forks, s3, bucket.name, f"run-{number}", schedule)

    with ThreadPoolExecutor(at_once) as pool:
        ended = list(pool.map(one, enumerate(schedules)))
    states = Counter(outcome.state for outcome in ended)
    print(f"\n{len(ended)} {what} on {s3.name}: {dict(states)}, seed {seed}")
    broken = [outcome for outcome in ended if outcome.broken]
    told = "\n".join(f"{outcome.schedule}: {outcome.broken}\n{_tail(outcome)}" for outcome in broken[:5])
    assert not broken, f"{len(broken)} of {len(ended)} {what} broke an invariant, seed {seed}\n{told}"
    bucket.remove()
    return states


def _tail(outcome: Outcome) -> str:
    lines = [line for line in outcome.story.splitlines() if "httpcore" not in line]
    return "\n".join(["    " + line[:300] for line in lines[-12:]])


def broken_after_decision(stage: Environment) -> Iterator[str]:
    """Let a person decide about the job in doubt; what does not hold then."""
    tasks = stage.loova.ledger["tasks"]
    decision = {"what": "adopt" if tasks else "submit-again", "task_id": tasks[0]["task_id"] if tasks else None}
    run = stage.run_in_peace(decision)
    if run.state != "saved":
        yield f"after the decision {decision} it ended with {run.result}"
        return
    for problem in broken_invariants(stage, "saved", attempts=1 if tasks else 2):
        yield f"after the decision {decision}: {problem}"


def broken_invariants(stage: Environment, state: str, attempts: int = 1) -> Iterator[str]:
    """The invariants that do not hold, in words.

    Args:
        stage: Where everything is.
        state: How the last run says that it ended.
        attempts: How many attempts to buy were allowed.
    """
    ledger, story = stage.loova.ledger, stage.story
    if ledger["totals"]["billed"] > 1:
        yield f"{ledger['totals']['billed']} tasks were billed for one request"
    for number, run in enumerate(stage.runs, 1):
        if not run.disturbed and (run.state not in ("saved", "in_doubt") or run.requests > MOST_REQUESTS_UNHARMED):
            yield f"run {number} ended {str(run.result)[:300]} after {run.requests} requests, and was not disturbed"
    if state not in ("saved", "in_doubt"):
        yield f"it never ended: {stage.runs[-1].result}"
        return
    if sum(len(seen) for seen in stage.seen.values()) > MOST_REQUESTS:
        yield "it took too many requests"
    # A submit that was long under way may come by when it is in doubt already.
    if strange := [said for said in stage.posts if said not in ("submitting", "in_doubt")]:
        yield f"a submit was sent while the record said {strange[0]}"
    record = stage.record()
    if record is None:
        yield "there is no record"
        return
    if len(record["attempts"]) != attempts:
        yield f"there are {len(record['attempts'])} attempts, and {attempts} were allowed"
    attempt = record["attempts"][-1]
    if attempt["state"] != state:
        yield f"the record says {attempt['state']}, the run {state}"
    written = [seen for seen in stage.seen["s3"] if seen.method == "PUT" and "record.json" in seen.path]
    if state == "in_doubt" and ("submitting" not in attempt["times"] or [one.status for one in written].count(200) < 2):
        yield "it is in doubt, and nobody wrote that it is submitting and in doubt"
    answered = _was_answered(stage)
    for task in ledger["tasks"]:
        if state == "saved" and attempt.get("task_id") != task["task_id"]:
            yield f"task {task['task_id']} is billed, and the record has {attempt.get('task_id')}"
        if answered and task["task_id"] != attempt.get("task_id") and task["task_id"] not in story:
            # A kill between the answer and its write leaves it to the log, which has it before.
            yield f"the client received task {task['task_id']}, and neither its record nor its log has it"
    if gone := stage.noted - task_ids(record):
        yield f"the record had {gone}, and lost it"
    yield from _broken_objects(stage, state, attempt)
    yield from told_secrets(stage, record)


def _was_answered(stage: Environment) -> bool:
    """Whether a client surely has the answer to a submit: it came well within the submit's timeout.

    The client sends the submit after S3's last answer, so no clock of its own is asked.
    """
    for post in stage.seen["api"]:
        if post.method == "POST" and post.status == 200 and post.replied is not None:
            before = [seen.replied for seen in stage.seen["s3"] if seen.replied and seen.replied < post.replied]
            if before and post.replied - max(before) < stage.spec["submit_timeout"] * 2 / 3:
                return True
    return False


def _torn_videos(stage: Environment) -> Iterator[str]:
    for video, digest in _videos(stage).items():
        if digest not in (stage.loova.sha256(task["task_id"]) for task in stage.loova.ledger["tasks"]):
            yield f"{video} is not what Loova served"


def _videos(stage: Environment) -> dict[str, str]:
    """The videos in the bucket, and their checksums."""
    listed = stage.client.list_objects_v2(Bucket=stage.bucket, Prefix=stage.place).get("Contents", [])
    names = [entry["Key"] for entry in listed if entry["Key"].endswith(".mp4")]
    bodies = {name: stage.client.get_object(Bucket=stage.bucket, Key=name)["Body"].read() for name in names}
    return {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}


def _broken_objects(stage: Environment, state: str, attempt: dict[str, Any]) -> Iterator[str]:
    place, client = stage.place, stage.client
    noted = attempt.get("video", {}).get("sha256")
    if state == "saved" and _videos(stage) != {f"{place}video.mp4": noted}:
        yield f"it is saved, the record has {noted}, and the bucket has {_videos(stage)}"
    yield from _torn_videos(stage)
    uploads = client.list_multipart_uploads(Bucket=stage.bucket, Prefix=place).get("Uploads", [])
    if uploads:
        yield f"{len(uploads)} multipart uploads were left behind"
    # Straight below, as the index is read: a process that was killed may leave its probe's object further down.
    index = {"Bucket": stage.bucket, "Prefix": f"{stage.prefix}/_open/", "Delimiter": "/"}
    entries = client.list_objects_v2(**index).get("Contents", [])
    if state == "in_doubt" and [entry["Key"] for entry in entries] != [f"{stage.prefix}/_open/{REQUEST.key}"]:
        yield "it is in doubt, and the index of open jobs does not know it"


def told_secrets(stage: Environment, record: dict[str, Any] | None) -> Iterator[str]:
    """Where a key, or what signs a URL, stands in a log, a record, a result or an error."""
    paths = " ".join(seen.path for seen in stage.seen["video"])
    secrets = {"the API key": {API_KEY}, "the S3 secret key": {stage.s3.secret_key}}
    secrets["a signed query"] = {"signature=", *re.findall(r"signature=([0-9a-f]+)", paths)}
    told = {"log": stage.story, "record": json.dumps(record), "result": json.dumps([run.result for run in stage.runs])}
    for name, values in secrets.items():
        for place, text in told.items():
            if any(value in text for value in values):
                yield f"{name} stands in the {place}"
