"""Measures a video for quality gates, in one pass over the file (PyAV).

Pictures are sampled 8 times a second, so times are exact to 1/8 s. Of each sample, a grid of at most 160 points a side
is compared: the luma of single pixels, from 0 (black) to 255 (white), without averaging, which would remove noise.

- A sample is *black* if its mean is at most 6 and no point is above 40. A night scene with a lamp is not black.
- A picture is *frozen* while its mean difference to the first sample of the still is at most 0.1. At a keyframe the
  encoder draws the same picture anew: there a difference of at most 3 counts as none, if the sample before did not
  change.
- Sound is *silent* where no sample of 0.1 s is louder than -60 dBFS.

The video comes from outside, so what is read, decoded and kept is bounded, as in `decoder`. The same video gives the
same values. It blocks: call it with `asyncio.to_thread`.
"""

from __future__ import annotations

from array import array
from fractions import Fraction
from operator import sub

from av import AudioFrame, VideoFrame
from av.audio.resampler import AudioResampler
from av.error import BlockingIOError, EOFError
from av.filter import Graph
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from prefect_loova.errors import UnusableVideoError
from prefect_loova.models.gates import VideoFacts
from prefect_loova.video.decoder import DecodeError, TimeLimit, VideoFile, VideoReader, open_video, pts_of
from prefect_loova.video.images import RotationFilters, colour_properties, fit, jpeg, rotation_filters, scale
from prefect_loova.video.tone_mapping import sdr

SAMPLES_A_SECOND = 8
BLACK_MEAN, BLACK_PEAK = 6.0, 40
STILL, STILL_AT_KEYFRAME = 0.1, 3.0
SILENT_PEAK = 33  # of 32,768: -60 dBFS
POSTER_SIDE = 512
POSTER_BYTES = 24 * 1024
"""The largest poster, in bytes. Prefect's server takes at most 512 KiB of parameters."""

_GRID_SIDE = 160
_SOUND_RATE = 48_000
_TOO_QUIET = -70.0  # what EBU R 128 says of silence
_POSTER_TRIES = [(side, quantizer) for side in (POSTER_SIDE, 320, 160) for quantizer in (4, 8, 16, 31)]


def measure(video: VideoFile, *, max_seconds: float = 60.0) -> tuple[VideoFacts, tuple[bytes, ...]]:
    """Measure a video, and return its first, middle and last frame as JPEGs.

    Args:
        video: A seekable mp4.
        max_seconds: The most seconds that this may take.

    Raises:
        UnusableVideoError: The video is damaged or over the bounds of `decoder`, or this takes too long.
        StorageError: A video that is a `store.reader.S3File` raised it.
    """
    try:
        with open_video(video, TimeLimit(max_seconds)) as reader:
            return _measure(reader)
    except DecodeError as error:
        raise UnusableVideoError(f"the video cannot be measured: {error}") from None


def _measure(reader: VideoReader) -> tuple[VideoFacts, tuple[bytes, ...]]:
    pictures, track = _Pictures(reader), reader.sound()
    sound = _Sound() if track else None
    decoder = reader.track.codec_context
    decoder.skip_frame = "NONREF"  # no other frame depends on these
    for packet in reader.container.demux(*(one for one in (reader.track, track) if one)):
        reader.time_limit.check()
        for frame in packet.decode():
            if isinstance(frame, VideoFrame):
                reader.check_frame(frame)
                pictures.add(frame)
            elif isinstance(frame, AudioFrame) and sound:
                sound.add(frame)
    pictures.end()
    heard, loudness = sound.end() if sound else (0.0, None)
    seconds = float(reader.seconds)
    facts = VideoFacts(
        duration_seconds=round(seconds, 3),
        width=pictures.size[0],
        height=pictures.size[1],
        fps=round(float(reader.track.average_rate or 0), 3),
        has_sound=sound is not None,
        black_seconds=round(pictures.black * reader.tick, 3),
        frozen_seconds=round(pictures.frozen * reader.tick, 3),
        silent_seconds=round(max(0.0, seconds - heard), 3),
        loudness=loudness,
    )
    return facts, tuple(pictures.posters)


class _Pictures:
    """What the frames of a video show. Times are in ticks.

    Attributes:
        size: Width and height in a player.
        black: How long it is black.
        frozen: The longest time without a change.
        posters: The first, the middle and the last frame.
    """

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self._reformatter = VideoReformatter()
        self._step = Fraction(1, SAMPLES_A_SECOND) / reader.tick
        self._due = Fraction(reader.start)
        self._middle = reader.start + reader.duration // 2
        self._end = reader.start + reader.duration
        self._rotation: RotationFilters = ()
        self._last: VideoFrame | None = None
        self._still: bytes | None = None  # the sample that the next ones are compared with
        self._still_since = self._sampled_at = reader.start
        self._is_black = self._is_still = self._has_keyframe = False
        self.size = (0, 0)
        self.black = self.frozen = 0
        self.posters: list[bytes] = []

    def add(self, frame: VideoFrame) -> None:
        """Take the next decoded frame."""
        if self._last is None:
            # Only once: reading the side data of a frame keeps it until the garbage collector runs.
            self._rotation = rotation_filters(frame)
            self.size = self._reader.display_size(frame, self._rotation)
            self.posters.append(self._poster(frame))
        elif len(self.posters) == 1 and pts_of(frame) > self._middle:
            self.posters.append(self._poster(self._last))
        self._last = frame
        self._has_keyframe |= frame.key_frame
        if pts_of(frame) >= self._due:
            while self._due <= pts_of(frame):
                self._due += self._step
            self._sample(frame)

    def end(self) -> None:
        """Take the end of the video.

        Raises:
            DecodeError: It has no picture.
        """
        if self._last is None:
            raise DecodeError("it has no picture")
        end = max(self._end, pts_of(self._last))
        self.black += (end - self._sampled_at) * self._is_black
        self.frozen = max(self.frozen, end - self._still_since)
        while len(self.posters) < 3:
            self.posters.append(self._poster(self._last))

    def _sample(self, frame: VideoFrame) -> None:
        now, points = pts_of(frame), self._points(frame)
        self.black += (now - self._sampled_at) * self._is_black
        self._is_black = max(points) <= BLACK_PEAK and sum(points) <= BLACK_MEAN * len(points)
        most = STILL_AT_KEYFRAME if self._has_keyframe and self._is_still else STILL
        is_same = self._still is not None and _difference(points, self._still) <= most * len(points)
        if not is_same:
            self.frozen = max(self.frozen, now - self._still_since)
            self._still_since = now
        if not is_same or self._has_keyframe:
            self._still = points
        self._is_still = is_same and not self._has_keyframe
        self._sampled_at, self._has_keyframe = now, False

    def _points(self, frame: VideoFrame) -> bytes:
        matrix, colour_range = colour_properties(frame)
        width, height = fit(frame.width, frame.height, _GRID_SIDE)
        grid = self._reformatter.reformat(
            frame,
            width,
            height,
            "gray",
            src_colorspace=matrix,
            src_color_range=colour_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.POINT,
            threads=1,
        ).planes[0]
        rows, line = memoryview(grid), grid.line_size
        return b"".join(rows[row * line : row * line + width] for row in range(height))

    def _poster(self, frame: VideoFrame) -> bytes:
        picture = sdr(frame)
        for side, quantizer in _POSTER_TRIES:
            poster = jpeg(scale(picture, fit(*self.size, side), self._rotation), quantizer)
            if len(poster) <= POSTER_BYTES:
                return poster
        raise DecodeError(f"no poster fits {POSTER_BYTES:,} bytes")


def _difference(points: bytes, others: bytes) -> int:
    """Return the sum of the absolute differences. A picture of another size differs in every point."""
    return sum(map(abs, map(sub, points, others))) if len(points) == len(others) else 255 * len(points)


class _Sound:
    """How long and how loud the audio of a video is heard."""

    def __init__(self) -> None:
        self._resampler = AudioResampler("s16", "stereo", _SOUND_RATE, frame_size=_SOUND_RATE // 10)
        self._graph = Graph()
        self._graph.threads = 1
        tick = Fraction(1, _SOUND_RATE)
        self._graph.link_nodes(
            self._graph.add_abuffer(sample_rate=_SOUND_RATE, format="s16", layout="stereo", time_base=tick),
            self._graph.add("ebur128", "metadata=1:framelog=quiet"),
            self._graph.add("abuffersink"),
        ).configure()
        self._samples = self._heard = 0
        self._loudness = _TOO_QUIET

    def add(self, frame: AudioFrame | None) -> None:
        """Take the next decoded frame; None at the end."""
        for block in self._resampler.resample(frame):
            samples = array("h", bytes(block.planes[0])[: 4 * block.samples])
            if max(samples) >= SILENT_PEAK or min(samples) <= -SILENT_PEAK:
                self._heard += block.samples
            block.pts, block.time_base = self._samples, Fraction(1, _SOUND_RATE)
            self._samples += block.samples
            self._graph.push(block)
            self._read()

    def end(self) -> tuple[float, float | None]:
        """Return for how many seconds it was heard, and the integrated loudness in LUFS."""
        self.add(None)
        self._graph.push(None)
        self._read()
        return self._heard / _SOUND_RATE, round(self._loudness, 1) if self._loudness > _TOO_QUIET else None

    def _read(self) -> None:
        while True:
            try:
                measured = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            self._loudness = float(measured.metadata.get("lavfi.r128.I", self._loudness))
