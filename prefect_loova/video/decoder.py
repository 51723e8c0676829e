"""Opens an mp4 from outside for decoding (PyAV). Size, duration and pixels are bounded.

It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

from av import AudioCodecContext, AudioStream, VideoFrame, VideoStream
from av.container import InputContainer
from av.container import open as av_open
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from prefect_loova.errors import redact
from prefect_loova.video.images import RotationFilters, swaps_axes

VideoFile = BinaryIO | io.RawIOBase
"""A seekable file."""

MAX_SECONDS = 3600.0
"""The longest video, in seconds."""

MAX_BYTES = 2 * 1024**3
"""The largest file, in bytes."""

MAX_PIXELS = 4096 * 2304
"""The most pixels of a frame, as coded and as displayed."""

MAX_SIDE = 8192
"""The longest side of a frame, as coded and as displayed, in pixels."""

MAX_IMAGE_PIXELS = 6000 * 6000
"""The most pixels of an image that is decoded. Of a larger image only the first bytes are checked."""

CODECS = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mpeg4"})
AUDIO_DEMUXERS = {
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/mp4": "mp4",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/aac": "aac",
}
"""FFmpeg's demuxer of each type of audio."""

AUDIO_CODECS = frozenset(
    {"mp3", "mp3float", "adpcm_ms", "adpcm_ima_wav", "adpcm_g726", "gsm_ms", "aac", "ac3", "flac"}
    | {"opus", "vorbis", "alac"}
)
"""The codecs of audio that are decoded, besides PCM."""

_SOUND_CODECS = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "flac", "alac", "pcm_s16le", "pcm_s16be"})
_THREADS = 2
_WHOLE = Fraction(53, 54)  # the frames of a whole video cover more than this part of its duration
_ROUNDING = Fraction(2, 1000)


class DecodeError(Exception):
    """A video cannot be used. The caller raises its own error, which adds what for."""


class TimeLimit:
    """A point in time on the monotonic clock.

    Args:
        seconds: How long from now.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Check that the time is not up.

        Raises:
            DecodeError: It is.
        """
        if time.monotonic() >= self._end:
            raise DecodeError(f"it took longer than {self._seconds:g} s")


class VideoReader:
    """The video track of an open mp4, within the bounds. Times are in ticks of the track.

    Attributes:
        container: The container.
        track: The video track.
        time_limit: When to stop.
        tick: The length of a tick, in seconds.
        start: When the first frame is shown, in ticks.
        duration: How long frames are shown, in ticks, by the file's own account.
        seconds: The same, in seconds.

    Raises:
        DecodeError: The video is out of the bounds.
    """

    def __init__(self, container: InputContainer, size_bytes: int, time_limit: TimeLimit) -> None:
        self.container = container
        self.time_limit = time_limit
        self._size_bytes = size_bytes
        track = container.streams.best("video")
        if not isinstance(track, VideoStream):
            raise DecodeError("it has no picture")
        self.track = track
        decoder = track.codec_context
        if decoder is None or decoder.name not in CODECS:
            raise DecodeError(unsupported_codec("video", decoder))
        _check_size(decoder.width, decoder.height)
        # The decoder needs the limit too, as the size may change between frames.
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        decoder.thread_type, decoder.thread_count = "AUTO", _THREADS
        if not track.time_base:
            raise DecodeError("its video track has no time base")
        self.tick: Fraction = track.time_base
        self.start = track.start_time or 0
        self.duration = track.duration or self._measure_duration()
        self.seconds = self.duration * self.tick
        if not 0 < self.seconds <= MAX_SECONDS:
            raise DecodeError(f"its duration is {float(self.seconds):,.0f} s; at most {MAX_SECONDS:,.0f} s are allowed")

    def check_frame(self, frame: VideoFrame) -> None:
        """Check a decoded frame, and the time.

        Raises:
            DecodeError: The frame is damaged or too large, or the time is up.
        """
        self.time_limit.check()
        _check_size(frame.width, frame.height)
        if frame.is_corrupt:
            raise DecodeError("a frame is damaged")

    def sound(self) -> AudioStream | None:
        """Return the audio track that a player plays, if any.

        Raises:
            DecodeError: The track is out of the bounds.
        """
        track = self.container.streams.best("audio")
        if not isinstance(track, AudioStream):
            return None
        decoder = track.codec_context
        if decoder is None or decoder.name not in _SOUND_CODECS:
            raise DecodeError(unsupported_codec("audio", decoder))
        rate, channels = decoder.sample_rate, decoder.channels
        if not track.time_base or not 4000 <= rate <= 192_000 or not 1 <= channels <= 16:
            raise DecodeError(f"its audio has {channels:,} channels with {rate:,} samples a second")
        return track

    def exact_seconds(self, last_end: int) -> Fraction:
        """Return the duration in seconds, without the rounding of a file that uses the clock of another track.

        Args:
            last_end: When the last frame ends, in ticks.
        """
        measured = (last_end - self.start) * self.tick
        return measured if abs(measured - self.seconds) <= _ROUNDING else self.seconds

    def check_index(self) -> None:
        """Check that all frames in the index are inside the file.

        A fragmented file adds to its index while it is read, so check it again at the end.

        Raises:
            DecodeError: The file is cut short.
        """
        if is_index_truncated(self.track, self._size_bytes):
            raise DecodeError("it is cut short")

    def check_end(self, end: int) -> None:
        """Check that the frames cover the duration of the file.

        Args:
            end: When the last frame ends, in ticks.

        Raises:
            DecodeError: The file is cut short.
        """
        if end - self.start < self.duration * _WHOLE:
            raise self.truncated_error(end)

    def truncated_error(self, end: int) -> DecodeError:
        """Return the error for a video whose last frame ends too early, at this tick."""
        seconds = float((end - self.start) * self.tick)
        return DecodeError(f"it ends after {seconds:.1f} of {float(self.seconds):.1f} s: it is cut short")

    def display_size(self, frame: VideoFrame, rotation: RotationFilters) -> tuple[int, int]:
        """Return width and height of a frame in a player: upright, with square pixels."""
        aspect = self.track.sample_aspect_ratio or Fraction(1)
        size = max(1, round(frame.width * aspect)), frame.height
        _check_size(*size)
        return (size[1], size[0]) if swaps_axes(rotation) else size

    def _measure_duration(self) -> int:
        """Return the duration of a fragmented mp4 without one: reads all packets, and decodes none."""
        end = self.start
        for packet in self.container.demux(self.track):
            self.time_limit.check()
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
        self.container.seek(self.start, stream=self.track)
        return end - self.start


@contextmanager
def open_video(video: VideoFile, time_limit: TimeLimit) -> Iterator[VideoReader]:
    """Open a video. Errors of FFmpeg inside the block become a `DecodeError`.

    Args:
        video: A seekable mp4.
        time_limit: When to stop.

    Raises:
        DecodeError: It is not an mp4, is out of the bounds, or cannot be decoded.
    """
    size = video.seek(0, io.SEEK_END)
    if not size:
        raise DecodeError("the file is empty")
    if size > MAX_BYTES:
        raise DecodeError(f"it has {size:,} bytes; at most {MAX_BYTES:,} are allowed")
    try:
        container = open_container(video, "mp4")
    except (FFmpegError, ValueError) as error:
        raise DecodeError(f"it is not an mp4, or its index is missing ({reason_of(error)})") from None
    try:
        with container:
            yield VideoReader(container, size, time_limit)
    except (FFmpegError, ValueError, OverflowError) as error:
        raise DecodeError(f"it cannot be decoded ({reason_of(error)})") from None


def open_container(file: VideoFile, demuxer: str) -> InputContainer:
    """Open a file with this demuxer only. Other demuxers, such as those of playlists, open more files."""
    file.seek(0)
    container = av_open(file, format=demuxer, metadata_errors="replace")
    assert isinstance(container, InputContainer)  # noqa: S101
    return container


def pts_of(frame: VideoFrame) -> int:
    """Return when a frame is shown, in ticks.

    Raises:
        DecodeError: The frame has no timestamp.
    """
    if frame.pts is None:
        raise DecodeError("a frame has no timestamp")
    return frame.pts


def is_index_truncated(track: VideoStream, size_bytes: int) -> bool:
    """Return whether the index lists frames beyond the end of the file."""
    return any(entry.pos + entry.size > size_bytes for entry in track.index_entries)


def is_too_large(width: int, height: int) -> bool:
    """Return whether a picture of this size is over the bounds."""
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE


def unsupported_codec(kind: str, decoder: VideoCodecContext | AudioCodecContext | None) -> str:
    """Return the message for a codec that is not decoded here."""
    return f"its {kind} codec ({redact(decoder.name, 40) if decoder else 'unknown to FFmpeg'}) is not supported here"


def reason_of(error: Exception) -> str:
    """Return the text of an error of FFmpeg or PyAV, redacted and in one line."""
    return redact(error.strerror if isinstance(error, FFmpegError) else error, 200)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError("its picture has no size")
    if is_too_large(width, height):
        raise DecodeError(f"its picture is {width:,} x {height:,} pixels, which is too large")
