"""The playground; test_workers.py runs a schedule in it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova._prefect.context import Location
from prefect_loova.cli.app import run
from prefect_loova.cli.playground import put_list, store_blocks
from prefect_loova.errors import InvalidRequestError

ON_THIS_MACHINE = AwsClientParameters(endpoint_url="http://127.0.0.1:9000")
pytestmark = [pytest.mark.one_s3_server, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def simulated(place) -> Location:
    return Location(place.credentials, place.bucket)


async def test_its_blocks_are_saved_and_overwritten(simulated):
    for _ in range(2):
        await store_blocks(simulated.credentials, simulated.bucket, "to-play")
    assert (await LoovaCredentials.aload("to-play")).base_url == simulated.credentials.base_url
    assert (await S3Bucket.aload("to-play")).bucket_name == simulated.bucket.bucket_name


@pytest.mark.parametrize(
    "real",
    [
        LoovaCredentials(api_key=SecretStr("a key that was paid for")),
        S3Bucket(bucket_name="where-the-videos-are"),
        S3Bucket(bucket_name="where-the-videos-are", credentials=AwsCredentials(aws_client_parameters=ON_THIS_MACHINE)),
    ],
    ids=["loova", "s3", "s3-on-this-machine"],
)
async def test_real_blocks_are_not_overwritten(simulated, real):
    name = f"real-{uuid4().hex[:8]}"
    await real.asave(name, overwrite=True)
    with pytest.raises(InvalidRequestError, match=f"'{name}' exists that is not simulated: give another name"):
        await store_blocks(simulated.credentials, simulated.bucket, name)
    assert (await type(real).aload(name)).model_dump() == real.model_dump()
    other = S3Bucket if isinstance(real, LoovaCredentials) else LoovaCredentials
    with pytest.raises(ValueError, match="Unable to find block"):
        await other.aload(name)


def test_its_list_is_at_the_printed_uri(simulated, bucket):
    uri = put_list(simulated.bucket)
    key = uri.removeprefix(f"s3://{bucket.name}/")
    assert bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read().startswith(b"prompt,duration\n")


def test_without_a_prefect_server_it_says_how_to_start_one(capsys):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert run(["playground"]) == 2
    assert "PREFECT_API_URL is not set: run `prefect server start`" in capsys.readouterr().err
