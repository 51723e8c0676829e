"""Pictures of a video for people: a poster, a contact sheet, a thumbnail and a short moving preview (PyAV).

The video's time is cut into 27 equal parts, and the frame shown in the middle of each is a *sample*. All of them, 9 a
second, are the moving preview; each third one is in the contact sheet of 3 by 3; the one in the sheet's middle, which
is the middle of the video, is the poster and the thumbnail. A frame that is sampled twice is taken once.

What is read, decoded and kept is bounded, as the file comes from elsewhere: see the constants. It all takes one thread
and blocks; call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import BinaryIO, Literal

from av import VideoFrame, VideoStream
from av.container import InputContainer
from av.container import open as av_open
from av.error import FFmpegError

from prefect_loova.errors import PreviewError, shown
from prefect_loova.pictures import Steps, fitted, gif, is_lying, jpeg, scaled, sheet, turns, webp

MAX_SECONDS = 3600.0
"""The longest video, in seconds."""

MAX_BYTES = 2 * 1024**3
"""The largest file, in bytes."""

MAX_PIXELS = 4096 * 2304
"""The most pixels of a frame, as coded and as shown."""

MAX_SIDE = 8192
"""The longest side of a frame, as coded and as shown, in pixels."""

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
_CODECS = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mpeg4"})
_THREADS = 2


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
        PreviewError: It is no whole video, larger than the bounds of this module, or takes too long.
        StorageError: As `video` raises it, where it is an `s3_file.S3File`.
    """
    deadline = _Deadline(max_seconds)
    size = video.seek(0, io.SEEK_END)
    video.seek(0)
    if not size:
        raise _no_preview("the file is empty")
    if size > MAX_BYTES:
        raise _no_preview(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        # Only the mp4 demuxer: others, such as playlists, open further files.
        container = av_open(video, format="mp4")
    except (FFmpegError, ValueError) as error:
        raise _no_preview(f"it is no mp4, or its index is missing ({_reason(error)})") from None
    assert isinstance(container, InputContainer)  # noqa: S101
    try:
        with container:
            return _look(_Film(container, deadline), moving_bytes, deadline)
    except (FFmpegError, ValueError, OverflowError) as error:
        raise _no_preview(f"it cannot be decoded ({_reason(error)})") from None


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() >= self._end:
            raise _no_preview(f"it took longer than {self._seconds:g} s")


class _Film:
    """The picture track of an opened mp4, within the bounds. Times are in ticks of the track."""

    def __init__(self, container: InputContainer, deadline: _Deadline) -> None:
        self._container = container
        self._deadline = deadline
        track = container.streams.best("video")
        if not isinstance(track, VideoStream):
            raise _no_preview("there is no picture in it")
        self._track = track
        decoder = track.codec_context
        if decoder is None or decoder.name not in _CODECS:
            codec = shown(decoder.name, 40) if decoder else "in a format unknown to FFmpeg"
            raise _no_preview(f"its pictures are {codec}, which is not decoded here")
        _check_size(decoder.width, decoder.height)
        # Again for the decoder, as the size may change on the way.
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        decoder.thread_type, decoder.thread_count = "AUTO", _THREADS
        if not track.time_base:
            raise _no_preview("it has no clock")
        self._tick: Fraction = track.time_base
        self._start = track.start_time or 0
        self._duration = track.duration or self._measured()
        self.seconds = self._duration * self._tick
        if not 0 < self.seconds <= MAX_SECONDS:
            raise _no_preview(f"it says that it lasts {float(self.seconds):,.0f} s; {MAX_SECONDS:,.0f} s are the most")

    def samples(self) -> Iterator[VideoFrame]:
        """The 27 samples in order; one frame several times where there are fewer."""
        times = [self._start + self._duration * (2 * part + 1) // (2 * SAMPLES) for part in range(SAMPLES)]
        rate = self._track.average_rate or Fraction(30)
        if self._track.frames <= MAX_DECODED and self.seconds * rate <= MAX_DECODED:
            return self._shown_at(times)
        return self._keyframes_before(times)

    def _shown_at(self, times: list[int]) -> Iterator[VideoFrame]:
        left = iter(times)
        due = next(left, None)
        last: VideoFrame | None = None
        # A track that says less than it has is not decoded for ever.
        for frame in islice(self._container.decode(self._track), 2 * MAX_DECODED):
            self._check(frame)
            while last is not None and due is not None and due < _pts(frame):
                yield last
                due = next(left, None)
            last = frame
            if due is None:
                return
        if last is None:
            raise _no_preview("there is no picture in it")
        end = _pts(last) + (last.duration or 0)
        while due is not None:
            if due > end:
                shown_seconds = float((end - self._start) * self._tick)
                raise _no_preview(f"it ends after {shown_seconds:.1f} of {float(self.seconds):.1f} s: it is cut short")
            yield last
            due = next(left, None)

    def _keyframes_before(self, times: list[int]) -> Iterator[VideoFrame]:
        decoder = self._track.codec_context
        known: tuple[int | None, VideoFrame] | None = None
        for moment in times:
            self._container.seek(moment, stream=self._track)
            for packet in self._container.demux(self._track):
                self._deadline.check()
                if packet.is_keyframe and packet.size:
                    break
            else:
                raise _no_preview("it is cut short")
            if known is None or known[0] != packet.pts:
                frame = next(iter([*decoder.decode(packet), *decoder.decode(None)]), None)
                if frame is None:
                    raise _no_preview("a keyframe in it is no picture")
                self._check(frame)
                known = packet.pts, frame
            yield known[1]

    def _measured(self) -> int:
        """The duration of a fragmented mp4 that does not say it: all packets are read, none is decoded."""
        end = self._start
        for packet in self._container.demux(self._track):
            self._deadline.check()
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
        self._container.seek(self._start, stream=self._track)
        return end - self._start

    def _check(self, frame: VideoFrame) -> None:
        self._deadline.check()
        _check_size(frame.width, frame.height)
        if frame.is_corrupt:
            raise _no_preview("a frame in it is damaged")

    def shown_size(self, frame: VideoFrame, steps: Steps) -> tuple[int, int]:
        """Width and height as a player shows a frame: turned upright, with square pixels."""
        wide = self._track.sample_aspect_ratio or Fraction(1)
        size = max(1, round(frame.width * wide)), frame.height
        _check_size(*size)
        return (size[1], size[0]) if is_lying(steps) else size


def _look(film: _Film, moving_bytes: int, deadline: _Deadline) -> Previews:
    cells: list[VideoFrame] = []
    in_sheet: list[VideoFrame] = []
    poster = thumbnail = b""
    width = height = 0
    taken: VideoFrame | None = None
    steps: Steps = ()
    for number, frame in enumerate(film.samples()):
        if frame is not taken:
            if not width:
                # Once: a frame that was asked for its side data is kept until the garbage is collected.
                steps = turns(frame)
                width, height = film.shown_size(frame, steps)
            cells.append(scaled(frame, fitted(width, height, CELL_SIDE), steps))
            taken = frame
        if number % 3 == 1 and not (in_sheet and in_sheet[-1] is cells[-1]):
            in_sheet.append(cells[-1])
        if number == SAMPLES // 2:
            poster = jpeg(scaled(frame, fitted(width, height, POSTER_SIDE), steps), 4)
            thumbnail = _thumbnail(frame, width, height, steps)
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
    raise _no_preview(f"no thumbnail of it fits {THUMBNAIL_BYTES:,} bytes")


def _moving(
    cells: list[VideoFrame], rate: Fraction, most: int, deadline: _Deadline
) -> tuple[bytes, Literal["image/webp", "image/gif"]]:
    """The largest and then best WebP that fits; or a GIF of that size, where it takes fewer bytes still."""
    for side, quality in _MOVING_TRIES:
        deadline.check()
        size = fitted(cells[0].width, cells[0].height, side)
        pictures = [cell if (cell.width, cell.height) == size else scaled(cell, size) for cell in cells]
        made = webp(pictures, rate, quality)
        if len(made) <= most:
            as_gif = gif(pictures, rate)
            return (as_gif, "image/gif") if len(as_gif) < len(made) else (made, "image/webp")
    raise _no_preview(f"no moving preview of it fits {most:,} bytes")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _no_preview("its picture has no size")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _no_preview(f"its picture is {width:,} x {height:,} pixels, which is too large")


def _pts(frame: VideoFrame) -> int:
    if frame.pts is None:
        raise _no_preview("a frame in it has no time")
    return frame.pts


def _reason(error: Exception) -> str:
    return shown(error.strerror if isinstance(error, FFmpegError) else error, 200)


def _no_preview(reason: str) -> PreviewError:
    return PreviewError(f"no preview can be made of this video: {reason}", credits_spent="yes")
