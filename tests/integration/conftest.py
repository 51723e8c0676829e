"""A real Prefect server, once a group of tests; the blocks of a place: a simulated Loova, a bucket, least privilege."""

from __future__ import annotations

import os
from collections.abc import Iterator

import certifi
import pytest
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials, VideoRequest
from prefect_loova._prefect.context import Location
from prefect_loova.jobs.context import JobTimes
from prefect_loova.models.job_record import JobRecord
from prefect_loova.simulator import LoovaSimulator
from tests.support.prefect_server import PrefectServer

TIMES = JobTimes(take_over_after=1, doubt_after=1, lease=2, look_again=0.1)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server for the flows of this process.

    `prefect_test_harness` fails when a connection is reset while its server starts, and creates all tables anew.
    """
    # Each flow run reads this file three times, by default with 140 certificates.
    certificate = tmp_path_factory.mktemp("tls") / "one.pem"
    end = "-----END CERTIFICATE-----\n"
    certificate.write_text(certifi.contents().partition(end)[0] + end)
    with (
        PrefectServer(tmp_path_factory.mktemp("prefect"), services=False) as server,
        temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_API_SSL_CERT_FILE: str(certificate)}),
    ):
        yield


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    with LoovaSimulator(api_key="loova-secret-key", generation_seconds=0.2, short_side=64) as simulator:
        yield simulator


@pytest.fixture
def credentials(loova: LoovaSimulator) -> LoovaCredentials:
    return LoovaCredentials(
        api_key=SecretStr(loova.api_key), base_url=loova.base_url, timeout=5, submit_timeout=5, job_times=TIMES
    )


@pytest.fixture
def s3_block(bucket) -> S3Bucket:
    """The bucket as a block, with the keys of a user that may do what docs/iam-policy.json allows, and no more."""
    return block_of(bucket, bucket.limited_access_key, bucket.limited_secret_key)


@pytest.fixture
def place(credentials: LoovaCredentials, s3_block: S3Bucket) -> Location:
    return Location(credentials, s3_block)


@pytest.fixture
def environment(bucket, loova) -> dict[str, str]:
    """What a user exports: the key of Loova, and boto3's own variables. No Prefect server: none is needed so far."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LOOVA_", "PREFECT_API"))}
    return kept | {
        "LOOVA_API_KEY": loova.api_key,
        "LOOVA_BASE_URL": loova.base_url,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint_url,
        "AWS_ACCESS_KEY_ID": bucket.limited_access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.limited_secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def served(environment, killable_prefect: PrefectServer) -> dict[str, str]:
    """With a Prefect server: for commands only, as Prefect's services in a process stay with the first server."""
    return environment | {"PREFECT_API_URL": killable_prefect.api_url}


def block_of(bucket, access_key: str, secret_key: str, endpoint_url: str | None = None) -> S3Bucket:
    aws = AwsCredentials(
        aws_access_key_id=access_key,
        aws_secret_access_key=SecretStr(secret_key),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url or bucket.endpoint_url),
    )
    return S3Bucket(bucket_name=bucket.name, credentials=aws)


async def left_in_the_middle_of_the_submit(requests: list[VideoRequest], place: Location) -> None:
    """As a killed run leaves them."""
    async with Location(place.credentials, place.bucket).open() as jobs:
        for request in requests:
            stored = await jobs.records.create(JobRecord.claimed(request, jobs.loova.origin, {}))
            await jobs.records.advance(stored, stored.record.move("begin", post_timeout_seconds=0))
