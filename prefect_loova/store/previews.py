"""The pictures of a video in the bucket, beside the video.

`video.mp4` has `poster.jpg`, `contact-sheet.jpg`, `thumbnail.jpg` and `preview.webp` (or `preview.gif`).
`video-attempt-2.mp4`, the second purchase of a request, has `poster-attempt-2.jpg` and so on. The moving preview is
written last, so if it exists, the others exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

from prefect_loova.store.prefix import BucketPrefix

if TYPE_CHECKING:  # decoders load when they are used
    from prefect_loova.video.thumbnails import Previews

MovingType = Literal["image/webp", "image/gif"]

_MAX_BYTES = 16 * 1024**2  # more than any picture of this package has


@dataclass(frozen=True)
class SavedPreviews:
    """The keys of the pictures of one video."""

    poster: str
    contact_sheet: str
    thumbnail: str
    moving: str


def preview_keys(video_key: str, moving_type: MovingType) -> SavedPreviews:
    """Return the keys of the pictures of a video, by the key of the video."""
    video = PurePosixPath(video_key)
    attempt = video.stem.removeprefix("video")

    def beside(name: str, extension: str) -> str:
        return str(video.with_name(f"{name}{attempt}.{extension}"))

    return SavedPreviews(
        poster=beside("poster", "jpg"),
        contact_sheet=beside("contact-sheet", "jpg"),
        thumbnail=beside("thumbnail", "jpg"),
        moving=beside("preview", moving_type.removeprefix("image/")),
    )


async def save_previews(
    prefix: BucketPrefix, video_key: str, previews: Previews, *, upload_options: Mapping[str, Any] | None = None
) -> SavedPreviews:
    """Store the pictures of a video beside it. Existing pictures are replaced.

    Args:
        prefix: The prefix of the video, such as `VideoJobs.records`.
        video_key: The S3 key of the video.
        previews: The pictures.
        upload_options: boto3's `ExtraArgs` of the video's upload: SSE-KMS, tags, storage class.

    Raises:
        StorageError: The bucket cannot be written.
    """
    keys = preview_keys(video_key, previews.moving_type)

    async def put(key: str, content: bytes, content_type: str = "image/jpeg") -> None:
        await prefix.put_bytes(key, content, content_type, **(upload_options or {}))

    await asyncio.gather(
        put(keys.poster, previews.poster),
        put(keys.contact_sheet, previews.contact_sheet),
        put(keys.thumbnail, previews.thumbnail),
    )
    await put(keys.moving, previews.moving, previews.moving_type)
    return keys


async def load_moving(prefix: BucketPrefix, video_key: str) -> tuple[bytes, MovingType] | None:
    """Return the moving preview of a video and its media type, or None if there is none.

    Raises:
        StorageError: The bucket cannot be read.
    """
    for moving_type in get_args(MovingType):
        found = await prefix.get_bytes(preview_keys(video_key, moving_type).moving, _MAX_BYTES)
        if found is not None:
            return found, moving_type
    return None


async def load_thumbnail(prefix: BucketPrefix, video_key: str) -> bytes | None:
    """Return the thumbnail of a video, a JPEG, or None if there is none.

    Raises:
        StorageError: The bucket cannot be read.
    """
    return await prefix.get_bytes(preview_keys(video_key, "image/webp").thumbnail, _MAX_BYTES)
