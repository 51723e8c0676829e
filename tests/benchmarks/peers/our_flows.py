"""prefect-loova: `generate_video`, `generate_videos`, or `generate_from_manifest`, with their defaults."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_loova import VideoRequest, generate_from_manifest, generate_video, generate_videos
from tests.benchmarks.environment import Where, place

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_places: dict[Where, dict[str, Any]] = {}


def _place(where: Where) -> dict[str, Any]:
    return _places.setdefault(where, place(where.base_url, where, where.poll_seconds))


def s3_client(where: Where) -> S3Client:
    """The client that the tasks use."""
    client: S3Client = _place(where)["bucket"].credentials.get_s3_client()
    return client


async def make(prompts: list[str], where: Where, _s3: S3Client, *, entry: str = "batch", **options: Any) -> int:
    """Make all videos; returns how many are in the bucket.

    Args:
        prompts: Of each video.
        where: Where everything is.
        entry: Which flow: `one`, `batch` or `manifest`.
        options: Its other parameters.
    """
    options |= _place(where)
    if entry == "manifest":
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "prompts.jsonl"
            rows.write_text("".join(json.dumps({"prompt": prompt, "duration": 4}) + "\n" for prompt in prompts))
            return (await generate_from_manifest(str(rows), **options)).count("saved", "reused")
    requests = [VideoRequest(prompt=prompt, duration=4) for prompt in prompts]
    if entry == "one":
        for request in requests:
            await generate_video(request, **options)
        return len(requests)
    return (await generate_videos(requests, **options)).count("saved", "reused")
