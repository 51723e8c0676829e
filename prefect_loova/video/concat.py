"""Several mp4 films joined into one: by copying where they are of one make, else by encoding all of them once (PyAV).

Copied films keep every picture as it was. Films of different sizes, codecs or parameter sets cannot follow each other
in one track, so they are all encoded as the first one is shaped. Either way a film begins when the picture of the one
before it ends; sound that is longer or shorter than its picture is cut, or followed by a gap.

The result grows in a file on disk, not in memory. It takes one thread or two and blocks; call it with
`asyncio.to_thread`.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prefect_loova.errors import UnusableVideoError
from prefect_loova.video.concat_copy import CannotCopyError, CopyJoin
from prefect_loova.video.concat_encode import EncodeJoin
from prefect_loova.video.concat_traits import Traits, traits_of
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoReader, open_video

_CHUNK = 1024**2


@dataclass(frozen=True)
class JoinedVideo:
    """What films were joined into.

    Attributes:
        duration_seconds: The length of the picture.
        width: As it is shown, upright and with square pixels.
        height: As it is shown.
        has_sound: Whether there is a track of sound.
        is_copy: Whether the films were copied; else they were encoded anew.
    """

    duration_seconds: float
    width: int
    height: int
    has_sound: bool
    is_copy: bool


def join_videos(videos: Sequence[BinaryIO | io.RawIOBase], out: BinaryIO, *, max_seconds: float = 600.0) -> JoinedVideo:
    """Join films, in order, into one mp4 with its index in front. The same films give the same bytes.

    Films are copied where all of them are H.264 or all HEVC, with the same parameter sets, shape and turn, and all
    with AAC of one kind or all without sound. Else all are encoded: H.264 of the size and frame rate of the first,
    other shapes between black bars; AAC, with silence where a film has no sound.

    Args:
        videos: Each an mp4 that can be read and sought.
        out: Where to write. Nothing is written before the whole result is there.
        max_seconds: The most seconds that this may take.

    Raises:
        UnusableVideoError: One of them is no whole video or larger than the bounds of `film`, or all of it takes too
            long. The message names the film, counted from 1.
        StorageError: As a video raises it, where it is an `s3_file.S3File`.
    """
    if not videos:
        raise UnusableVideoError("the films cannot be joined: there are none")
    deadline = TimeLimit(max_seconds)
    traits = []
    for number in range(len(videos)):
        with _numbered(videos, number, deadline) as film:
            film.check_index()
            traits.append(traits_of(film))
    with tempfile.TemporaryDirectory(prefix="loova-join-") as folder:
        path = Path(folder) / "joined.mp4"
        joined = _copied(videos, path, traits, deadline) or _encoded(videos, path, traits, deadline)
        with path.open("rb") as file:
            shutil.copyfileobj(file, out, _CHUNK)
    return joined


def _copied(
    videos: Sequence[BinaryIO | io.RawIOBase], path: Path, traits: Sequence[Traits], deadline: TimeLimit
) -> JoinedVideo | None:
    """None where one of the films turns out not to be for copying."""
    first = traits[0]
    if any((one.picture, one.sound) != (first.picture, first.sound) for one in traits):
        return None
    try:
        with _numbered(videos, 0, deadline) as film:
            join = CopyJoin(path, film, traits)
        with join:
            for number in range(len(videos)):
                with _numbered(videos, number, deadline) as film:
                    join.add(film)
    except CannotCopyError:
        return None
    return JoinedVideo(float(join.seconds), *first.shown, has_sound=first.sound is not None, is_copy=True)


def _encoded(
    videos: Sequence[BinaryIO | io.RawIOBase], path: Path, traits: Sequence[Traits], deadline: TimeLimit
) -> JoinedVideo:
    join = EncodeJoin(path, traits)
    with join:
        for number, one in enumerate(traits):
            with _numbered(videos, number, deadline) as film:
                join.add(film, one)
    return JoinedVideo(float(join.seconds), *join.size, has_sound=join.has_sound, is_copy=False)


@contextmanager
def _numbered(videos: Sequence[BinaryIO | io.RawIOBase], number: int, deadline: TimeLimit) -> Iterator[VideoReader]:
    try:
        with open_video(videos[number], deadline) as film:
            yield film
    except DecodeError as error:
        raise UnusableVideoError(f"the films cannot be joined: film {number + 1}: {error}") from None
