"""Where the pictures of a video stand in the bucket: beside it, under the same policy.

`video.mp4` has `poster.jpg`, `contact-sheet.jpg`, `thumbnail.jpg` and `preview.webp` (or `preview.gif`) beside it; the
second purchase of a request, `video-attempt-2.mp4`, has `poster-attempt-2.jpg` and so on. The moving preview is written
last: where it is, the others are.
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

_MOST = 16 * 1024**2  # no picture that was made here is as large


@dataclass(frozen=True)
class SavedPreviews:
    """The keys of the pictures of one video."""

    poster: str
    contact_sheet: str
    thumbnail: str
    moving: str


def preview_keys(video_key: str, moving_type: MovingType) -> SavedPreviews:
    """Where the pictures of a video go, by the video's own key."""
    video = PurePosixPath(video_key)
    which = video.stem.removeprefix("video")

    def beside(name: str, ending: str) -> str:
        return str(video.with_name(f"{name}{which}.{ending}"))

    return SavedPreviews(
        poster=beside("poster", "jpg"),
        contact_sheet=beside("contact-sheet", "jpg"),
        thumbnail=beside("thumbnail", "jpg"),
        moving=beside("preview", moving_type.removeprefix("image/")),
    )


async def save_previews(
    place: BucketPrefix, video_key: str, previews: Previews, *, upload_options: Mapping[str, Any] | None = None
) -> SavedPreviews:
    """Store the pictures of a video beside it. Pictures that are there already are replaced.

    Args:
        place: The bucket; `VideoJobs.records` is one.
        video_key: The video's key, as its record has it.
        previews: The pictures.
        upload_options: boto3's `ExtraArgs` of an upload, those of the video: SSE-KMS, tags, storage class.

    Raises:
        StorageError: The bucket cannot be written.
    """
    keys = preview_keys(video_key, previews.moving_type)

    async def put(key: str, content: bytes, content_type: str = "image/jpeg") -> None:
        await place.put_bytes(key, content, content_type, **(upload_options or {}))

    await asyncio.gather(
        put(keys.poster, previews.poster),
        put(keys.contact_sheet, previews.contact_sheet),
        put(keys.thumbnail, previews.thumbnail),
    )
    await put(keys.moving, previews.moving, previews.moving_type)
    return keys


async def load_moving(place: BucketPrefix, video_key: str) -> tuple[bytes, MovingType] | None:
    """The moving preview of a video and its media type, or None where there is none.

    Raises:
        StorageError: The bucket cannot be read.
    """
    for moving_type in get_args(MovingType):
        found = await place.get_bytes(preview_keys(video_key, moving_type).moving, _MOST)
        if found is not None:
            return found, moving_type
    return None


async def load_thumbnail(place: BucketPrefix, video_key: str) -> bytes | None:
    """The thumbnail of a video, a JPEG, or None where there is none.

    Raises:
        StorageError: The bucket cannot be read.
    """
    return await place.get_bytes(preview_keys(video_key, "image/webp").thumbnail, _MOST)
