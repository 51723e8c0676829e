"""The sound of a film: shots that fade into each other, a sound track under them, and one loudness (PyAV).

It is mixed in a file on disk, as stereo floats at 48 kHz, because its loudness is known only at its end. Two floats a
sample make 384 kB for each second of the film.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import cos, isfinite, pi, sin
from operator import add
from typing import BinaryIO

from av import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import BlockingIOError, EOFError, InvalidDataError
from av.filter import Graph

from prefect_loova.video.concat_output import USUAL_SAMPLE_RATE, Layout
from prefect_loova.video.decoder import (
    AUDIO_CODECS,
    AUDIO_DEMUXERS,
    DecodeError,
    TimeLimit,
    VideoFile,
    open_container,
    unsupported_codec,
)

RATE = USUAL_SAMPLE_RATE
"""Samples a second."""

FADE_OUT_SECONDS = 2.0
"""How long a sound track fades out at the end of the film, in seconds; at most half of the film."""

_CHANNELS = 2
_SAMPLE_BYTES = 4 * _CHANNELS
_CHUNK_SAMPLES = RATE // 10
_PEAK = "limit=0.84:attack=5:release=50:level=disabled:latency=1"  # -1.5 dB: encoding AAC adds some
_SILENT = -69.0  # LUFS; the gate of EBU R 128 is at -70
_CLOSE_ENOUGH = 0.2  # LU
_MAX_GAIN_STEPS = 5


class SoundMix:
    """The sound of a film, on disk.

    Args:
        file: An empty file, to read and write.
        samples: The length of the film, in samples.
        time_limit: When to stop.
    """

    def __init__(self, file: BinaryIO, samples: int, time_limit: TimeLimit) -> None:
        self.samples = samples
        self.time_limit = time_limit
        self._file = file
        file.truncate(samples * _SAMPLE_BYTES)

    def add(self, at: int, sound: array[float]) -> None:
        """Add interleaved floats to the sound from this sample on. What is beyond the end of the film is cut."""
        sound = sound[: max(0, self.samples - at) * _CHANNELS]
        self._file.seek(at * _SAMPLE_BYTES)
        before = array("f", self._file.read(len(sound) * 4))
        self._file.seek(at * _SAMPLE_BYTES)
        self._file.write(array("f", map(add, before, sound)).tobytes())

    def add_track(self, file: VideoFile, media_type: str, volume: float) -> None:
        """Add a sound track under the whole film. It is repeated if it is shorter, and fades out at the end.

        Args:
            file: The audio file, seekable.
            media_type: Its media type.
            volume: The factor of its amplitude.

        Raises:
            DecodeError: It cannot be decoded, or the time is up.
        """
        at, fade = 0, round(min(FADE_OUT_SECONDS * RATE, self.samples / 2))
        while at < self.samples:
            begin = at
            for piece in _decoded(file, media_type):
                self.time_limit.check()
                length = len(piece) // _CHANNELS
                sound = array("f", [volume * value for value in piece])
                _ramp(sound, at, self.samples - fade, self.samples, lambda part: 1 - part)
                self.add(at, sound)
                at += length
                if at >= self.samples:
                    break
            if at == begin:
                raise DecodeError("it has no sound")

    def gain_to(self, loudness: float) -> float:
        """Return the gain in dB that brings the film to this loudness in LUFS; 0 for a silent film.

        Peaks are limited, which takes some loudness away, so the result is measured and corrected.
        """
        measured = self._loudness(0.0)
        if measured <= _SILENT:
            return 0.0
        gain = loudness - measured
        for _ in range(_MAX_GAIN_STEPS):
            missing = loudness - self._loudness(gain)
            if abs(missing) <= _CLOSE_ENOUGH:
                break
            gain += missing
        return gain

    def read(self, gain: float) -> Iterator[AudioFrame]:
        """Yield the sound as planar floats, after a gain in dB and the limit of peaks."""
        graph = _chain(("volume", f"{gain:.3f}dB"), ("alimiter", _PEAK), ("aformat", "sample_fmts=fltp"))
        yield from self._through(graph)

    def _loudness(self, gain: float) -> float:
        graph = _chain(("volume", f"{gain:.3f}dB"), ("alimiter", _PEAK), ("ebur128", "metadata=1"))
        loudness = float("-inf")
        for frame in self._through(graph):
            loudness = float(frame.metadata.get("lavfi.r128.I", loudness))
        return loudness if isfinite(loudness) else -100.0

    def _through(self, graph: Graph) -> Iterator[AudioFrame]:
        self._file.seek(0)
        for at in range(0, self.samples, _CHUNK_SAMPLES):
            self.time_limit.check()
            content = self._file.read(min(_CHUNK_SAMPLES, self.samples - at) * _SAMPLE_BYTES)
            frame = AudioFrame("flt", "stereo", len(content) // _SAMPLE_BYTES)
            frame.planes[0].update(content.ljust(frame.planes[0].buffer_size, b"\0"))
            frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
            graph.push(frame)
            yield from _pulled(graph)
        graph.push(None)
        yield from _pulled(graph)


class ShotSound:
    """Adds the sound of one shot to the mix, and fades it where it overlaps its neighbours.

    The curves of a fade keep the power of two different sounds.

    Args:
        mix: The sound of the film.
        at: Where the shot begins in the film, in samples.
        samples: Its length.
        fade_in: The samples that overlap the shot before.
        fade_out: The samples that overlap the next shot.
    """

    def __init__(self, mix: SoundMix, at: int, samples: int, fade_in: int, fade_out: int) -> None:
        self._mix, self._next = mix, at
        self._fade_in, self._fade_out = (at, at + fade_in), (at + samples - fade_out, at + samples)

    def write(self, frame: AudioFrame) -> None:
        """Add the next piece, in packed floats."""
        sound = _packed(frame)
        _ramp(sound, self._next, *self._fade_in, lambda part: sin(part * pi / 2))
        _ramp(sound, self._next, *self._fade_out, lambda part: cos(part * pi / 2))
        self._mix.add(self._next, sound)
        self._next += frame.samples


def _ramp(sound: array[float], at: int, begin: int, end: int, curve: Callable[[float], float]) -> None:
    """Scale what lies between two samples of the film by a curve over 0 to 1.

    Args:
        sound: Interleaved floats.
        at: The sample of the film at which they begin.
        begin: The first sample to scale.
        end: The sample after the last one.
        curve: The factor at each part of the way.
    """
    for sample in range(max(at, begin), min(at + len(sound) // _CHANNELS, end)):
        factor = curve((sample - begin) / (end - begin))
        for place in range((sample - at) * _CHANNELS, (sample - at + 1) * _CHANNELS):
            sound[place] *= factor


def layout_of(channels: int) -> Layout:
    """Return the channels to resample to. FFmpeg would make one channel quieter in two."""
    return "mono" if channels == 1 else "stereo"


def _packed(frame: AudioFrame) -> array[float]:
    """Return the interleaved stereo floats of a frame of packed floats."""
    sound = array("f", bytes(frame.planes[0])[: 4 * frame.samples * frame.layout.nb_channels])
    if frame.layout.nb_channels == _CHANNELS:
        return sound
    both = array("f", bytes(frame.samples * _SAMPLE_BYTES))
    both[::2] = both[1::2] = sound
    return both


def _decoded(file: VideoFile, media_type: str) -> Iterator[array[float]]:
    """Yield the sound of an audio file as interleaved floats. Damaged packets are left out, as in a player."""
    with open_container(file, AUDIO_DEMUXERS[media_type]) as container:
        track = next(iter(container.streams.audio), None)
        decoder = track.codec_context if track else None
        if track is None or decoder is None or not (decoder.name in AUDIO_CODECS or decoder.name.startswith("pcm_")):
            raise DecodeError(unsupported_codec("audio", decoder))
        resampler = AudioResampler("flt", layout_of(decoder.channels), RATE)
        for packet in container.demux(track):
            try:
                frames = packet.decode()
            except InvalidDataError:
                continue
            for frame in frames:
                yield from map(_packed, resampler.resample(frame))
        yield from map(_packed, resampler.resample(None))


def _chain(*filters: tuple[str, str]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(sample_rate=RATE, format="flt", layout="stereo", time_base=Fraction(1, RATE))
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("abuffersink"))
    graph.configure()
    return graph


def _pulled(graph: Graph) -> Iterator[AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, AudioFrame)  # noqa: S101
        yield frame
