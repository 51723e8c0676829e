"""Places decoded sound in the time of its video (PyAV)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from av import AudioFrame
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler

from prefect_loova.video.concat_output import Layout
from prefect_loova.video.decoder import DecodeError

_SILENCE_SAMPLES = 4096
_JITTER_SECONDS = Fraction(1, 1000)


class SoundPlacer:
    """Puts the sound of each video in its time, with silence elsewhere.

    Args:
        rate: Samples a second of the result.
        layout: The channels of the result.
        sample_format: FFmpeg's name of the sample format of the result.
        write: Takes each piece of the result, without gaps.
    """

    def __init__(
        self, rate: int, layout: Layout, sample_format: Literal["flt", "fltp"], write: Callable[[AudioFrame], None]
    ) -> None:
        self._rate, self._layout, self._sample_format = rate, layout, sample_format
        self._write_piece = write
        self._written = 0
        self._offset = self._limit = Fraction(0)
        self._resampler = self._new_resampler()

    def begin(self, offset: Fraction, limit: Fraction) -> None:
        """Start the next video: add `offset` to its timestamps, and cut its sound at `limit`, in seconds."""
        self._offset, self._limit = offset, limit
        self._resampler = self._new_resampler()

    def add(self, sound: AudioFrame) -> None:
        """Write decoded sound. Parts before or after its video are cut."""
        for piece in self._resampler.resample(sound):
            self._place(piece)

    def end(self, seconds: Fraction) -> None:
        """Write silence up to the end of the video's picture."""
        for piece in self._resampler.resample(None):
            self._place(piece)
        self._write_silence(round(seconds * self._rate))

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler(self._sample_format, self._layout, self._rate)

    def _place(self, piece: AudioFrame) -> None:
        if piece.pts is None or piece.time_base is None:
            raise DecodeError("its sound has no timestamp")
        begin = round((piece.pts * piece.time_base + self._offset) * self._rate)
        if abs(begin - self._written) <= _JITTER_SECONDS * self._rate:
            begin = self._written
        limit = round(self._limit * self._rate)
        self._write_silence(min(begin, limit))
        early = max(0, self._written - begin)
        left = min(piece.samples - early, limit - self._written)
        if left <= 0:
            return
        if early or left < piece.samples:
            fifo = AudioFifo()
            piece.pts = None
            fifo.write(piece)
            if early:
                fifo.read(early)
            cut = fifo.read(left)
            assert cut is not None  # noqa: S101
            piece = cut
        self._write(piece)

    def _write_silence(self, until: int) -> None:
        while self._written < until:
            frame = AudioFrame(self._sample_format, self._layout, min(_SILENCE_SAMPLES, until - self._written))
            frame.sample_rate = self._rate
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            self._write(frame)

    def _write(self, frame: AudioFrame) -> None:
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._written += frame.samples
        self._write_piece(frame)
