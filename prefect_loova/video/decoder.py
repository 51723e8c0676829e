"""An mp4 from elsewhere, opened for decoding within bounds: what is read, decoded and kept is limited (PyAV).

It blocks: call what uses it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

from av import AudioStream, VideoFrame, VideoStream
from av.container import InputContainer
from av.container import open as av_open
from av.error import FFmpegError

from prefect_loova.errors import redact
from prefect_loova.video.images import Steps, swaps_axes

MAX_SECONDS = 3600.0
"""The longest video, in seconds."""

MAX_BYTES = 2 * 1024**3
"""The largest file, in bytes."""

MAX_PIXELS = 4096 * 2304
"""The most pixels of a frame, as coded and as shown."""

MAX_SIDE = 8192
"""The longest side of a frame, as coded and as shown, in pixels."""

CODECS = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mpeg4"})
_SOUND_CODECS = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "flac", "alac", "pcm_s16le", "pcm_s16be"})
_THREADS = 2
_CUT_SHORT = Fraction(53, 54)  # a whole film shows frames for longer than this part of the time that it says
_ROUNDING = Fraction(2, 1000)


class DecodeError(Exception):
    """Why a film cannot be used. Who opened it makes an error of its own of it, which says what for."""


class TimeLimit:
    """A moment on the clock of this process, from now.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Go on.

        Raises:
            FilmError: The time is up.
        """
        if time.monotonic() >= self._end:
            raise DecodeError(f"it took longer than {self._seconds:g} s")


class VideoReader:
    """The picture track of an opened mp4, within the bounds. Times are in ticks of the track.

    Attributes:
        container: What it was opened from.
        track: The picture track.
        tick: The length of a tick, in seconds.
        start: When the first frame is shown, in ticks.
        duration: How long frames are shown, in ticks, as the file says it.
        seconds: The same, in seconds.

    Raises:
        FilmError: It is out of the bounds.
    """

    def __init__(self, container: InputContainer, size_bytes: int, deadline: TimeLimit) -> None:
        self.container = container
        self.deadline = deadline
        self._size_bytes = size_bytes
        track = container.streams.best("video")
        if not isinstance(track, VideoStream):
            raise DecodeError("there is no picture in it")
        self.track = track
        decoder = track.codec_context
        if decoder is None or decoder.name not in CODECS:
            codec = redact(decoder.name, 40) if decoder else "in a format unknown to FFmpeg"
            raise DecodeError(f"its pictures are {codec}, which is not decoded here")
        _check_size(decoder.width, decoder.height)
        # Again for the decoder, as the size may change on the way.
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        decoder.thread_type, decoder.thread_count = "AUTO", _THREADS
        if not track.time_base:
            raise DecodeError("it has no clock")
        self.tick: Fraction = track.time_base
        self.start = track.start_time or 0
        self.duration = track.duration or self._measured()
        self.seconds = self.duration * self.tick
        if not 0 < self.seconds <= MAX_SECONDS:
            raise DecodeError(f"it says that it lasts {float(self.seconds):,.0f} s; {MAX_SECONDS:,.0f} s are the most")

    def check(self, frame: VideoFrame) -> None:
        """Go on with a decoded frame.

        Raises:
            FilmError: It is damaged or too large, or the time is up.
        """
        self.deadline.check()
        _check_size(frame.width, frame.height)
        if frame.is_corrupt:
            raise DecodeError("a frame in it is damaged")

    def sound(self) -> AudioStream | None:
        """The track that a player plays; None where there is none.

        Raises:
            FilmError: It is out of the bounds.
        """
        track = self.container.streams.best("audio")
        if not isinstance(track, AudioStream):
            return None
        decoder = track.codec_context
        if decoder is None or decoder.name not in _SOUND_CODECS:
            codec = redact(decoder.name, 40) if decoder else "in a format unknown to FFmpeg"
            raise DecodeError(f"its sound is {codec}, which is not decoded here")
        rate, channels = decoder.sample_rate, decoder.channels
        if not track.time_base or not 4000 <= rate <= 192_000 or not 1 <= channels <= 16:
            raise DecodeError(f"its sound has {rate:,} samples a second of {channels:,} channels")
        return track

    def lasts(self, last_end: int) -> Fraction:
        """How long it shows frames, in seconds; exact where the file has it rounded to the clock of another track.

        Args:
            last_end: When the last frame ends, in ticks.
        """
        measured = (last_end - self.start) * self.tick
        return measured if abs(measured - self.seconds) <= _ROUNDING else self.seconds

    def check_index(self) -> None:
        """Look whether the frames that the index knows by now lie within the file.

        Raises:
            FilmError: It is cut short.
        """
        if any(entry.pos + entry.size > self._size_bytes for entry in self.track.index_entries):
            raise DecodeError("it is cut short")

    def check_end(self, end: int) -> None:
        """Look whether the frames last as long as the file says.

        Args:
            end: When the last frame ends, in ticks.

        Raises:
            FilmError: It is cut short.
        """
        if end - self.start < self.duration * _CUT_SHORT:
            raise self.cut_short(end)

    def cut_short(self, end: int) -> DecodeError:
        """What to raise where the frames end at this tick, and more were promised."""
        shown_seconds = float((end - self.start) * self.tick)
        return DecodeError(f"it ends after {shown_seconds:.1f} of {float(self.seconds):.1f} s: it is cut short")

    def shown_size(self, frame: VideoFrame, steps: Steps) -> tuple[int, int]:
        """Width and height as a player shows a frame: turned upright, with square pixels."""
        wide = self.track.sample_aspect_ratio or Fraction(1)
        size = max(1, round(frame.width * wide)), frame.height
        _check_size(*size)
        return (size[1], size[0]) if swaps_axes(steps) else size

    def _measured(self) -> int:
        """The duration of a fragmented mp4 that does not say it: all packets are read, none is decoded."""
        end = self.start
        for packet in self.container.demux(self.track):
            self.deadline.check()
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
        self.container.seek(self.start, stream=self.track)
        return end - self.start


@contextmanager
def open_video(video: BinaryIO | io.RawIOBase, deadline: TimeLimit) -> Iterator[VideoReader]:
    """Open a film. What FFmpeg raises inside the block becomes a `DecodeError`.

    Args:
        video: An mp4 that can be read and sought.
        deadline: When to stop.

    Raises:
        FilmError: It is no mp4, it is out of the bounds, or it cannot be decoded.
    """
    size = video.seek(0, io.SEEK_END)
    video.seek(0)
    if not size:
        raise DecodeError("the file is empty")
    if size > MAX_BYTES:
        raise DecodeError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        # Only the mp4 demuxer: others, such as playlists, open further files.
        container = av_open(video, format="mp4", metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise DecodeError(f"it is no mp4, or its index is missing ({_reason(error)})") from None
    assert isinstance(container, InputContainer)  # noqa: S101
    try:
        with container:
            yield VideoReader(container, size, deadline)
    except (FFmpegError, ValueError, OverflowError) as error:
        raise DecodeError(f"it cannot be decoded ({_reason(error)})") from None


def pts_of(frame: VideoFrame) -> int:
    """When a frame is shown, in ticks.

    Raises:
        FilmError: It does not say it.
    """
    if frame.pts is None:
        raise DecodeError("a frame in it has no time")
    return frame.pts


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError("its picture has no size")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DecodeError(f"its picture is {width:,} x {height:,} pixels, which is too large")


def _reason(error: Exception) -> str:
    return redact(error.strerror if isinstance(error, FFmpegError) else error, 200)
