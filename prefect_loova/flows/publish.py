"""The flow that publishes chosen videos: copies with names of their own, a manifest and a gallery page."""

# No `from __future__ import annotations`: see `flows/video.py`.

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from prefect import flow, task
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.utilities.annotations import quote
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._concurrency import map_bounded
from prefect_loova._prefect.artifacts import publish_collection
from prefect_loova._prefect.context import DEFAULT_PREFIX, location_of
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.lineage import record_published
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._prefect.run_logs import RESULT
from prefect_loova._prefect.task_options import NOT_CACHED
from prefect_loova.batches.publish import Copy, Publisher, find_videos, keys_of_report, target_of
from prefect_loova.batches.publish_names import NAME, check_template
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.models.published import PublishedVideo, PublishedVideos
from prefect_loova.videos import LoovaVideos

LinkKind = Literal["relative", "presigned"]
"""The links of a gallery page. `relative`: they work on a web host and in a downloaded folder. `presigned`: anyone who
has the page can watch until they expire."""

MAX_LINK_SECONDS = 7 * 24 * 3600
"""The longest time that S3 accepts for a presigned URL, in seconds."""

_CONCURRENT_COPIES = 8


def _copy_run_name() -> str:
    return f"publish {redact(task_run.parameters['copy'].unwrap().name, 80)}"


@task(
    name="publish-video",
    description="Copy a saved video within S3 to its published name.",
    **NOT_CACHED | {"task_run_name": _copy_run_name},
)
async def _publish_video(copy: Copy, *, publisher: Publisher) -> PublishedVideo:
    published = await publisher.copy(copy)
    record_published(published)
    return published


@sync_or_async
@flow(name="publish-videos")
async def publish_videos(
    keys: Sequence[str] = (),
    to: str = "",
    name: str = NAME,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    report: str = "",
    links: LinkKind = "relative",
    link_seconds: Annotated[int, Field(ge=60, le=MAX_LINK_SECONDS)] = MAX_LINK_SECONDS,
    overwrite: bool = False,
    upload_options: dict[str, Any] | None = None,
    videos: LoovaVideos | None = None,
) -> PublishedVideos:
    """Publish chosen videos: copy them to names of your own, with a manifest and a gallery page.

    S3 makes the copies itself. A second run copies only what is missing. The manifest and the page list the videos of
    the last run.

    Args:
        keys: The requests' keys, or unique beginnings of them.
        to: Where to publish: an `s3://BUCKET/PREFIX/` that the block's AWS credentials may write. By default the folder
            `_published/` below the prefix of the job records.
        name: The name of each video below it. Fields are `{label}`, `{slug}` (the first words of the prompt),
            `{ratio}` (such as `16x9`), `{duration}`, `{model}`, `{take}`, `{key}` (8 digits) and `{day}` (when the
            video was saved).
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records and videos.
        prefix: The prefix in the bucket, below the block's own folder.
        report: The report of a batch: a local `.report.csv` file, or its `s3://` URI. Its saved videos are published
            too.
        links: How the page links the videos. `relative`: for a web host or a downloaded folder. `presigned`: anyone who
            has the page can watch until the links expire.
        link_seconds: How long presigned links are valid, in seconds.
        overwrite: Replace objects that have other content.
        upload_options: boto3's `ExtraArgs` of an upload, for example `{"CacheControl": "max-age=86400"}`.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.

    Returns:
        The published videos, and the gallery page.

    Raises:
        InvalidRequestError: A key, the report, the name or `to` has problems, videos would get the same name, or
            objects with other content exist. The error lists all of them, and nothing is copied.
        StorageError: The bucket cannot be read, or `to` cannot be written.

    Example:
        ```python
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, VideoRequest, generate_video, publish_videos

        async def main() -> str:
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            saved = await generate_video(VideoRequest(prompt="a boat at sunset", duration=4), credentials, bucket)
            to = f"s3://{bucket.bucket_name}/boats/"
            published = await publish_videos([saved.key], to, credentials=credentials, bucket=bucket)
            return published.page
        ```
    """
    logger = get_run_logger()
    location = location_of(videos, credentials, bucket, prefix)
    check_template(name)
    content = await Manifest(report, location.bucket, what="report").read() if report else b""
    async with location.open() as jobs:
        target = target_of(to, jobs.records)
        chosen = [*keys, *(keys_of_report(content, report, jobs.records) if report else [])]
        if not chosen:
            raise InvalidRequestError("keys, report: they name no video; give keys, or the report of a batch")
        publisher = Publisher(jobs, target, overwrite=overwrite, upload_options=upload_options or {})
        copies = await publisher.plan(await find_videos(jobs, chosen), name)

        async def publish(copy: Copy) -> PublishedVideo:
            published: PublishedVideo = await _publish_video(
                cast("Copy", quote(copy)), publisher=cast("Publisher", quote(publisher))
            )
            logger.info("%s: %s", redact(published.name, 200), "copied" if published.is_new else "was there already")
            return published

        done = await map_bounded(publish, copies, _CONCURRENT_COPIES)
        result = await publisher.finish(done, link_seconds if links == "presigned" else 0)
    logger.info(result.summary, extra=RESULT)
    await publish_collection(result)
    return result
