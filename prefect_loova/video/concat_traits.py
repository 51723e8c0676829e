"""The traits of a video that decide how it can be joined to others."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av import AudioStream

from prefect_loova.video.decoder import DecodeError, VideoReader
from prefect_loova.video.images import RotationFilters, rotation_filters

_MIN_FPS, _MAX_FPS = Fraction(10), Fraction(120)
_USUAL_FPS = Fraction(24)


@dataclass(frozen=True)
class Traits:
    """The traits of one video.

    Attributes:
        size: Width and height in a player, in pixels.
        rotation: The filters that turn its frames upright.
        tick: The length of a tick of the video track, in seconds.
        fps: Frames a second, from 10 to 120.
        picture: Everything that must be equal for its frames to follow another video's in one track.
        sound: The same for its sound; None without sound.
        sound_rate: Samples a second; 0 without sound.
        channels: The channels of its sound; 0 without sound.
    """

    size: tuple[int, int]
    rotation: RotationFilters
    tick: Fraction
    fps: Fraction
    picture: tuple[object, ...]
    sound: tuple[object, ...] | None
    sound_rate: int
    channels: int


def traits_of(video: VideoReader) -> Traits:
    """Return the traits of a video. Decodes its first frame.

    Raises:
        DecodeError: It has no frame, or is out of the bounds.
    """
    sound = video.sound()
    frame = next(iter(video.container.decode(video.track)), None)
    if frame is None:
        raise DecodeError("it has no picture")
    video.check_frame(frame)
    rotation = rotation_filters(frame)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    decoder = video.track.codec_context
    picture = (
        decoder.name,
        decoder.extradata,
        (decoder.width, decoder.height),
        (frame.width, frame.height),
        frame.format.name,
        video.track.sample_aspect_ratio or Fraction(1),
        b"" if matrix is None else bytes(matrix),
        (decoder.color_range, decoder.color_primaries, decoder.color_trc, decoder.colorspace),
    )
    fps = video.track.guessed_rate or video.track.average_rate or _USUAL_FPS
    return Traits(
        video.display_size(frame, rotation),
        rotation,
        video.tick,
        min(max(fps, _MIN_FPS), _MAX_FPS).limit_denominator(1001),
        picture,
        _sound_traits(sound) if sound else None,
        sound.codec_context.sample_rate if sound else 0,
        sound.codec_context.channels if sound else 0,
    )


def _sound_traits(sound: AudioStream) -> tuple[object, ...]:
    decoder = sound.codec_context
    return (decoder.name, decoder.extradata, decoder.sample_rate, decoder.layout.name, sound.time_base)
