"""How the shots of a story become a film: transitions, cards, sound track and loudness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from prefect_loova.errors import redact
from prefect_loova.models.media import Kind, MediaError, Medium, redact_media

FILM_MEDIA: dict[str, Kind] = {"title_card": "image", "end_card": "image", "sound_track": "audio"}
"""The options that are media, and the kind of each."""

_MEDIUM_RULE = "must be a local file or an s3:// URI: nothing is loaded from the web, and no frame is taken of a video"
_RULES = {
    "transition": "must be cut or cross-fade",
    "transition_seconds": "must be a number from 0.1 to 3",
    "sound_track": _MEDIUM_RULE,
    "sound_track_volume": "must be a number from 0 to 1",
    "title_card": _MEDIUM_RULE,
    "end_card": _MEDIUM_RULE,
    "card_seconds": "must be a number from 1 to 15",
    "loudness": "must be a number from -30 to -10, in LUFS",
}
_VERSION = "film options 1"

OptionsT = TypeVar("OptionsT", bound="Transition")


def _in_reach(text: str) -> str:
    medium = Medium.parse(text)
    if medium.source == "web" or medium.frame:
        raise MediaError(_MEDIUM_RULE)
    return text


FilmMedium = Annotated[str, AfterValidator(_in_reach)]
"""A medium of a film, as text. It is decoded here, so it is no URL."""


class Transition(BaseModel):
    """How a shot or a card begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    transition: Literal["cut", "cross-fade"] = "cut"
    """How it begins."""
    transition_seconds: float = Field(1.0, ge=0.1, le=3, allow_inf_nan=False)
    """How long a cross-fade lasts, in seconds."""

    @property
    def fade(self) -> float:
        """The seconds of the cross-fade; 0 for a cut."""
        return self.transition_seconds if self.transition == "cross-fade" else 0.0


class FilmOptions(Transition):
    """The options of a film. Without any, its shots are joined as they are."""

    sound_track: FilmMedium | None = None
    """An audio file that is mixed under the sound of the shots."""
    sound_track_volume: float = Field(0.5, ge=0, le=1, allow_inf_nan=False)
    """The factor of the sound track's amplitude."""
    title_card: FilmMedium | None = None
    """An image that is shown before the first shot."""
    end_card: FilmMedium | None = None
    """An image that is shown after the last shot."""
    card_seconds: float = Field(3.0, ge=1, le=15, allow_inf_nan=False)
    """How long each card is shown, in seconds."""
    loudness: float | None = Field(None, ge=-30, le=-10, allow_inf_nan=False)
    """The loudness of the whole film, in LUFS (EBU R 128)."""
    fades: tuple[float, ...] = ()
    """The seconds of the cross-fade with which each shot begins, 0 for a cut. A storyboard writes it per shot."""

    @property
    def end_fade(self) -> float:
        """The seconds of the cross-fade with which the end card begins."""
        return self.fade if self.end_card else 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the film is its shots, one after the other, without anything else."""
        media = (self.sound_track, self.title_card, self.end_card)
        return not any(media) and self.loudness is None and not any(self.fades)

    @property
    def identity(self) -> str:
        """The options that decide the film, and the content of its media, which must be pinned; empty if it is plain.

        Options without an effect are left out.
        """
        if self.is_plain:
            return ""
        given = self.model_dump(exclude={"transition", "transition_seconds", "fades"})
        for name in FILM_MEDIA:
            given[name] = Medium.parse(given[name]).identity if given[name] else None
        given["card_seconds"] *= bool(self.title_card or self.end_card)
        given["sound_track_volume"] *= bool(self.sound_track)
        given["fades"] = [*self.fades, self.end_fade]
        return f"{_VERSION} {json.dumps(given, sort_keys=True, separators=(',', ':'))}"


TRANSITION_FIELDS = tuple(Transition.model_fields)
"""The options that a shot may have too."""

FILM_FIELDS = tuple(name for name in FilmOptions.model_fields if name != "fades")
"""The options that a storyboard may have."""


def read_options(given: Mapping[str, Any], kind: type[OptionsT], problems: list[str]) -> OptionsT:
    """Return the options among some fields. Add the invalid ones to `problems`, and leave them out.

    Args:
        given: The fields of a storyboard or a shot. Those that are null are not given.
        kind: `FilmOptions` or `Transition`.
        problems: The list of problems.
    """
    fields = {name: given[name] for name in kind.model_fields if name in _RULES and given.get(name) is not None}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        invalid = {str(problem["loc"][0]) for problem in error.errors(include_url=False)}
    for name in sorted(invalid):
        value = fields[name]
        shown = redact_media(value) if name in FILM_MEDIA and isinstance(value, str) else value
        problems.append(f"{name}: {redact(repr(shown), 120)} was given: {_RULES[name]}")
    return kind.model_validate({name: value for name, value in fields.items() if name not in invalid})


def fade_problems(options: FilmOptions, shot_seconds: Sequence[float | None]) -> list[str]:
    """Return which cross-fades do not fit into a shot or card. A shot of unknown length is not checked.

    Args:
        options: The options, with the fades of all shots.
        shot_seconds: The length of each shot in seconds, if it is known.
    """
    problems = []
    begins = list(options.fades) or [0.0] * len(shot_seconds)
    for number, (begin, end, seconds) in enumerate(
        zip(begins, [*begins[1:], options.end_fade], shot_seconds, strict=True), 1
    ):
        if seconds is not None and begin + end > seconds:
            problems.append(
                f"shot {number}: transition_seconds: {begin:g} s at its begin and {end:g} s at its end do not fit into "
                f"its {seconds:g} s"
            )
    for name, fade in (("title_card", begins[0] if options.title_card else 0.0), ("end_card", options.end_fade)):
        if fade > options.card_seconds:
            problems.append(
                f"card_seconds: {options.card_seconds:g} was given: {name} has a cross-fade of {fade:g} s, which does "
                "not fit into it"
            )
    return problems
