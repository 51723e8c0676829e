"""Makes pictures of a video: a poster, a contact sheet, a thumbnail and a short moving preview (PyAV).

The duration of the video is divided into 27 equal parts. The frame in the middle of each part is a *sample*. The moving
preview shows all samples, 9 a second. The contact sheet (3 by 3) shows every third sample. The poster and the thumbnail
show the sample in the middle of the video. A frame that is sampled twice counts once.

The video comes from outside, so what is read, decoded and kept is bounded, as in `decoder`. It uses one thread and
blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from av import VideoFrame

from prefect_loova.errors import PreviewError
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoFile, VideoReader, open_video
from prefect_loova.video.images import RotationFilters, fit, gif, jpeg, rotation_filters, scale, sheet, webp
from prefect_loova.video.samples import MAX_DECODED, frames_at, frames_at_decoding_all, keyframes_before
from prefect_loova.video.tone_mapping import sdr

MOVING_BYTES = 190_000
"""The default size limit of the moving preview, in bytes. As a base64 `data:` URL this is less than 256 KiB."""

THUMBNAIL_BYTES = 12 * 1024
"""The largest thumbnail, in bytes."""

SAMPLES = 27
PICTURES_A_SECOND = 9
POSTER_SIDE = 1920
CELL_SIDE = 320
THUMBNAIL_SIDE = 240

_MOVING_TRIES = [(side, quality) for side in (CELL_SIDE, 240, 160, 96) for quality in (90, 75, 55, 35, 15)]
_THUMBNAIL_TRIES = [(side, quantizer) for side in (THUMBNAIL_SIDE, 160, 96) for quantizer in (3, 5, 8, 13, 20, 31)]


@dataclass(frozen=True)
class Previews:
    """The pictures of a video.

    Attributes:
        poster: A JPEG of the middle frame, with a longer side of at most 1920 pixels.
        contact_sheet: A JPEG of nine frames in order, each with a longer side of at most 320 pixels.
        thumbnail: A JPEG of the middle frame, with a longer side of at most 240 pixels, and at most 12 KiB.
        moving: The whole video in 3 seconds, or in real time if it is shorter. It loops.
        moving_type: The media type of `moving`.
        width: The width of the video in a player: upright, with square pixels.
        height: The height of the video in a player.
        duration_seconds: The length of the video.
    """

    poster: bytes
    contact_sheet: bytes
    thumbnail: bytes
    moving: bytes
    moving_type: Literal["image/webp", "image/gif"]
    width: int
    height: int
    duration_seconds: float


def make_previews(video: VideoFile, *, moving_bytes: int = MOVING_BYTES, max_seconds: float = 60.0) -> Previews:
    """Make pictures of a video. The same video gives the same bytes.

    Args:
        video: A seekable mp4.
        moving_bytes: The most bytes of the moving preview.
        max_seconds: The most seconds that this may take.

    Returns:
        The pictures.

    Raises:
        PreviewError: The video is incomplete or over the bounds of `decoder`, or this takes too long.
        StorageError: A video that is a `store.reader.S3File` raised it.
    """
    time_limit = TimeLimit(max_seconds)
    try:
        try:
            with open_video(video, time_limit) as reader:
                return _make(reader, moving_bytes, decode_all=False)
        except DecodeError:  # it may be one of what the index says, not of the pictures
            time_limit.check()
        with open_video(video, time_limit) as reader:
            return _make(reader, moving_bytes, decode_all=True)
    except DecodeError as error:
        raise PreviewError(f"no preview can be made of the video: {error}", credits_spent="yes") from None


def _samples(reader: VideoReader, *, decode_all: bool) -> Iterator[VideoFrame]:
    """Yield the 27 samples in order. A short video yields the same frame several times."""
    times = [reader.start + reader.duration * (2 * part + 1) // (2 * SAMPLES) for part in range(SAMPLES)]
    rate = reader.track.average_rate or Fraction(30)
    if reader.track.frames > MAX_DECODED or reader.seconds * rate > MAX_DECODED:
        return keyframes_before(reader, times)
    return frames_at_decoding_all(reader, times) if decode_all else frames_at(reader, times)


def _make(reader: VideoReader, moving_bytes: int, *, decode_all: bool) -> Previews:
    cells: list[VideoFrame] = []  # one for each sample; a frame that is sampled twice has one cell
    poster = thumbnail = b""
    width = height = 0
    sample: VideoFrame | None = None
    picture: VideoFrame | None = None
    rotation: RotationFilters = ()
    for number, frame in enumerate(_samples(reader, decode_all=decode_all)):
        if frame is not sample or picture is None:
            if not width:
                # Only once: reading the side data of a frame keeps it until the garbage collector runs.
                rotation = rotation_filters(frame)
                width, height = reader.display_size(frame, rotation)
            sample, picture = frame, sdr(frame)
            cell = scale(picture, fit(width, height, CELL_SIDE), rotation)
        cells.append(cell)
        if number == SAMPLES // 2:
            poster = jpeg(scale(picture, fit(width, height, POSTER_SIDE), rotation), 4)
            thumbnail = _thumbnail(picture, width, height, rotation)
    pictures = [*dict.fromkeys(cells)]
    rate = max(Fraction(PICTURES_A_SECOND), len(pictures) / reader.seconds).limit_denominator(1000)
    moving, moving_type = _moving_preview(pictures, rate, moving_bytes, reader.time_limit)
    contact_sheet = jpeg(sheet([*dict.fromkeys(cells[1::3])]), 4)
    return Previews(poster, contact_sheet, thumbnail, moving, moving_type, width, height, float(reader.seconds))


def _thumbnail(frame: VideoFrame, width: int, height: int, rotation: RotationFilters) -> bytes:
    for side, quantizer in _THUMBNAIL_TRIES:
        thumbnail = jpeg(scale(frame, fit(width, height, side), rotation), quantizer)
        if len(thumbnail) <= THUMBNAIL_BYTES:
            return thumbnail
    raise DecodeError(f"no thumbnail fits {THUMBNAIL_BYTES:,} bytes")


def _moving_preview(
    cells: list[VideoFrame], rate: Fraction, max_bytes: int, time_limit: TimeLimit
) -> tuple[bytes, Literal["image/webp", "image/gif"]]:
    """Return the largest, then best, WebP that fits, or a GIF of the same pictures if that is smaller."""
    for side, quality in _MOVING_TRIES:
        time_limit.check()
        size = fit(cells[0].width, cells[0].height, side)
        pictures = [cell if (cell.width, cell.height) == size else scale(cell, size) for cell in cells]
        as_webp = webp(pictures, rate, quality)
        if len(as_webp) <= max_bytes:
            as_gif = gif(pictures, rate) if _may_suit_gif(pictures, rate, quality) else None
            return (as_gif, "image/gif") if as_gif and len(as_gif) < len(as_webp) else (as_webp, "image/webp")
    raise DecodeError(f"no moving preview fits {max_bytes:,} bytes")


def _may_suit_gif(pictures: list[VideoFrame], rate: Fraction, quality: int) -> bool:
    """Return whether one picture is not much larger as a GIF.

    Pictures of a camera are always larger as a GIF, and encoding all 27 takes as long as the WebP.
    """
    middle = [pictures[len(pictures) // 2]]
    return len(gif(middle, rate)) <= 2 * len(webp(middle, rate, quality))
