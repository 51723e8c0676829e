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
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from prefect_loova.batches.manifest import decode, unique_fields
from prefect_loova.errors import InvalidRequestError, counted, first_lines, redact
from prefect_loova.models.media import KINDS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

MAX_BYTES = 1024**2
"""The largest storyboard, in bytes."""

MAX_SHOTS = 100
"""The most shots of a storyboard."""

_FIELDS = tuple(VideoRequest.model_fields)
_SHARED = tuple(name for name in _FIELDS if name not in ("prompt", "fallback_prompt", "take"))
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
    """

    number: int
    fields: dict[str, Any]
    continues: bool = False
    keep: str = ""

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
    """

    title: str
    shots: tuple[Shot, ...] = field(default=())

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


def film_id(videos: list[SavedVideo]) -> str:
    """Return the identity of a film of these shots, as 64 hex digits."""
    return hashlib.sha256("\n".join([_FILM_VERSION, *(video.sha256 for video in videos)]).encode()).hexdigest()


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
    parsed = _parse(content, name, source)
    given: dict[str, Any] = {"shots": parsed} if isinstance(parsed, list) else parsed
    if not isinstance(given, dict) or not isinstance(given.get("shots"), list) or not given["shots"]:
        raise InvalidRequestError(f"{source} must have a list of shots, each with a prompt")
    if len(given["shots"]) > MAX_SHOTS:
        raise InvalidRequestError(f"{source} has {len(given['shots'])} shots; the limit is {MAX_SHOTS}")
    problems = _unknown_fields(given, ("title", "shots", *_SHARED))
    if not isinstance(given.get("title", ""), str):
        problems.append("title: must be text")
    shared = {key: value for key, value in given.items() if key in _SHARED}
    shots = []
    for number, item in enumerate(given["shots"], 1):
        shot, shot_problems = _read_shot(number, item, shared, defaults)
        shots.append(shot)
        problems += [f"shot {number}: {problem}" for problem in shot_problems]
    if problems:
        head = f"{source} has {counted(len(problems), 'problem')}; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    title = given.get("title") or name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return Storyboard(title, tuple(shots))


def _read_shot(number: int, given: Any, shared: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[Shot, list[str]]:
    if not isinstance(given, dict):
        return Shot(number, {}), [f"{redact(repr(given), 80)} was given: must be the fields of a shot, such as prompt"]
    fields = {**shared, **given}
    continues, keep = fields.pop("continue", False), fields.pop("keep", None)
    problems = _unknown_fields(given, ("continue", "keep", *_FIELDS))
    if not isinstance(continues, bool):
        problems.append(f"continue: {redact(repr(continues), 80)} was given: must be true or false")
    elif continues and number == 1:
        problems.append("continue: there is no shot before the first one")
    if keep is not None:
        key = keep.strip().lower() if isinstance(keep, str) else ""
        if not _KEY.fullmatch(key):
            problems.append(f"keep: {redact(repr(keep), 80)} was given: {_KEY_RULE}")
        return Shot(number, {"prompt": f"keep {key}"}, continues is True, key), problems
    shot = Shot(
        number,
        {**defaults, **{str(key): value for key, value in fields.items() if key in _FIELDS and value is not None}},
        continues is True,
    )
    try:
        _ = shot.request
    except ValidationError as error:
        problems += str(InvalidRequestError.from_validation(error)).splitlines()
    return shot, problems


def _unknown_fields(given: dict[Any, Any], known: tuple[str, ...]) -> list[str]:
    problems = []
    for name in given:
        if name not in known:
            close = get_close_matches(str(name).lower(), known, 1)
            hint = f" (is it {close[0]}?)" if close else ""
            problems.append(f"unknown field {redact(repr(name), 80)}{hint}")
    return problems


def _parse(content: bytes, name: str, source: str) -> Any:
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"{source} has over {MAX_BYTES:,} bytes")
    text = decode(content, source)
    try:
        if name.lower().endswith(".json"):
            return json.loads(text, object_pairs_hook=unique_fields)
        if name.lower().endswith((".yaml", ".yml")):
            return yaml.load(text, _YamlLoader)  # noqa: S506  (a stricter SafeLoader)
    except yaml.MarkedYAMLError as error:  # its own text quotes the file
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InvalidRequestError(
            f"{source} cannot be read: {redact(error.problem or 'no YAML', 300)}{where}"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError, *_CONSTRUCTOR_ERRORS) as error:
        raise InvalidRequestError(f"{source} cannot be read: {redact(error, 300)}") from None
    raise InvalidRequestError(f"{source} was given: must end with .yaml, .yml or .json")


_CONSTRUCTOR_ERRORS = (TypeError, AttributeError, LookupError)
"""What PyYAML's constructors raise besides `YAMLError`: for a mapping as a key, or for a bad `!!timestamp`."""

_INTEGER, _DECIMAL = re.compile(r"[-+]?[0-9]+"), re.compile(r"[-+]?[0-9]+\.[0-9]*")
_READ_AS_TEXT = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


class _YamlLoader(yaml.SafeLoader):
    """YAML without surprises: `16:9` and dates are text, `010` is ten. Duplicate fields and aliases are errors.

    `ruamel.yaml` takes twice as long for the largest file, and reads `yes`, dates and `0x10` differently.
    """

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        is_plain = kind is yaml.ScalarNode and implicit[0]
        if is_plain and _INTEGER.fullmatch(value):
            return "tag:yaml.org,2002:int"
        if is_plain and _DECIMAL.fullmatch(value):
            return "tag:yaml.org,2002:float"
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return self.DEFAULT_SCALAR_TAG if is_plain and tag in _READ_AS_TEXT else tag

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few aliases can expand to gigabytes
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: list[Any] = []
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in names:
                problem = f"the field {redact(repr(name), 80)} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            names.append(name)
        return super().construct_mapping(node, deep=deep)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)
