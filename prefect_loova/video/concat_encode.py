"""Films of any make joined by encoding all of them once, as the first one is shaped (PyAV)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Self

from av import AudioFrame, AudioStream, VideoFrame, VideoStream
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.video.reformatter import Colorspace

from prefect_loova.video.concat_output import close, new_mp4, write
from prefect_loova.video.concat_traits import Traits
from prefect_loova.video.decoder import DecodeError, VideoReader, pts_of
from prefect_loova.video.images import Canvas, canvas_matrix
from prefect_loova.video.tone_mapping import sdr

# The number of threads changes the bytes, so it is not that of the machine's processors.
_PICTURE_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "2", "flags": "+bitexact"}
_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_USUAL_RATE = 48_000
_BITS_A_CHANNEL = 96_000
_SILENCE = 4096
_JITTER = Fraction(1, 1000)
_TAGS = {Colorspace.ITU709: (1, 1, 1), Colorspace.ITU601: (6, 6, 6)}  # matrix, primaries, transfer, as H.264 has them


class EncodeJoin:
    """A film in the making; `add` one after the other, inside a `with`.

    Args:
        path: Where to write.
        traits: Of all films. The first one gives the size and the frame rate.

    Attributes:
        seconds: How long it is by now.
        size: Width and height in pixels.
        has_sound: Whether any film has sound.
    """

    def __init__(self, path: Path, traits: Sequence[Traits]) -> None:
        width, height = traits[0].shown
        self.size = width + width % 2, height + height % 2
        self.has_sound = any(one.sound for one in traits)
        output = new_mp4(path)
        self._output = output
        self._rate = traits[0].rate
        self._pictures = self._picture_track()
        self._sound = _Sound(output, [one for one in traits if one.sound]) if self.has_sound else None
        self._frames = 0
        self._lasts = Fraction(0)

    @property
    def seconds(self) -> Fraction:
        """How long it is by now."""
        return self._frames / self._rate

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error else nullcontext():
            try:
                if not error:
                    write(self._output, self._pictures.encode(None))
                    if self._sound:
                        self._sound.finish()
            finally:
                close(self._output)

    def add(self, film: VideoReader, traits: Traits) -> None:
        """Encode a film behind those before it.

        Raises:
            FilmError: It is damaged or cut short, or the time is up.
        """
        track = film.sound()
        begin, first = self.seconds, self._frames
        # What says less than it has is not shown for ever.
        most = first + ceil(film.seconds * self._rate) + 1
        canvas = Canvas(self.size, traits.shown, traits.steps)
        if self._sound:
            self._sound.begin(begin - film.start * film.tick, begin + film.seconds)
        shown: VideoFrame | None = None
        end = film.start
        for packet in film.container.demux(*([film.track, track] if track else [film.track])):
            film.deadline.check()
            if packet.stream is film.track:
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame)  # noqa: S101
                    film.check(frame)
                    due = (pts_of(frame) - film.start) * film.tick
                    while shown is not None and self._frames < most and self._middle(first) < due:
                        self._show(shown)
                    end = pts_of(frame) + (frame.duration or 0)
                    shown = canvas.drawn(sdr(frame))
            elif self._sound:
                for sound in packet.decode():
                    assert isinstance(sound, AudioFrame)  # noqa: S101
                    self._sound.add(sound)
        film.check_index()
        film.check_end(end)
        if shown is None:
            raise DecodeError("there is no picture in it")
        self._lasts += film.lasts(end)
        while self._frames < max(round(self._lasts * self._rate), first + 1):
            film.deadline.check()
            self._show(shown)
        if self._sound:
            self._sound.end(self.seconds)

    def _picture_track(self) -> VideoStream:
        stream = self._output.add_stream("libx264", rate=self._rate, options=_PICTURE_OPTIONS)
        assert isinstance(stream, VideoStream)  # noqa: S101
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        encoder = stream.codec_context
        encoder.colorspace, encoder.color_primaries, encoder.color_trc = _TAGS[canvas_matrix(self.size)]
        encoder.color_range = 1
        return stream

    def _middle(self, first: int) -> Fraction:
        """Of the time for which the next frame is shown, in seconds from the beginning of its film."""
        return (self._frames - first + Fraction(1, 2)) / self._rate

    def _show(self, frame: VideoFrame) -> None:
        frame.pts, frame.time_base = self._frames, 1 / self._rate
        frame.pict_type = 0  # else the encoder takes over which frames were keyframes
        write(self._output, self._pictures.encode(frame))
        self._frames += 1


class _Sound:
    """The track of sound: each film's own in its time, silence where there is none."""

    def __init__(self, output: OutputContainer, traits: Sequence[Traits]) -> None:
        self._output = output
        self._rate = traits[0].sound_rate if traits[0].sound_rate in _RATES else _USUAL_RATE
        self._layout = "mono" if all(one.channels == 1 for one in traits) else "stereo"
        stream = output.add_stream("aac", rate=self._rate, options={"flags": "+bitexact"})
        assert isinstance(stream, AudioStream)  # noqa: S101
        stream.codec_context.layout = self._layout
        stream.codec_context.format = "fltp"
        stream.codec_context.bit_rate = _BITS_A_CHANNEL * (1 if self._layout == "mono" else 2)
        self._stream = stream
        self._written = 0
        self._offset = self._limit = Fraction(0)
        self._resampler = self._new_resampler()

    def begin(self, offset: Fraction, limit: Fraction) -> None:
        """Turn to the next film.

        Args:
            offset: What to add to its times, in seconds.
            limit: When its picture ends, in seconds of the whole.
        """
        self._offset, self._limit = offset, limit
        self._resampler = self._new_resampler()

    def add(self, sound: AudioFrame) -> None:
        """Write decoded sound in its time; what comes before or after its film is cut."""
        for piece in self._resampler.resample(sound):
            self._place(piece)

    def end(self, seconds: Fraction) -> None:
        """Fill up to the end of the film's picture with silence."""
        for piece in self._resampler.resample(None):
            self._place(piece)
        self._silence(round(seconds * self._rate))

    def finish(self) -> None:
        """Write what the encoder still has."""
        write(self._output, self._stream.encode(None))

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler("fltp", self._layout, self._rate)

    def _place(self, piece: AudioFrame) -> None:
        if piece.pts is None or piece.time_base is None:
            raise DecodeError("its sound has no time")
        begin = round((piece.pts * piece.time_base + self._offset) * self._rate)
        if abs(begin - self._written) <= _JITTER * self._rate:
            begin = self._written
        limit = round(self._limit * self._rate)
        self._silence(min(begin, limit))
        early = max(0, self._written - begin)
        left = min(piece.samples - early, limit - self._written)
        if left <= 0:
            return
        if early or left < piece.samples:
            store = AudioFifo()
            piece.pts = None
            store.write(piece)
            if early:
                store.read(early)
            cut = store.read(left)
            assert cut is not None  # noqa: S101
            piece = cut
        self._write(piece)

    def _silence(self, until: int) -> None:
        while self._written < until:
            frame = AudioFrame("fltp", self._layout, min(_SILENCE, until - self._written))
            frame.sample_rate = self._rate
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            self._write(frame)

    def _write(self, frame: AudioFrame) -> None:
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._written += frame.samples
        write(self._output, self._stream.encode(frame))
