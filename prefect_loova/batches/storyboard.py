"""Read a storyboard: a story of several shots, some of which continue the shot before.

```yaml
title: A day at the harbour
ratio: 16:9            # a default for all shots
shots:
  - prompt: "@image1 leaves the harbour"
    duration: 5
    image_urls: [boat.png]
  - prompt: the boat meets the fog
    continue: true     # starts with the last frame of the shot before
  - prompt: the fog lifts
    continue: true
    keep: 3fa1c09b2d74 # this saved video stays, whatever the shot before becomes
```
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from prefect_loova.batches.documents import read_document, unknown_names
from prefect_loova.errors import InvalidRequestError, counted, first_lines, redact
from prefect_loova.models.film import (
    FILM_FIELDS,
    TRANSITION_FIELDS,
    FilmOptions,
    Transition,
    fade_problems,
    read_options,
)
from prefect_loova.models.media import KINDS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

MAX_SHOTS = 100
"""The most shots of a storyboard."""

_FIELDS = tuple(VideoRequest.model_fields)
_SHARED = tuple(name for name in _FIELDS if name not in ("prompt", "fallback_prompt", "take", "takes"))
_FILM_VERSION = "film 1"
"""Part of a film's identity. Change it when the same shots are joined into a different film."""

_PLACEHOLDER_FRAME = "s3://the-shot-before/video.mp4#last-frame"
_KEY = re.compile(r"[0-9a-f]{8,64}")
_KEY_RULE = "must be the key of a saved video, or its first hex digits: 8 to 64 of them, in quotes if all are decimal"


@dataclass(frozen=True)
class Shot:
    """One shot of a story.

    Attributes:
        number: Its position in the story, counted from 1.
        fields: The fields of its request, without the first frame. Those of a kept shot are only a stand-in.
        continues: Whether it starts with the last frame of the shot before.
        keep: The key of the saved video that the shot is, or the beginning of it; empty for a shot to make.
        fade: The seconds of the cross-fade with which it begins; 0 for a cut.
        row: Its position in the storyboard, if shots before it were dropped; 0 for the same as `number`.
    """

    number: int
    fields: dict[str, Any]
    continues: bool = False
    keep: str = ""
    fade: float = 0.0
    row: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """Its position in the storyboard, as reports show it."""
        return (self.row or self.number,)

    @property
    def request(self) -> VideoRequest:
        """The request. A shot that continues another one has a placeholder for its first frame.

        Raises:
            pydantic.ValidationError: The fields are invalid.
        """
        return (
            self._with_first_frame(_PLACEHOLDER_FRAME)
            if self.depends_on_shot_before
            else VideoRequest.model_validate(self.fields)
        )

    @property
    def depends_on_shot_before(self) -> bool:
        """Whether the shot cannot be made without the shot before."""
        return self.continues and not self.keep

    @property
    def own_media(self) -> VideoRequest:
        """The request with the shot's own media only, to check before the earlier shot is made."""
        images = self.fields.get("image_urls", ())
        return self.request.model_copy(update={"image_urls": tuple(map(str, images))})

    def with_media(self, prepared: VideoRequest) -> Shot:
        """Return the shot with its own media prepared."""
        return replace(self, fields=self.fields | {name: list(getattr(prepared, name)) for name in KINDS})

    def after(self, before: SavedVideo) -> VideoRequest:
        """Return the request of a shot that continues `before`."""
        return self._with_first_frame(before.last_frame)

    def _with_first_frame(self, frame: str) -> VideoRequest:
        images = self.fields.get("image_urls", [])
        if not isinstance(images, list | tuple):
            return VideoRequest.model_validate(self.fields)  # raises
        others = self.fields.get("video_urls") or self.fields.get("audio_urls")
        mode = "omni_reference" if others or len(images) > 1 else "first_last_frames"
        return VideoRequest.model_validate({"function_mode": mode} | self.fields | {"image_urls": [frame, *images]})


@dataclass(frozen=True)
class Storyboard:
    """A story.

    Attributes:
        title: Its title.
        shots: Its shots, in order.
        film: How they become a film.
    """

    title: str
    shots: tuple[Shot, ...] = field(default=())
    film: FilmOptions = field(default_factory=FilmOptions)

    def chains(self) -> Iterator[list[Shot]]:
        """Yield each list of shots that continue each other. Chains do not depend on each other.

        A kept shot begins a chain, because it stays whatever the shot before is.
        """
        chain: list[Shot] = []
        for shot in self.shots:
            if chain and not shot.depends_on_shot_before:
                yield chain
                chain = []
            chain.append(shot)
        if chain:
            yield chain


def film_id(videos: list[SavedVideo], options: FilmOptions | None = None) -> str:
    """Return the identity of a film of these shots, as 64 hex digits.

    Args:
        videos: The shots, in order.
        options: The options of the film, with pinned media.
    """
    parts = [_FILM_VERSION, *(video.sha256 for video in videos), options.identity if options else ""]
    return hashlib.sha256("\n".join(filter(None, parts)).encode()).hexdigest()


def read_storyboard(content: bytes, name: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> Storyboard:
    """Read a storyboard.

    Args:
        content: The file, in UTF-8.
        name: Its name. The ending decides the format: `.yaml`, `.yml` or `.json`.
        defaults: Fields of all shots that the file does not set, or sets to null.

    Raises:
        InvalidRequestError: The file has problems; the error lists all of them, by shot and field.
    """
    source = f"storyboard: {redact(name, 200)}"
    parsed = read_document(content, name, source)
    given: dict[str, Any] = {"shots": parsed} if isinstance(parsed, list) else parsed
    if not isinstance(given, dict) or not isinstance(given.get("shots"), list) or not given["shots"]:
        raise InvalidRequestError(f"{source} must have a list of shots, each with a prompt")
    if len(given["shots"]) > MAX_SHOTS:
        raise InvalidRequestError(f"{source} has {len(given['shots'])} shots; the limit is {MAX_SHOTS}")
    problems = unknown_names(given, ("title", "shots", *FILM_FIELDS, *_SHARED))
    film = read_options(given, FilmOptions, problems)
    if not isinstance(given.get("title", ""), str):
        problems.append("title: must be text")
    shared = {key: value for key, value in given.items() if key in _SHARED}
    shots = []
    for number, item in enumerate(given["shots"], 1):
        shot, shot_problems = _read_shot(number, item, shared, defaults, film)
        shots.append(shot)
        problems += [f"shot {number}: {problem}" for problem in shot_problems]
    film = film.model_copy(update={"fades": tuple(shot.fade for shot in shots)})
    if not problems:
        problems = fade_problems(film, [None if shot.keep else float(shot.request.duration) for shot in shots])
    if problems:
        head = f"{source} has {counted(len(problems), 'problem')}; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    title = given.get("title") or name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return Storyboard(title, tuple(shots), film)


def _read_shot(
    number: int, given: Any, shared: dict[str, Any], defaults: Mapping[str, Any], film: FilmOptions
) -> tuple[Shot, list[str]]:
    if not isinstance(given, dict):
        return Shot(number, {}), [f"{redact(repr(given), 80)} was given: must be the fields of a shot, such as prompt"]
    fields = {**shared, **given}
    continues, keep = fields.pop("continue", False), fields.pop("keep", None)
    problems = unknown_names(given, ("continue", "keep", *TRANSITION_FIELDS, *_FIELDS))
    fade = _read_fade(number, given, film, problems)
    if not isinstance(continues, bool):
        problems.append(f"continue: {redact(repr(continues), 80)} was given: must be true or false")
    elif continues and number == 1:
        problems.append("continue: there is no shot before the first one")
    if keep is not None:
        key = keep.strip().lower() if isinstance(keep, str) else ""
        if not _KEY.fullmatch(key):
            problems.append(f"keep: {redact(repr(keep), 80)} was given: {_KEY_RULE}")
        return Shot(number, {"prompt": f"keep {key}"}, continues is True, key, fade), problems
    shot = Shot(
        number,
        {**defaults, **{str(key): value for key, value in fields.items() if key in _FIELDS and value is not None}},
        continues is True,
        fade=fade,
    )
    try:
        _ = shot.request
    except ValidationError as error:
        problems += str(InvalidRequestError.from_validation(error)).splitlines()
    return shot, problems


def _read_fade(number: int, given: dict[Any, Any], film: FilmOptions, problems: list[str]) -> float:
    """Return the seconds of the cross-fade with which a shot begins. Add what is invalid to the problems."""
    is_first = number == 1 and not film.title_card
    own = {name: given[name] for name in TRANSITION_FIELDS if given.get(name) is not None}
    transition = read_options(film.model_dump(include={*TRANSITION_FIELDS}) | own, Transition, problems)
    if is_first and own.get("transition") == "cross-fade":
        problems.append("transition: 'cross-fade' was given: there is no title_card before the first shot")
    return 0.0 if is_first else transition.fade
