"""What of a film decides how it can be joined to others."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av import AudioStream

from prefect_loova.video.decoder import DecodeError, VideoReader
from prefect_loova.video.images import Steps, rotation

_SLOWEST, _FASTEST = Fraction(10), Fraction(120)
_USUAL = Fraction(24)


@dataclass(frozen=True)
class Traits:
    """A film's make.

    Attributes:
        shown: Width and height as a player shows it, in pixels.
        steps: What brings its frames upright.
        tick: The length of a tick of the picture track, in seconds.
        rate: Frames a second, from 10 to 120.
        picture: All that has to be the same for its pictures to follow another film's in one track.
        sound: The same of its sound; None where it has none.
        sound_rate: Samples a second; 0 without sound.
        channels: Of the sound; 0 without sound.
    """

    shown: tuple[int, int]
    steps: Steps
    tick: Fraction
    rate: Fraction
    picture: tuple[object, ...]
    sound: tuple[object, ...] | None
    sound_rate: int
    channels: int


def traits_of(film: VideoReader) -> Traits:
    """Look at a film; its first frame is decoded.

    Raises:
        FilmError: It has none, or is out of the bounds.
    """
    sound = film.sound()
    frame = next(iter(film.container.decode(film.track)), None)
    if frame is None:
        raise DecodeError("there is no picture in it")
    film.check(frame)
    steps = rotation(frame)
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    matrix = b"" if found is None else bytes(found)
    decoder = film.track.codec_context
    picture = (
        decoder.name,
        decoder.extradata,
        (decoder.width, decoder.height),
        (frame.width, frame.height),
        frame.format.name,
        film.track.sample_aspect_ratio or Fraction(1),
        matrix,
        (decoder.color_range, decoder.color_primaries, decoder.color_trc, decoder.colorspace),
    )
    rate = film.track.guessed_rate or film.track.average_rate or _USUAL
    return Traits(
        film.shown_size(frame, steps),
        tuple(steps),
        film.tick,
        min(max(rate, _SLOWEST), _FASTEST).limit_denominator(1001),
        picture,
        _sound_traits(sound) if sound else None,
        sound.codec_context.sample_rate if sound else 0,
        sound.codec_context.channels if sound else 0,
    )


def _sound_traits(sound: AudioStream) -> tuple[object, ...]:
    decoder = sound.codec_context
    return (decoder.name, decoder.extradata, decoder.sample_rate, decoder.layout.name, sound.time_base)
