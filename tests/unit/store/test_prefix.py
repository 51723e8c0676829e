"""A bucket is given by its name, and by nothing else."""

from __future__ import annotations

import pytest

from prefect_loova.errors import InvalidRequestError
from prefect_loova.store.prefix import validate_bucket


@pytest.mark.parametrize(
    "name", ["my-videos", "my.videos_2", "MyVideos", "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"]
)
def test_a_bucket_is_given_by_its_name(name: str) -> None:
    assert validate_bucket(name) == name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("s3://my-videos/", "give the name, my-videos"),
        ("s3://my-videos", "give the name, my-videos"),
        ("S3://my-videos/loova/x", "give the name, my-videos; the rest goes into the prefix ('loova/x')"),
        ("https://my-videos.s3.amazonaws.com/", "give the name"),
        ("https://my-videos.s3.amazonaws.com/?X-Amz-Signature=SECRET", "give the name"),
        ("my-videos/loova", "give the name"),
        ("my videos", "give the name"),
        ("", "give the name"),
        ("a" * 256, "give the name"),
    ],
)
def test_anything_else_is_refused_in_one_line(given: str, says: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        validate_bucket(given)
    assert says in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
