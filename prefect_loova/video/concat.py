"""Joins several mp4 videos into one (PyAV): copies them if they are alike, else encodes all of them once.

Copied videos keep every frame as it was. Videos of different sizes, codecs or parameter sets cannot share a track, so
all are encoded in the size and frame rate of the first one. Each video starts when the picture of the one before it
ends. Sound that is longer than its picture is cut; shorter sound is followed by a gap.

The result is written to a file on disk, not to memory. Joining uses up to two threads and blocks: call it with
`asyncio.to_thread`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prefect_loova.errors import UnusableVideoError
from prefect_loova.video.concat_copy import CannotCopyError, CopyConcat, copy_timescale
from prefect_loova.video.concat_encode import EncodeConcat
from prefect_loova.video.concat_output import Mp4Writer
from prefect_loova.video.concat_traits import Traits, traits_of
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoFile, VideoReader, open_video


@dataclass(frozen=True)
class JoinedVideo:
    """Facts about the joined video.

    Attributes:
        duration_seconds: The length of the picture.
        width: The width in a player: upright, with square pixels.
        height: The height in a player.
        has_sound: Whether it has an audio track.
        is_copy: Whether the videos were copied; else they were encoded again.
    """

    duration_seconds: float
    width: int
    height: int
    has_sound: bool
    is_copy: bool


def join_videos(videos: Sequence[VideoFile], out: BinaryIO, *, max_seconds: float = 600.0) -> JoinedVideo:
    """Join videos, in order, into one mp4 with its index first. The same videos give the same bytes.

    Videos are copied if all are H.264 or all HEVC, with the same parameter sets, size and rotation, and all have the
    same kind of AAC or no sound. Else all are encoded: H.264 in the size and frame rate of the first video, with black
    bars around other shapes, and AAC, with silence for a video without sound.

    Args:
        videos: Seekable mp4 files.
        out: The output. Nothing is written before the result is complete.
        max_seconds: The most seconds that joining may take.

    Returns:
        Facts about the joined video.

    Raises:
        UnusableVideoError: A video is incomplete or over the bounds of `decoder`, or joining takes too long. The
            message names the video, counted from 1.
        StorageError: A video that is a `store.reader.S3File` raised it.
    """
    if not videos:
        raise UnusableVideoError("the videos cannot be joined: there are none")
    time_limit = TimeLimit(max_seconds)
    traits = []
    for number in range(len(videos)):
        with open_numbered(videos, number, time_limit) as video:
            video.check_index()
            traits.append(traits_of(video))
    with tempfile.TemporaryDirectory(prefix="loova-join-") as folder:
        path = Path(folder) / "joined.mp4"
        joined = _copy(videos, path, traits, time_limit) or _encode(videos, path, traits, time_limit)
        with path.open("rb") as file:
            shutil.copyfileobj(file, out)
    return joined


def _copy(videos: Sequence[VideoFile], path: Path, traits: list[Traits], time_limit: TimeLimit) -> JoinedVideo | None:
    """Join by copying. Return None if the videos cannot be copied."""
    first = traits[0]
    if any((one.picture, one.sound) != (first.picture, first.sound) for one in traits):
        return None
    try:
        with Mp4Writer(path, video_track_timescale=str(copy_timescale(traits))) as output:
            with open_numbered(videos, 0, time_limit) as video:
                concat = CopyConcat(output, video, traits)
            for number in range(len(videos)):
                with open_numbered(videos, number, time_limit) as video:
                    concat.add(video)
    except CannotCopyError:
        return None
    return JoinedVideo(float(concat.seconds), *first.size, has_sound=first.sound is not None, is_copy=True)


def _encode(videos: Sequence[VideoFile], path: Path, traits: list[Traits], time_limit: TimeLimit) -> JoinedVideo:
    with Mp4Writer(path) as output:
        concat = EncodeConcat(output, traits)
        for number, one in enumerate(traits):
            with open_numbered(videos, number, time_limit) as video:
                concat.add(video, one)
        concat.finish()
    return JoinedVideo(float(concat.seconds), *concat.size, has_sound=concat.has_sound, is_copy=False)


@contextmanager
def open_numbered(videos: Sequence[VideoFile], number: int, time_limit: TimeLimit) -> Iterator[VideoReader]:
    """Open one of several videos. Errors in the block name its number, counted from 1.

    Raises:
        UnusableVideoError: The video cannot be used.
    """
    try:
        with open_video(videos[number], time_limit) as video:
            yield video
    except DecodeError as error:
        raise UnusableVideoError(f"the videos cannot be joined: video {number + 1}: {error}") from None
