"""Joins any videos by encoding all of them once, in the size and frame rate of the first one (PyAV)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from av import AudioStream, VideoFrame

from prefect_loova.video.concat_frames import SteadyFrames
from prefect_loova.video.concat_output import SAMPLE_RATES, USUAL_SAMPLE_RATE, Layout, Mp4Writer
from prefect_loova.video.concat_sound import SoundPlacer
from prefect_loova.video.concat_traits import Traits
from prefect_loova.video.decoder import VideoReader
from prefect_loova.video.images import Canvas


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
        self._pictures = output.add_h264(self.size, self._fps)
        self._sound_track: AudioStream | None = None
        self._sound = self._add_sound([one for one in traits if one.sound]) if self.has_sound else None
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
        begin, first = self.seconds, self._frame_count
        if self._sound:
            self._sound.begin(begin - video.start * video.tick, begin + video.seconds)
        canvas = Canvas(self.size, traits.size, traits.rotation)
        frames = SteadyFrames(video, canvas, self._fps, self._sound.add if self._sound else None)
        for frame in frames:
            self._write_frame(frame)
        self._exact_seconds += frames.exact_seconds
        while self._frame_count < max(round(self._exact_seconds * self._fps), first + 1):
            video.time_limit.check()
            self._write_frame(frames.last)
        if self._sound:
            self._sound.end(self.seconds)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        self._output.write(self._pictures.encode(None))
        if self._sound_track:
            self._output.write(self._sound_track.encode(None))

    def _add_sound(self, traits: Sequence[Traits]) -> SoundPlacer:
        rate = traits[0].sound_rate if traits[0].sound_rate in SAMPLE_RATES else USUAL_SAMPLE_RATE
        layout: Layout = "mono" if all(one.channels == 1 for one in traits) else "stereo"
        track = self._sound_track = self._output.add_aac(rate, layout)
        return SoundPlacer(rate, layout, "fltp", lambda frame: self._output.write(track.encode(frame)))

    def _write_frame(self, frame: VideoFrame) -> None:
        frame.pts, frame.time_base = self._frame_count, 1 / self._fps
        frame.pict_type = 0  # else the encoder makes keyframes where the input has them
        self._output.write(self._pictures.encode(frame))
        self._frame_count += 1
