"""Joins any videos by encoding all of them once, in the size and frame rate of the first one (PyAV)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

from av import AudioFrame, AudioStream, VideoFrame, VideoStream
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.video.reformatter import Colorspace

from prefect_loova.video.concat_output import Mp4Writer
from prefect_loova.video.concat_traits import Traits
from prefect_loova.video.decoder import DecodeError, VideoReader, pts_of
from prefect_loova.video.images import Canvas, canvas_matrix
from prefect_loova.video.tone_mapping import sdr

# The number of threads changes the bytes, so it must not depend on the machine.
_PICTURE_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "2", "flags": "+bitexact"}
_SAMPLE_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_USUAL_SAMPLE_RATE = 48_000
_BITS_PER_CHANNEL = 96_000
_SILENCE_SAMPLES = 4096
_JITTER_SECONDS = Fraction(1, 1000)
_TAGS = {Colorspace.ITU709: (1, 1, 1), Colorspace.ITU601: (6, 6, 6)}  # H.264's matrix, primaries and transfer


class EncodeConcat:
    """Appends videos to an output by encoding. Call `finish` at the end.

    Args:
        output: The output.
        traits: The traits of all videos. The first one decides the size and the frame rate.

    Attributes:
        size: Width and height in pixels.
        has_sound: Whether any video has sound.
    """

    def __init__(self, output: Mp4Writer, traits: Sequence[Traits]) -> None:
        width, height = traits[0].size
        self.size = width + width % 2, height + height % 2
        self.has_sound = any(one.sound for one in traits)
        self._output = output
        self._fps = traits[0].fps
        self._pictures = self._add_picture_track()
        self._sound = _SoundTrack(output, [one for one in traits if one.sound]) if self.has_sound else None
        self._frame_count = 0
        self._exact_seconds = Fraction(0)

    @property
    def seconds(self) -> Fraction:
        """Return the length of the output so far."""
        return self._frame_count / self._fps

    def add(self, video: VideoReader, traits: Traits) -> None:
        """Encode a video at the end of the output.

        Raises:
            DecodeError: The video is damaged or cut short, or the time is up.
        """
        sound = video.sound()
        begin, first = self.seconds, self._frame_count
        # Bounds the output for a video whose last frame comes far later than its duration says.
        max_frames = first + ceil(video.seconds * self._fps) + 1
        canvas = Canvas(self.size, traits.size, traits.rotation)
        if self._sound:
            self._sound.begin(begin - video.start * video.tick, begin + video.seconds)
        current: VideoFrame | None = None
        end = video.start
        for packet in video.container.demux(*([video.track, sound] if sound else [video.track])):
            video.time_limit.check()
            if packet.stream is video.track:
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame)  # noqa: S101
                    video.check_frame(frame)
                    due = (pts_of(frame) - video.start) * video.tick
                    while current is not None and self._frame_count < max_frames and self._next_middle(first) < due:
                        self._write_frame(current)
                    end = pts_of(frame) + (frame.duration or 0)
                    current = canvas.draw(sdr(frame))
            elif self._sound:
                for piece in packet.decode():
                    assert isinstance(piece, AudioFrame)  # noqa: S101
                    self._sound.add(piece)
        video.check_index()
        video.check_end(end)
        if current is None:
            raise DecodeError("it has no picture")
        self._exact_seconds += video.exact_seconds(end)
        while self._frame_count < max(round(self._exact_seconds * self._fps), first + 1):
            video.time_limit.check()
            self._write_frame(current)
        if self._sound:
            self._sound.end(self.seconds)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        self._output.write(self._pictures.encode(None))
        if self._sound:
            self._sound.finish()

    def _add_picture_track(self) -> VideoStream:
        stream = self._output.container.add_stream("libx264", rate=self._fps, options=_PICTURE_OPTIONS)
        assert isinstance(stream, VideoStream)  # noqa: S101
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        encoder = stream.codec_context
        encoder.colorspace, encoder.color_primaries, encoder.color_trc = _TAGS[canvas_matrix(self.size)]
        encoder.color_range = 1
        return stream

    def _next_middle(self, first: int) -> Fraction:
        """Return the middle of the next output frame's time, in seconds from the start of the current video."""
        return (self._frame_count - first + Fraction(1, 2)) / self._fps

    def _write_frame(self, frame: VideoFrame) -> None:
        frame.pts, frame.time_base = self._frame_count, 1 / self._fps
        frame.pict_type = 0  # else the encoder makes keyframes where the input has them
        self._output.write(self._pictures.encode(frame))
        self._frame_count += 1


class _SoundTrack:
    """The audio track: the sound of each video in its time, and silence elsewhere."""

    def __init__(self, output: Mp4Writer, traits: Sequence[Traits]) -> None:
        self._output = output
        self._rate = traits[0].sound_rate if traits[0].sound_rate in _SAMPLE_RATES else _USUAL_SAMPLE_RATE
        self._layout = "mono" if all(one.channels == 1 for one in traits) else "stereo"
        stream = output.container.add_stream("aac", rate=self._rate, options={"flags": "+bitexact"})
        assert isinstance(stream, AudioStream)  # noqa: S101
        stream.codec_context.layout = self._layout
        stream.codec_context.format = "fltp"
        stream.codec_context.bit_rate = _BITS_PER_CHANNEL * (1 if self._layout == "mono" else 2)
        self._stream = stream
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

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._output.write(self._stream.encode(None))

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler("fltp", self._layout, self._rate)

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
            frame = AudioFrame("fltp", self._layout, min(_SILENCE_SAMPLES, until - self._written))
            frame.sample_rate = self._rate
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            self._write(frame)

    def _write(self, frame: AudioFrame) -> None:
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._written += frame.samples
        self._output.write(self._stream.encode(frame))
