"""A story of several shots: the file that describes it, and which shot goes on from which.

```yaml
title: A day at the harbour
ratio: 16:9            # what stands here holds for every shot that does not say otherwise
shots:
  - prompt: "@image1 leaves the harbour"
    duration: 5
    image_urls: [boat.png]
  - prompt: the boat meets the fog
    continue: true     # begins with the last frame of the shot before
```
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import ValidationError

from prefect_loova.batches.manifest import each_once
from prefect_loova.errors import InvalidRequestError, first_lines, redact
from prefect_loova.models.media import KINDS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

MAX_BYTES = 1024**2
"""The largest storyboard, in bytes."""

MAX_SHOTS = 100
"""The most shots of a storyboard."""

_FIELDS = tuple(VideoRequest.model_fields)
_SHARED = tuple(name for name in _FIELDS if name not in ("prompt", "take"))
_FILM_VERSION = "film 1"
"""Another one wherever the same shots are joined into another film: then those of before are not found any more."""

_BEFORE = "s3://the-shot-before/video.mp4#last-frame"


@dataclass(frozen=True)
class Shot:
    """One shot of a story.

    Attributes:
        number: Its place in the story, counted from 1.
        fields: What is asked for, without the frame that it begins with.
        goes_on: Whether it begins with the last frame of the shot before.
    """

    number: int
    fields: dict[str, Any]
    goes_on: bool = False

    @property
    def request(self) -> VideoRequest:
        """The request as far as it is known: a shot that goes on has a stand-in for the frame that it begins with.

        Raises:
            pydantic.ValidationError: What is wrong with it.
        """
        return self._starting_with(_BEFORE) if self.goes_on else VideoRequest.model_validate(self.fields)

    @property
    def own_media(self) -> VideoRequest:
        """The request with the shot's own media only, to be looked at before the shot before is made."""
        images = self.fields.get("image_urls", ())
        return self.request.model_copy(update={"image_urls": tuple(map(str, images))})

    def with_media(self, prepared: VideoRequest) -> Shot:
        """The same shot with its own media prepared."""
        return replace(self, fields=self.fields | {name: list(getattr(prepared, name)) for name in KINDS})

    def after(self, before: SavedVideo) -> VideoRequest:
        """The request of a shot that goes on, once the shot before is made."""
        return self._starting_with(before.last_frame)

    def _starting_with(self, frame: str) -> VideoRequest:
        images = self.fields.get("image_urls", [])
        if not isinstance(images, list | tuple):
            return VideoRequest.model_validate(self.fields)  # which says what is wrong
        others = self.fields.get("video_urls") or self.fields.get("audio_urls")
        mode = "omni_reference" if others or len(images) > 1 else "first_last_frames"
        return VideoRequest.model_validate({"function_mode": mode} | self.fields | {"image_urls": [frame, *images]})


@dataclass(frozen=True)
class Storyboard:
    """A story.

    Attributes:
        title: What it is called.
        shots: In order.
    """

    title: str
    shots: tuple[Shot, ...] = field(default=())

    def chains(self) -> Iterator[list[Shot]]:
        """The shots that go on from each other, together; each chain can be made beside the others."""
        chain: list[Shot] = []
        for shot in self.shots:
            if chain and not shot.goes_on:
                yield chain
                chain = []
            chain.append(shot)
        if chain:
            yield chain


def film_id(videos: list[SavedVideo]) -> str:
    """The identity of a film by its shots, as 64 hex digits."""
    return hashlib.sha256("\n".join([_FILM_VERSION, *(video.sha256 for video in videos)]).encode()).hexdigest()


def read_storyboard(content: bytes, name: str) -> Storyboard:
    """The story that a file describes.

    Args:
        content: Its bytes, in UTF-8.
        name: Its name; the ending tells the format: `.yaml`, `.yml` or `.json`.

    Raises:
        InvalidRequestError: Everything that is wrong with it, by shot and field.
    """
    told = f"storyboard: {redact(name, 200)}"
    found = _parsed(content, name, told)
    given: dict[str, Any] = {"shots": found} if isinstance(found, list) else found
    if not isinstance(given, dict) or not isinstance(given.get("shots"), list) or not given["shots"]:
        raise InvalidRequestError(f"{told} must have a list of shots, each with a prompt")
    if len(given["shots"]) > MAX_SHOTS:
        raise InvalidRequestError(f"{told} has {len(given['shots'])} shots; {MAX_SHOTS} are the most")
    problems = _unknown(given, ("title", "shots", *_SHARED))
    if not isinstance(given.get("title", ""), str):
        problems.append("title: must be text")
    shared = {key: value for key, value in given.items() if key in _SHARED}
    shots = []
    for number, one in enumerate(given["shots"], 1):
        shot, wrong = _shot(number, one, shared)
        shots.append(shot)
        problems += [f"shot {number}: {problem}" for problem in wrong]
    if problems:
        head = f"{told} has {len(problems)} problems; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    title = given.get("title") or name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return Storyboard(title, tuple(shots))


def _shot(number: int, given: Any, shared: dict[str, Any]) -> tuple[Shot, list[str]]:
    if not isinstance(given, dict):
        return Shot(number, {}), [f"{redact(repr(given), 80)} was given: must be fields of a shot, such as prompt"]
    fields = {**shared, **given}
    goes_on = fields.pop("continue", False)
    problems = _unknown(given, ("continue", *_FIELDS))
    if not isinstance(goes_on, bool):
        problems.append(f"continue: {redact(repr(goes_on), 80)} was given: must be true or false")
    elif goes_on and number == 1:
        problems.append("continue: there is no shot before the first one")
    shot = Shot(
        number,
        {str(key): value for key, value in fields.items() if key in _FIELDS and value is not None},
        goes_on is True,
    )
    try:
        _ = shot.request
    except ValidationError as error:
        problems += str(InvalidRequestError.from_validation(error)).splitlines()
    return shot, problems


def _unknown(given: dict[Any, Any], known: tuple[str, ...]) -> list[str]:
    problems = []
    for name in given:
        if name not in known:
            close = get_close_matches(str(name).lower(), known, 1)
            hint = f" (is it {close[0]}?)" if close else ""
            problems.append(f"unknown field {redact(repr(name), 80)}{hint}")
    return problems


def _parsed(content: bytes, name: str, told: str) -> Any:
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"{told} has over {MAX_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
        if name.lower().endswith(".json"):
            return json.loads(text, object_pairs_hook=each_once)
        if name.lower().endswith((".yaml", ".yml")):
            return yaml.load(text, _Yaml)  # noqa: S506  (a SafeLoader, made stricter)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{told} is not UTF-8 at byte {error.start:,}") from None
    except yaml.MarkedYAMLError as error:  # its text would quote the file
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InvalidRequestError(f"{told} cannot be read: {redact(error.problem or 'no YAML', 300)}{where}") from None
    except (ValueError, RecursionError, yaml.YAMLError, *_OF_CONSTRUCTORS) as error:
        raise InvalidRequestError(f"{told} cannot be read: {redact(error, 300)}") from None
    raise InvalidRequestError(f"{told} was given: must end with .yaml, .yml or .json")


_OF_CONSTRUCTORS = (TypeError, AttributeError, LookupError)
"""What PyYAML raises beside its own errors: for a mapping as a key, say, or for `!!timestamp` before what is none."""


class _Yaml(yaml.SafeLoader):
    """YAML as people mean it: `16:9` is no number to the base of 60, no field stands there twice, nothing expands."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few of them can stand for gigabytes
            raise yaml.YAMLError("aliases (*name) are not taken")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))  # `010` is ten

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        pairs = [(self.construct_object(key, deep=True), value) for key, value in node.value]
        each_once(pairs)
        return super().construct_mapping(node, deep=deep)


_Yaml.add_constructor("tag:yaml.org,2002:int", _Yaml.construct_yaml_int)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Yaml.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+\.[0-9]*$"), list("-+0123456789"))
