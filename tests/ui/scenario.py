"""The scenarios of the UI tests: `python -m tests.ui.scenario WHAT`. The last line of output is the result."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flows import EntrypointType
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova import (
    LoovaCredentials,
    LoovaVideos,
    VideoRequest,
    generate_storyboard,
    generate_video,
    generate_videos,
    publish_videos,
)

PROMPTS = (
    "A futuristic city at sunset, flying cars between towers of glass",
    "A lighthouse in a storm, waves breaking over the rocks",
    "A paper boat drifting down a rainy street",
    "An astronaut planting a tree on the moon",
    "Steam rising from a bowl of ramen, close-up",
    "A red fox running through fresh snow",
    "Hot-air balloons over a desert at dawn",
    "A watchmaker's hands assembling a tiny gear",
    "Northern lights over a frozen lake",
    "A jazz trio in a smoky basement club",
    "A hummingbird at a flower in slow motion",
    "A train crossing a viaduct in autumn",
)


async def where() -> dict[str, Any]:
    return {"credentials": await LoovaCredentials.aload("loova"), "bucket": await S3Bucket.aload("loova")}


async def blocks() -> None:
    env = os.environ
    aws = AwsCredentials(
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SecretStr(env["AWS_SECRET_ACCESS_KEY"]),
        region_name=env["AWS_DEFAULT_REGION"],
        aws_client_parameters=AwsClientParameters(endpoint_url=env["AWS_ENDPOINT_URL_S3"]),
    )
    await LoovaCredentials.aregister_type_and_schema()
    await LoovaVideos.aregister_type_and_schema()
    loova = LoovaCredentials(api_key=SecretStr(env["LOOVA_API_KEY"]), base_url=env["LOOVA_BASE_URL"])
    await loova.asave("loova", overwrite=True)
    await S3Bucket(bucket_name="my-videos", credentials=aws).asave("loova", overwrite=True)


async def video(prompt: str = PROMPTS[0], ratio: str = "16:9") -> str:
    request = VideoRequest.model_validate({"prompt": prompt, "ratio": ratio})
    await generate_video(request, **await where(), poll_seconds=0.5)
    return request.key


async def batch(count: str = "12") -> str:
    requests = [VideoRequest(prompt=prompt, duration=4) for prompt in PROMPTS[: int(count)]]
    report = await generate_videos(requests, **await where(), poll_seconds=0.5, on_failure="report")
    return report.summary


async def story(title: str = "A day at the harbour") -> str:
    shots = [{"prompt": f"{prompt}, slowly", "continue": number % 2 == 1} for number, prompt in enumerate(PROMPTS[:4])]
    with tempfile.TemporaryDirectory() as folder:
        board = Path(folder) / "story.json"
        board.write_text(json.dumps({"title": title, "duration": 4, "shots": shots}))
        report = await generate_storyboard(str(board), **await where(), poll_seconds=0.5)
    return str(report.film)


async def publish() -> str:
    """Publish six videos, and return the page with presigned links."""
    shapes = ("16:9", "9:16", "1:1", "9:16", "16:9", "1:1")
    labels = ("City", "Sea", "City", "City", "Sea", "Sea")
    requests = [
        VideoRequest.model_validate({"prompt": prompt, "duration": 5, "ratio": ratio, "label": label})
        for prompt, ratio, label in zip(PROMPTS, shapes, labels, strict=False)
    ]
    blocks = await where()
    await generate_videos(requests, **blocks, poll_seconds=0.5)
    await publish_videos([one.key for one in requests], "s3://my-videos/spring/", **blocks, links="presigned")
    s3 = blocks["bucket"].credentials.get_s3_client()
    return str(s3.get_object(Bucket="my-videos", Key="spring/index.html")["Body"].read().decode())


async def deploy() -> str:
    deployment = await generate_video.ato_deployment("on-demand", description="Make one video.")
    deployment.work_pool_name = None
    return str(await deployment.aapply())


async def deploy_batch() -> str:
    deployment = await generate_videos.ato_deployment("takes", entrypoint_type=EntrypointType.MODULE_PATH)
    return str(await deployment.aapply())


async def story_run(of: str) -> str:
    """Create a run that makes drafts of a story of 6 shots with 2 takes each, and waits for a review."""
    blocks = await where()
    shots = [{"prompt": f"{one}{of}", "takes": 2, "continue": at in (1, 2, 4)} for at, one in enumerate(PROMPTS[:6])]
    board = json.dumps({"title": f"A day{of}", "duration": 4, "shots": shots}).encode()
    s3 = blocks["bucket"].credentials.get_s3_client()
    s3.put_object(Bucket="my-videos", Key=f"boards/day{of[-2:]}.json", Body=board)
    deployment = await generate_storyboard.ato_deployment("story", entrypoint_type=EntrypointType.MODULE_PATH)
    parameters = {
        "storyboard": f"s3://my-videos/boards/day{of[-2:]}.json",
        "credentials": {"$ref": {"block_document_id": str(blocks["credentials"]._block_document_id)}},
        "bucket": {"$ref": {"block_document_id": str(blocks["bucket"]._block_document_id)}},
        "draft": "seedance_2_0_fast",
        "review": "suspend",
        "preview": "still",
        "poll_seconds": 0.5,
    }
    async with get_client() as client:
        created = await client.create_flow_run_from_deployment(await deployment.aapply(), parameters=parameters)
    return str(created.id)


async def publish_keys(*keys: str) -> list[str]:
    """Publish videos below a folder of their own, and return where they are."""
    published = await publish_videos(list(keys), f"s3://my-videos/{keys[0][:8]}/", **await where())
    return [one.video for one in published.videos]


async def review_run(of: str = "", review_seconds: str = "3600") -> str:
    """Create a run that makes drafts and waits for a review. `prefect.engine` executes it, as a worker does."""
    requests = [{"prompt": f"{prompt}{of}", "duration": 4, "takes": 2} for prompt in PROMPTS[:3]]
    deployed = await deploy_batch()
    parameters = {
        "requests": requests,
        "credentials": {"$ref": {"block_document_id": str((await LoovaCredentials.aload("loova"))._block_document_id)}},
        "bucket": {"$ref": {"block_document_id": str((await S3Bucket.aload("loova"))._block_document_id)}},
        "draft": "seedance_2_0_fast",
        "review": "suspend",
        "review_seconds": float(review_seconds),
        "poll_seconds": 0.5,
    }
    async with get_client() as client:
        return str((await client.create_flow_run_from_deployment(UUID(deployed), parameters=parameters)).id)


async def reviews() -> list[Any]:
    """Return the reviews in the bucket."""
    s3 = (await where())["bucket"].credentials.get_s3_client()
    found = s3.list_objects_v2(Bucket="my-videos", Prefix="loova/_reviews/")["Contents"]
    return [json.loads(s3.get_object(Bucket="my-videos", Key=one["Key"])["Body"].read()) for one in found]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))))
