"""Reference media in flows, on a real Prefect server."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_loova import (
    SavedVideo,
    VideoRequest,
    collect_videos,
    generate_from_manifest,
    generate_storyboard,
    generate_video,
    generate_videos,
)
from prefect_loova.errors import InvalidRequestError
from prefect_loova.video.frames import frame_of
from tests.integration.conftest import block_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]


@pytest.fixture
def lister(place, bucket):
    """The place of one who may list the bucket."""
    return replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture of soft colours, which coding changes little, in the ratio of a video."""
    folder = tmp_path / "work" / "pictures"
    folder.mkdir(parents=True)
    down = Image.linear_gradient("L").resize((640, 360))
    picture = Image.merge("RGB", (down, down.rotate(180), Image.new("L", down.size, 90)))
    picture.save(folder / "cat.png")
    return folder


def make(place, *images: Any, **fields: Any):
    request = VideoRequest(prompt=fields.pop("prompt", "a cat"), image_urls=images, duration=4, **fields)
    return generate_video(request, place.credentials, place.bucket, poll_seconds=0.1)


def as_a_worker_runs_it(monkeypatch):
    """What a worker gives the process of a deployment's run: Prefect reads both from the environment."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.uuid4()))
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__NAME", "a-deployment")


def frame(bucket, saved: SavedVideo, which: Any) -> Image.Image:
    key = saved.video.removeprefix(f"s3://{bucket}/")
    video = bucket.client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return Image.open(io.BytesIO(frame_of(io.BytesIO(video), which))).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """How far apart two pictures are, as the root of the mean square of 255 steps."""
    changed = ImageChops.difference(one, other.resize(one.size))
    return max(ImageStat.Stat(changed).rms)


async def test_the_video_starts_with_the_given_picture(place, bucket, pictures):
    saved = await make(place, pictures / "cat.png")
    assert difference(frame(bucket, saved, "first"), Image.open(pictures / "cat.png")) < 8
    assert difference(frame(bucket, saved, "last"), Image.open(pictures / "cat.png")) > 30


async def test_a_video_continues_from_the_last_frame_of_another(place, bucket, loova):
    first = await make(place)
    second = await make(place, first.last_frame, prompt="it goes on", function_mode="first_last_frames")
    assert difference(frame(bucket, second, "first"), frame(bucket, first, "last")) < 8
    assert difference(frame(bucket, second, "first"), frame(bucket, first, "first")) > 8
    assert loova.ledger["totals"]["billed"] == 2
    again = await make(place, f"{first.video}#last-frame", prompt="it goes on", function_mode="first_last_frames")
    assert (again.task_id, again.reused) == (second.task_id, True)


async def test_a_bad_medium_fails_the_run_at_once_and_costs_nothing(place, loova, pictures):
    (pictures / "text.png").write_text("no picture")
    with pytest.raises(InvalidRequestError) as caught:
        await make(place, pictures / "cat.png", pictures / "text.png", "s3://nobodys-bucket-here/a.png")
    assert "image_urls.1: " in str(caught.value)
    assert "its content is text, not an image" in str(caught.value)
    assert "image_urls.2: 's3://nobodys-bucket-here/a.png' was given" in str(caught.value)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_reference_to_a_missing_medium_logs_a_warning(place, loova, caplog):
    await make(place, prompt="@image1 walks")
    assert "the prompt refers to @image1, and the request has 0 images" in caplog.text
    assert loova.ledger["totals"]["billed"] == 1


async def test_a_run_of_a_deployment_reads_files_below_its_working_directory_only(place, pictures, monkeypatch):
    as_a_worker_runs_it(monkeypatch)
    monkeypatch.chdir(pictures.parent)
    (pictures.parent.parent / "secret.png").write_bytes((pictures / "cat.png").read_bytes())
    with pytest.raises(InvalidRequestError, match="it lies outside of"):
        await make(place, "../secret.png")
    with pytest.raises(InvalidRequestError, match=r"request 1: image_urls.0: .* it lies outside of"):
        request = VideoRequest(prompt="x", image_urls=["../secret.png"])
        await generate_videos([request], place.credentials, place.bucket)
    assert (await make(place, "pictures/cat.png")).size_bytes


async def test_a_run_of_a_deployment_reads_lists_below_its_working_directory_only(place, bucket, pictures, monkeypatch):
    as_a_worker_runs_it(monkeypatch)
    monkeypatch.chdir(pictures)
    outside = pictures.parent / "secret.yaml"
    outside.write_text("password=hunter2")
    with pytest.raises(InvalidRequestError, match="it lies outside of") as caught:
        await generate_storyboard(str(outside), place.credentials, place.bucket)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="it lies outside of"):
        await generate_from_manifest("../prompts.csv", place.credentials, place.bucket)
    row = json.dumps({"prompt": "@image1 walks", "duration": 4, "image_urls": ["cat.png"]})
    bucket.client.put_object(Bucket=bucket, Key="loova/list.jsonl", Body=row.encode())
    with pytest.raises(InvalidRequestError, match="media_folder: '/' was given: in a run of a deployment it must lie"):
        uri = f"s3://{bucket}/loova/list.jsonl"
        await generate_from_manifest(uri, place.credentials, place.bucket, media_folder="/")


async def test_a_local_list_names_files_beside_itself(place, loova, pictures):
    manifest = pictures.parent / "prompts.csv"
    manifest.write_text(
        "prompt,duration,image_urls\n@image1 walks,4,pictures/cat.png\n@image1 runs,4,pictures/cat.png\n"
    )
    report = await generate_from_manifest(str(manifest), place.credentials, place.bucket, poll_seconds=0.1)
    assert report.count("saved") == 2
    first, second = (task["request"]["image_urls"][0].partition("?")[0] for task in loova.ledger["tasks"])
    assert first == second


async def test_a_list_in_s3_reads_local_files_only_from_an_allowed_folder(place, loova, bucket, pictures):
    secret = pictures.parent / "secret.png"
    secret.write_bytes((pictures / "cat.png").read_bytes())
    for name, path in (("inside", "cat.png"), ("outside", "../secret.png"), ("absolute", str(secret))):
        row = json.dumps({"prompt": "@image1 walks", "duration": 4, "image_urls": [path]})
        bucket.client.put_object(Bucket=bucket, Key=f"loova/{name}.jsonl", Body=row.encode())

    async def run(name: str, **options: Any):
        uri = f"s3://{bucket}/loova/{name}.jsonl"
        return await generate_from_manifest(uri, place.credentials, place.bucket, poll_seconds=0.1, **options)

    for name in ("inside", "outside", "absolute"):
        with pytest.raises(InvalidRequestError, match="what comes from S3 may not read local files"):
            await run(name)
    for name in ("outside", "absolute"):
        with pytest.raises(InvalidRequestError, match="it lies outside of"):
            await run(name, media_folder=str(pictures))
    assert loova.ledger["totals"]["posted"] == 0
    assert (await run("inside", media_folder=str(pictures))).count("saved") == 1


async def test_a_dry_run_of_a_list_uploads_nothing(place, loova, bucket, pictures):
    manifest = pictures.parent / "prompts.csv"
    manifest.write_text("prompt,image_urls\n@image1 walks,pictures/cat.png\n")
    report = await generate_from_manifest(str(manifest), place.credentials, place.bucket, dry_run=True)
    assert report.count("not_started") == 1
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket, Prefix="loova/_media/")


async def test_a_queued_video_needs_no_files_of_the_machine_that_queued_it(lister, loova, pictures):
    loova.fail("too_many_running_tasks", times=1)
    request = VideoRequest(prompt="@image1 walks", image_urls=[pictures / "cat.png"], duration=4)
    report = await generate_videos([request], lister.credentials, lister.bucket, wait=False, on_failure="report")
    (pictures / "cat.png").unlink()
    assert report.count("queued") == 1
    assert (await collect_videos(lister.credentials, lister.bucket)).summary == "1 submitted, 1 running"
    loova.advance(10)
    assert (await collect_videos(lister.credentials, lister.bucket)).summary == "1 saved"
    assert loova.ledger["totals"]["billed"] == 1
