"""Extracts the first or the last frame of a video as a PNG, and compares the frames at a seam (PyAV).

What is read and decoded is bounded, as in `decoder`. It uses one thread and blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

from operator import sub
from typing import Literal

from av import VideoFrame
from av.error import FFmpegError

from prefect_loova.errors import UnusableVideoError
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoFile, VideoReader, open_video, pts_of
from prefect_loova.video.images import fit, png, rgb, rotation_filters
from prefect_loova.video.pictures import first_picture
from prefect_loova.video.tone_mapping import sdr

_COMPARED_SIDE = 320


def frame_of(video: VideoFile, which: Literal["first", "last"], *, max_seconds: float = 60.0) -> bytes:
    """Return the first or the last frame of a video. The same video gives the same bytes.

    Args:
        video: A seekable mp4.
        which: The frame. For the last one, the frames after the last keyframe are decoded.
        max_seconds: The most seconds that this may take.

    Returns:
        A PNG in RGB, upright, with square pixels, at full size.

    Raises:
        UnusableVideoError: The video is incomplete or over the bounds of `decoder`, or this takes too long.
        StorageError: A video that is a `store.reader.S3File` raised it.
    """
    time_limit = TimeLimit(max_seconds)
    try:
        if which == "first":
            with open_video(video, time_limit) as reader:
                reader.check_index()
                for frame in reader.container.decode(reader.track):
                    reader.check_frame(frame)
                    return _to_png(reader, frame)
                raise DecodeError("it has no picture")
        content = _from_last_keyframe(video, time_limit)
        if content is None:
            with open_video(video, time_limit) as reader:
                content = _to_png(reader, _last_frame(reader))
        return content
    except DecodeError as error:
        raise UnusableVideoError(f"no frame can be taken from the video: {error}") from None


def seam_distance(before: VideoFile, after: VideoFile, *, max_seconds: float = 60.0) -> float:
    """Return how far the last frame of a video is from the first frame of the one that follows it.

    Args:
        before: The earlier video, a seekable mp4.
        after: The later video.
        max_seconds: The most seconds that each frame may take.

    Returns:
        The mean absolute difference over all pixels and the channels of sRGB: 0 for equal frames, 1 for black against
        white. Both frames are first scaled to at most 320 pixels a side, in the shape of the earlier one.

    Raises:
        UnusableVideoError: A frame cannot be read; see `frame_of`.
        StorageError: A video that is a `store.reader.S3File` raised it.
    """
    last = _picture(frame_of(before, "last", max_seconds=max_seconds))
    first = _picture(frame_of(after, "first", max_seconds=max_seconds))
    size = fit(last.width, last.height, _COMPARED_SIDE)
    one, other = rgb(last, size), rgb(first, size)
    differences: int = sum(map(abs, map(sub, one, other)))
    return differences / (255 * len(one))


def _picture(content: bytes) -> VideoFrame:
    picture = first_picture(content, "image/png")
    assert picture is not None  # noqa: S101  (encoded just now)
    return picture.frame


def _from_last_keyframe(video: VideoFile, time_limit: TimeLimit) -> bytes | None:
    """Return the last frame, or None if all frames must be decoded to find it."""
    with open_video(video, time_limit) as reader:
        reader.check_index()
        try:
            reader.container.seek(reader.start + reader.duration, stream=reader.track)
            frame = _last_frame(reader)
        except (FFmpegError, DecodeError):
            time_limit.check()
            return None
        return _to_png(reader, frame)


def _last_frame(reader: VideoReader) -> VideoFrame:
    """Decode the rest of a video. Return the frame that is shown last."""
    last: VideoFrame | None = None
    for frame in reader.container.decode(reader.track):
        reader.check_frame(frame)
        if last is None or pts_of(frame) > pts_of(last):
            last = frame
    reader.check_index()
    if last is None:
        raise DecodeError("it has no picture")
    reader.check_end(pts_of(last) + (last.duration or 0))
    return last


def _to_png(reader: VideoReader, frame: VideoFrame) -> bytes:
    rotation = rotation_filters(frame)
    return png(sdr(frame), reader.display_size(frame, rotation), rotation)
