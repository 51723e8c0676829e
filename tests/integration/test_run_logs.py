"""Log lines of the core: in a run they reach its log, once. Outside of a run, ordinary logging applies."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context
from prefect.settings import PREFECT_API_URL

from prefect_loova._prefect.context import Location

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]

package, core = logging.getLogger("prefect_loova"), logging.getLogger("prefect_loova.jobs.wait")


class Records(logging.Handler):
    """Collects the messages of records."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def at_root() -> Iterator[Records]:
    """What reaches the root logger, as in a program with its own logging."""
    records = Records()
    logging.getLogger().addHandler(records)
    yield records
    logging.getLogger().removeHandler(records)


async def logs_of(run: str, line: str) -> list[str]:
    """The messages in the log of a run, as soon as one of them is `line`."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run)]))
    async with get_client() as client:
        for _ in range(100):
            messages = [log.message for log in await client.read_logs(wanted, limit=200)]
            if line in messages:
                return messages
            await asyncio.sleep(0.1)
    raise AssertionError(f"{line} is not in {messages}")


def logging_state() -> tuple[list[logging.Handler], bool, int]:
    return list(package.handlers), package.propagate, package.level


def test_the_import_of_the_package_leaves_logging_alone():
    script = """
import logging
import prefect_loova
for name in prefect_loova.__all__:
    getattr(prefect_loova, name)
logger = logging.getLogger("prefect_loova")
print(logger.handlers, logger.propagate, logger.level)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[-2] == "[] True 0"


async def test_in_a_run_each_line_reaches_its_log_once_and_logging_is_restored_after_it(
    place: Location, at_root: Records
):
    before = logging_state()

    @task
    async def in_a_task() -> None:
        async with Location(place.credentials, place.bucket).open():
            core.info("from the task")

    @flow
    async def logs() -> str:
        async with Location(place.credentials, place.bucket).open():
            core.info("from the flow")
            core.debug("too detailed")
            await in_a_task()
            core.warning("after the task")
        return str(get_run_context().flow_run.id)

    messages = await logs_of(await logs(), "after the task")
    lines = ("from the flow", "from the task", "after the task")
    assert [messages.count(line) for line in lines] == [1, 1, 1]
    assert "too detailed" not in messages
    assert all(at_root.messages.count(line) <= 1 for line in lines)  # only the run's logger may pass it on
    assert logging_state() == before


async def test_runs_in_one_process_keep_their_lines_apart(place: Location):
    @flow
    async def logs(line: str, seconds: float) -> str:
        async with Location(place.credentials, place.bucket).open():
            await asyncio.sleep(seconds)
            core.info(line)
        return str(get_run_context().flow_run.id)

    first, second = await asyncio.gather(logs("a short run", 0.1), logs("a long run", 1))
    assert "a long run" not in await logs_of(first, "a short run")
    assert "a short run" not in await logs_of(second, "a long run")


async def test_outside_of_a_run_ordinary_logging_applies(place: Location, at_root: Records):
    before = logging_state()
    async with Location(place.credentials, place.bucket).open():
        assert logging_state() == before
        core.warning("no run")
        core.info("below the level of the root logger")
    assert at_root.messages.count("no run") == 1
    assert "below the level of the root logger" not in at_root.messages


async def test_a_thread_outside_of_the_run_logs_to_the_root_logger(place: Location, at_root: Records):
    @flow
    async def logs() -> None:
        async with Location(place.credentials, place.bucket).open():
            thread = threading.Thread(target=core.warning, args=("another thread",))
            thread.start()
            await asyncio.to_thread(thread.join)

    await logs()
    assert at_root.messages.count("another thread") == 1


NAMED = """
import asyncio, logging
from prefect import flow
from prefect.context import get_run_context
from prefect_aws import AwsCredentials, S3Bucket
from prefect_loova import LoovaCredentials
from prefect_loova._prefect.context import Location

@flow
async def logs():
    bucket = S3Bucket(bucket_name="my-videos", credentials=AwsCredentials(region_name="us-east-1"))
    async with Location(LoovaCredentials(api_key="key"), bucket).open():
        logging.getLogger("prefect_loova.jobs.wait").warning("named by the user")
    return str(get_run_context().flow_run.id)

print(asyncio.run(logs()))
"""


async def test_lines_that_prefect_forwards_itself_appear_once():
    server = str(PREFECT_API_URL.value())
    env = os.environ | {"PREFECT_API_URL": server, "PREFECT_LOGGING_EXTRA_LOGGERS": "prefect_loova"}
    command = [sys.executable, "-c", NAMED]
    done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    messages = await logs_of(done.stdout.split()[-1], "named by the user")
    assert messages.count("named by the user") == 1
