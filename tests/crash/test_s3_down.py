"""S3 goes down after the submit and stays down: the task id is kept, and a person brings it back."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.crash.conftest import EVERYTHING, SEED
from tests.crash.environment import TIMES, Environment, ForkServer
from tests.crash.schedules import AT_ONCE, broken_invariants, told_secrets
from tests.support.proxy import NetworkFault
from tests.support.s3_servers import S3Server

FOR_EVER = 10**9
WAYS = [
    NetworkFault(what="drop", times=FOR_EVER),
    NetworkFault(what="reset", times=FOR_EVER),
    NetworkFault(what="answer", status=503, body=b"<Error><Code>SlowDown</Code></Error>", times=FOR_EVER),
    NetworkFault(what="answer", status=403, body=b"<Error><Code>AccessDenied</Code></Error>", times=FOR_EVER),
    NetworkFault(what="answer", status=200, times=FOR_EVER),
]
RUNS_WHILE_DOWN = 2


def _schedule(
    forks: ForkServer, s3: S3Server, bucket: str, prefix: str, at: int, way: NetworkFault
) -> tuple[str, list[str]]:
    """S3 refuses all from its `at`-th request after the submit on; tells how it ended, and what was wrong."""
    times = TIMES | {"look_again": 20.0}  # in a hurry all the same
    with Environment(forks, s3, bucket, prefix, hurry=0.005, s3_tries=1, times=times) as stage:
        # Counted from the moment when the submit's answer is on its way.
        fault = NetworkFault(**{**vars(way), "at": at})
        stage.proxies["api"].answered = lambda line: stage.inject({"s3": [fault]}) if line.startswith("POST") else None
        runs = [stage.run() for _ in range(RUNS_WHILE_DOWN)]
        if runs[0].state == "saved":
            return "over before", list(broken_invariants(stage, "saved"))
        told = f"{at}, {way}: {[run.result for run in runs]}"
        if any(run.state != "error" for run in runs):
            return "?", [f"not every run with S3 away ended with an error: {told}"]
        broken = [*told_secrets(stage, stage.record())]
        record, task_id = stage.record(), stage.loova.ledger["tasks"][0]["task_id"]
        is_written = record is not None and record["attempts"][-1].get("task_id") == task_id
        if not is_written and runs[0].result["task_id"] != task_id:
            broken.append(f"the error does not name task {task_id}: {told}")
        if not is_written and f"adopt {task_id}" not in runs[0].result["message"]:
            broken.append(f"the error does not say how to adopt task {task_id}: {told}")
        if task_id not in stage.story:
            broken.append(f"the log does not name task {task_id}: {told}")
        stage.proxies["api"].answered = None
        stage.clear_faults()
        stage.wait_until_quiet()
        run = stage.run_in_peace()
        if run.state == "in_doubt" and not is_written:
            found = re.search(r"adopt (sim_\w+)", stage.story)
            if found is None:
                return "in doubt", [*broken, "the log does not say what to adopt"]
            run = stage.run_in_peace({"what": "adopt", "task_id": found[1]})
        if run.state != "saved":
            return "?", [*broken, f"with S3 back it ended with {json.dumps(run.result)}"]
        return "id written" if is_written else "id adopted", [*broken, *broken_invariants(stage, "saved")]


def test_with_s3_down_to_the_end_the_task_id_stands_in_the_record_or_in_error_and_log(forks, s3_server):
    places = [(at, way) for at in range(12) for way in WAYS]
    if not EVERYTHING:
        places = [(0, WAYS[0]), *random.Random(SEED).sample(places, 4)]
    bucket = s3_server.make_bucket()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(
            pool.map(lambda one: _schedule(forks, s3_server, bucket.name, f"down-{one[0]}", *one[1]), enumerate(places))
        )
    bucket.remove()
    print(f"\nS3 away from {len(places)} places on {s3_server.name}: {dict(Counter(state for state, _ in ended))}")
    assert [broken for _, broken in ended if broken] == []
