"""The pytest plugin: fixtures with a simulated Loova, and with a bucket for its videos.

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
def loova_simulator() -> Iterator[LoovaSimulator]:
    """Start a `LoovaSimulator` for one test. Tasks succeed at once, and the videos are small (120 pixels).

    Point a client at `loova_simulator.base_url` with `loova_simulator.api_key`. Add a fault with
    `loova_simulator.fail("lost_reply")`. Read what was billed from `loova_simulator.ledger`.
    """
    from prefect_loova.simulator.server import LoovaSimulator  # noqa: PLC0415

    with LoovaSimulator(generation_seconds=0, short_side=120) as simulator:
        yield simulator


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
