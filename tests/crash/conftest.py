"""What the crash tests share: how much to run, and the process that forks the jobs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_loova.simulator import LoovaSimulator
from tests.crash.environment import API_KEY, ForkServer, spec_of

EVERYTHING = "CRASH_EVERYTHING" in os.environ
SEED = int(os.environ.get("CRASH_SEED", "20261123"))


@pytest.fixture(scope="session")
def forks(s3_server) -> Iterator[ForkServer]:
    """A fork server that has made one video already."""
    logging.getLogger("prefect_loova.simulator").setLevel(logging.CRITICAL)  # it tells of each request that is cut
    server, bucket = ForkServer(), s3_server.make_bucket()
    with tempfile.TemporaryDirectory() as folder, LoovaSimulator(api_key=API_KEY, generation_seconds=0) as loova:
        urls = {"api": loova.origin, "s3": s3_server.endpoint_url}
        _, end = server.start(spec_of(s3_server, bucket.name, "warm", urls, Path(folder), warm=True))
        end.result(60)
    yield server
    server.close()
    bucket.remove()
