"""The pytest plugin: a fixture with a simulated Loova and a bucket for its videos.

Every pytest run with the package installed loads this module, so it imports only pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_loova.simulator.server import LoovaSimulator
    from prefect_loova.videos import LoovaVideos


@pytest.fixture
def loova_videos(loova_simulator: LoovaSimulator, tmp_path: Path) -> Iterator[LoovaVideos]:
    """Start an S3 server for one test, and return a `LoovaVideos` block with it and `loova_simulator`.

    It needs the extra `[simulator]`. The block is not saved in a Prefect server.
    """
    from prefect_aws import AwsCredentials  # noqa: PLC0415
    from prefect_aws.client_parameters import AwsClientParameters  # noqa: PLC0415
    from prefect_aws.s3 import S3Bucket  # noqa: PLC0415
    from pydantic import SecretStr  # noqa: PLC0415

    from prefect_loova import LoovaCredentials, LoovaVideos  # noqa: PLC0415
    from prefect_loova.simulator.s3 import EmbeddedS3  # noqa: PLC0415

    credentials = LoovaCredentials(api_key=SecretStr(loova_simulator.api_key), base_url=loova_simulator.base_url)
    with EmbeddedS3(tmp_path / "s3") as s3:
        aws = AwsCredentials(
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=SecretStr(s3.secret_key),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
        )
        yield LoovaVideos(credentials=credentials, bucket=S3Bucket(bucket_name=s3.bucket, credentials=aws))
