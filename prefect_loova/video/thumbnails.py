"""Pictures of a video for people: a poster, a contact sheet, a thumbnail and a short moving preview (PyAV).

The video's time is cut into 27 equal parts, and the frame shown in the middle of each is a *sample*. All of them, 9 a
second, are the moving preview; each third one is in the contact sheet of 3 by 3; the one in the sheet's middle, which
is the middle of the video, is the poster and the thumbnail. A frame that is sampled twice is taken once.

What is read, decoded and kept is bounded, as the file comes from elsewhere: see `film`. It all takes one thread
and blocks; call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import BinaryIO, Literal

from av import VideoFrame

from prefect_loova.errors import PreviewError
from prefect_loova.video.decoder import (
    MAX_BYTES,  # noqa: F401  a bound of this module too
    DecodeError,
    TimeLimit,
    VideoReader,
    open_video,
    pts_of,
)
from prefect_loova.video.images import Steps, fitted, gif, jpeg, rotation, scaled, sheet, webp
from prefect_loova.video.tone_mapping import sdr

MAX_DECODED = 1800
"""A video of more frames than this is sampled at the keyframes before the 27 times, not at the times themselves."""

MOVING_BYTES = 190_000
"""The largest moving preview by default: in base64 it is 253,336 characters, and with `data:image/webp;base64,` less
than 256 KiB."""

THUMBNAIL_BYTES = 12 * 1024
"""The largest thumbnail."""

SAMPLES = 27
PICTURES_A_SECOND = 9
POSTER_SIDE = 1920
CELL_SIDE = 320
THUMBNAIL_SIDE = 240

_MOVING_TRIES = [(side, quality) for side in (CELL_SIDE, 240, 160, 96) for quality in (90, 75, 55, 35, 15)]
_THUMBNAIL_TRIES = [(side, quantizer) for side in (THUMBNAIL_SIDE, 160, 96) for quantizer in (3, 5, 8, 13, 20, 31)]


@dataclass(frozen=True)
class Previews:
    """What was made of a video.

    Attributes:
        poster: A JPEG of the frame in the middle, at most 1920 pixels long.
        contact_sheet: A JPEG of nine frames in order, each at most 320 pixels long.
        thumbnail: A JPEG of the frame in the middle, 240 pixels long, at most 12 KiB.
        moving: The whole video in 3 seconds, or in its own time if it is shorter; it loops.
        moving_type: The media type of `moving`.
        width: Of the video as it is shown, upright and with square pixels.
        height: Of the video as it is shown.
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


def make_previews(
    video: BinaryIO | io.RawIOBase, *, moving_bytes: int = MOVING_BYTES, max_seconds: float = 60.0
) -> Previews:
    """Look at a video and make pictures of it. The same video gives the same bytes.

    Args:
        video: An mp4 that can be read and sought.
        moving_bytes: The most bytes of the moving preview.
        max_seconds: The most seconds that this may take.

    Raises:
        PreviewError: It is no whole video, larger than the bounds of `film`, or takes too long.
        StorageError: As `video` raises it, where it is an `s3_file.S3File`.
    """
    deadline = TimeLimit(max_seconds)
    try:
        with open_video(video, deadline) as film:
            return _look(film, moving_bytes, deadline)
    except DecodeError as error:
        raise PreviewError(f"no preview can be made of this video: {error}", credits_spent="yes") from None


def _samples(film: VideoReader) -> Iterator[VideoFrame]:
    """The 27 samples in order; one frame several times where there are fewer."""
    times = [film.start + film.duration * (2 * part + 1) // (2 * SAMPLES) for part in range(SAMPLES)]
    rate = film.track.average_rate or Fraction(30)
    if film.track.frames <= MAX_DECODED and film.seconds * rate <= MAX_DECODED:
        return _shown_at(film, times)
    return _keyframes_before(film, times)


def _shown_at(film: VideoReader, times: list[int]) -> Iterator[VideoFrame]:
    left = iter(times)
    due = next(left, None)
    last: VideoFrame | None = None
    # A track that says less than it has is not decoded for ever.
    for frame in islice(film.container.decode(film.track), 2 * MAX_DECODED):
        film.check(frame)
        while last is not None and due is not None and due < pts_of(frame):
            yield last
            due = next(left, None)
        last = frame
        if due is None:
            return
    if last is None:
        raise DecodeError("there is no picture in it")
    end = pts_of(last) + (last.duration or 0)
    while due is not None:
        if due > end:
            raise film.cut_short(end)
        yield last
        due = next(left, None)


def _keyframes_before(film: VideoReader, times: list[int]) -> Iterator[VideoFrame]:
    decoder = film.track.codec_context
    known: tuple[int | None, VideoFrame] | None = None
    for moment in times:
        film.container.seek(moment, stream=film.track)
        for packet in film.container.demux(film.track):
            film.deadline.check()
            if packet.is_keyframe and packet.size:
                break
        else:
            raise DecodeError("it is cut short")
        if known is None or known[0] != packet.pts:
            frame = next(iter([*decoder.decode(packet), *decoder.decode(None)]), None)
            if frame is None:
                raise DecodeError("a keyframe in it is no picture")
            film.check(frame)
            known = packet.pts, frame
        yield known[1]


def _look(film: VideoReader, moving_bytes: int, deadline: TimeLimit) -> Previews:
    cells: list[VideoFrame] = []
    in_sheet: list[VideoFrame] = []
    poster = thumbnail = b""
    width = height = 0
    taken: VideoFrame | None = None
    shown: VideoFrame | None = None
    steps: Steps = ()
    for number, frame in enumerate(_samples(film)):
        if frame is not taken or shown is None:
            if not width:
                # Once: a frame that was asked for its side data is kept until the garbage is collected.
                steps = rotation(frame)
                width, height = film.shown_size(frame, steps)
            shown = sdr(frame)
            cells.append(scaled(shown, fitted(width, height, CELL_SIDE), steps))
            taken = frame
        if number % 3 == 1 and not (in_sheet and in_sheet[-1] is cells[-1]):
            in_sheet.append(cells[-1])
        if number == SAMPLES // 2:
            poster = jpeg(scaled(shown, fitted(width, height, POSTER_SIDE), steps), 4)
            thumbnail = _thumbnail(shown, width, height, steps)
    rate = max(Fraction(PICTURES_A_SECOND), len(cells) / film.seconds).limit_denominator(1000)
    moving, moving_type = _moving(cells, rate, moving_bytes, deadline)
    return Previews(
        poster, jpeg(sheet(in_sheet), 4), thumbnail, moving, moving_type, width, height, float(film.seconds)
    )


def _thumbnail(frame: VideoFrame, width: int, height: int, steps: Steps) -> bytes:
    for side, quantizer in _THUMBNAIL_TRIES:
        made = jpeg(scaled(frame, fitted(width, height, side), steps), quantizer)
        if len(made) <= THUMBNAIL_BYTES:
            return made
    raise DecodeError(f"no thumbnail of it fits {THUMBNAIL_BYTES:,} bytes")


def _moving(
    cells: list[VideoFrame], rate: Fraction, most: int, deadline: TimeLimit
) -> tuple[bytes, Literal["image/webp", "image/gif"]]:
    """The largest and then best WebP that fits; or a GIF of that size, where it takes fewer bytes still."""
    for side, quality in _MOVING_TRIES:
        deadline.check()
        size = fitted(cells[0].width, cells[0].height, side)
        pictures = [cell if (cell.width, cell.height) == size else scaled(cell, size) for cell in cells]
        made = webp(pictures, rate, quality)
        if len(made) <= most:
            as_gif = gif(pictures, rate) if _suit_a_gif(pictures, rate, quality) else None
            return (as_gif, "image/gif") if as_gif and len(as_gif) < len(made) else (made, "image/webp")
    raise DecodeError(f"no moving preview of it fits {most:,} bytes")


def _suit_a_gif(pictures: list[VideoFrame], rate: Fraction, quality: int) -> bool:
    """Whether one picture of them is not far larger as a GIF: those of a camera never are smaller, and all 27 of them
    take as long as the WebP."""
    middle = [pictures[len(pictures) // 2]]
    return len(gif(middle, rate)) <= 2 * len(webp(middle, rate, quality))
