"""One bucket for all tests of a module, emptied after each, and a proxy in front of its server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_loova.simulator import LoovaSimulator
from prefect_loova.store.budget import _settled
from tests.integration.jobs.workers import (
    Workers,
)
from tests.support.proxy import Proxy
from tests.support.s3_servers import Bucket, S3Server


@pytest.fixture
def workers(bucket: Bucket, loova: LoovaSimulator) -> Workers:
    return Workers(bucket, loova)


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0, short_side=64) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fresh(s3_server: S3Server) -> Iterator[Bucket]:
    made = s3_server.make_bucket()
    yield made
    made.remove()


@pytest.fixture
def bucket(fresh: Bucket) -> Iterator[Bucket]:
    """One bucket for all tests, emptied after each: to make it, with its user and clients, takes half a second."""
    yield fresh
    for found in fresh.client.list_multipart_uploads(Bucket=fresh).get("Uploads", []):
        fresh.client.abort_multipart_upload(Bucket=fresh, Key=found["Key"], UploadId=found["UploadId"])
    for found in fresh.client.list_objects_v2(Bucket=fresh).get("Contents", []):
        fresh.client.delete_object(Bucket=fresh, Key=found["Key"])
    _settled.clear()  # the next test has other records under the same keys


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(int(s3_server.endpoint_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.clear_faults()
    running_proxy.seen.clear()
    return running_proxy
