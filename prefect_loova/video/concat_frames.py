"""Decodes a video into frames of a constant rate, at one size (PyAV)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil

from av import AudioFrame, VideoFrame

from prefect_loova.video.decoder import DecodeError, VideoReader, pts_of
from prefect_loova.video.images import Canvas
from prefect_loova.video.tone_mapping import sdr


class SteadyFrames:
    """The frames of a video at a constant rate. Iterate once; one frame is in memory.

    Iteration ends with the last decoded frame, which may be due for longer: repeat `last` up to `exact_seconds`.

    Args:
        video: The video.
        canvas: Draws its frames.
        fps: Frames a second.
        on_sound: Called with each piece of its decoded sound.

    Attributes:
        last: The frame that is shown last, after the iteration.
        exact_seconds: The length of the video, after the iteration.
    """

    def __init__(
        self,
        video: VideoReader,
        canvas: Canvas,
        fps: Fraction,
        on_sound: Callable[[AudioFrame], None] | None,
    ) -> None:
        self._video = video
        self._canvas = canvas
        self._fps = fps
        self._on_sound = on_sound
        self.last: VideoFrame
        self.exact_seconds = Fraction(0)

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames.

        Raises:
            DecodeError: The video is damaged or cut short, or the time is up.
        """
        video, sound, fps = self._video, self._video.sound(), self._fps
        # Bounds the output for a video whose last frame comes far later than its duration says.
        count, most = 0, ceil(video.seconds * fps) + 1
        current: VideoFrame | None = None
        end = video.start
        for packet in video.container.demux(*([video.track, sound] if sound else [video.track])):
            video.time_limit.check()
            if packet.stream is video.track:
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame)  # noqa: S101
                    video.check_frame(frame)
                    due = (pts_of(frame) - video.start) * video.tick
                    while current is not None and count < most and (count + Fraction(1, 2)) / fps < due:
                        yield current
                        count += 1
                    end = pts_of(frame) + (frame.duration or 0)
                    current = self._canvas.draw(sdr(frame))
            elif self._on_sound:
                for piece in packet.decode():
                    assert isinstance(piece, AudioFrame)  # noqa: S101
                    self._on_sound(piece)
        video.check_index()
        video.check_end(end)
        if current is None:
            raise DecodeError("it has no picture")
        self.last, self.exact_seconds = current, video.exact_seconds(end)
