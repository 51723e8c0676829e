"""The start of a run does several things at the same time, and its POST waits for each that protects money."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prefect_aws.s3 import S3Bucket

from prefect_loova import VideoRequest, generate_video
from prefect_loova.errors import StorageError
from tests.integration.conftest import block_of
from tests.support.odd_s3 import Asked, Odd, OddS3, without

pytestmark = pytest.mark.usefixtures("prefect_server")
REQUEST = VideoRequest(prompt="a boat leaves the harbour", duration=4)
DENIED = (403, "AccessDenied", "Access Denied")


@pytest.fixture
def s3() -> Iterator[OddS3]:
    with OddS3() as server:
        yield server


def block(s3: OddS3) -> S3Bucket:
    return block_of(SimpleNamespace(name="start"), "key", "secret", f"http://{s3.host}")


async def test_the_bucket_is_probed_while_the_run_starts_and_no_post_leaves_before_the_probe_has_ended(
    s3, loova, credentials
):
    last_step, may_end = threading.Event(), threading.Event()

    def hold_the_probe(asked: Asked) -> None:
        if (asked["method"], asked["operation"]) == ("DELETE", ""):  # the last request of the probe
            last_step.set()
            s3.turn.release()
            may_end.wait(60)
            s3.turn.acquire()

    s3.odd = Odd(refuses=hold_the_probe)
    running = asyncio.create_task(generate_video(REQUEST, credentials, block(s3), poll_seconds=0.1))
    assert await asyncio.to_thread(last_step.wait, 60)
    await asyncio.sleep(3)  # a run needs less than 1 s to its POST

    before = list(s3.asked)
    assert loova.ledger["totals"]["posted"] == 0
    assert f"GET loova/{REQUEST.key}/record.json" in before, "the record is read meanwhile"
    assert not [asked for asked in before if asked.startswith("PUT") and "_probe" not in asked]

    may_end.set()
    assert (await running).state == "saved"
    assert loova.ledger["totals"]["posted"] == 1


async def test_a_bucket_that_fails_its_probe_fails_the_run_before_anything_is_written_or_posted(s3, loova, credentials):
    s3.odd = without("DELETE", DENIED)
    with pytest.raises(StorageError, match="s3:DeleteObject below _open/"):
        await generate_video(REQUEST, credentials, block(s3), poll_seconds=0.1)
    assert loova.ledger["totals"]["posted"] == 0
    assert not [asked for asked in s3.asked if asked.startswith("PUT") and "_probe" not in asked]


async def test_a_bucket_that_cannot_be_read_is_named_as_its_probe_finds_it(s3, loova, credentials):
    s3.odd = without("GET", DENIED)
    with pytest.raises(StorageError, match="the probe may not read its own object"):
        await generate_video(REQUEST, credentials, block(s3), poll_seconds=0.1)
    assert loova.ledger["totals"]["posted"] == 0
