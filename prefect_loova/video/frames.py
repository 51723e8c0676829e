"""The first or the last frame of a video, whole and exact, as a picture for a request (PyAV).

What is read and decoded is bounded: see `film`. It takes one thread and blocks; call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Literal

from av import VideoFrame
from av.error import FFmpegError

from prefect_loova.errors import UnusableVideoError
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoReader, open_video, pts_of
from prefect_loova.video.images import png, rotation
from prefect_loova.video.tone_mapping import sdr


def frame_of(video: BinaryIO | io.RawIOBase, which: Literal["first", "last"], *, max_seconds: float = 60.0) -> bytes:
    """The first or the last frame that a player shows of a video. The same video gives the same bytes.

    Args:
        video: An mp4 that can be read and sought.
        which: The frame. For the last one, what comes after the last keyframe is decoded.
        max_seconds: The most seconds that this may take.

    Returns:
        A PNG in RGB, upright, with square pixels, at full size.

    Raises:
        UnusableVideoError: It is no whole video, larger than the bounds of `film`, or takes too long.
        StorageError: As `video` raises it, where it is an `s3_file.S3File`.
    """
    deadline = TimeLimit(max_seconds)
    try:
        if which == "first":
            with open_video(video, deadline) as film:
                film.check_index()
                for frame in film.container.decode(film.track):
                    film.check(frame)
                    return _picture(film, frame)
                raise DecodeError("there is no picture in it")
        found = _after_last_keyframe(video, deadline)
        if found is None:
            with open_video(video, deadline) as film:
                found = _picture(film, _last(film))
        return found
    except DecodeError as error:
        raise UnusableVideoError(f"no frame can be taken: {error}") from None


def _after_last_keyframe(video: BinaryIO | io.RawIOBase, deadline: TimeLimit) -> bytes | None:
    """The last frame; None where it cannot be told without decoding all."""
    with open_video(video, deadline) as film:
        film.check_index()
        try:
            film.container.seek(film.start + film.duration, stream=film.track)
            frame = _last(film)
        except (FFmpegError, DecodeError):
            deadline.check()
            return None
        return _picture(film, frame)


def _last(film: VideoReader) -> VideoFrame:
    """The frame that is shown last, of those from here on."""
    last: VideoFrame | None = None
    for frame in film.container.decode(film.track):
        film.check(frame)
        if last is None or pts_of(frame) > pts_of(last):
            last = frame
    film.check_index()
    if last is None:
        raise DecodeError("there is no picture in it")
    film.check_end(pts_of(last) + (last.duration or 0))
    return last


def _picture(film: VideoReader, frame: VideoFrame) -> bytes:
    steps = rotation(frame)
    return png(sdr(frame), film.shown_size(frame, steps), steps)
