"""Read YAML and JSON files that people write: storyboards, and lists with a prompt template."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from typing import Any

import yaml

from prefect_loova.errors import InvalidRequestError, redact

MAX_BYTES = 1024**2
"""The largest file, in bytes."""


def read_document(content: bytes, name: str, source: str) -> Any:
    """Return the content of a YAML or JSON file. Its name decides the format.

    Raises:
        InvalidRequestError: The file is too large, or not valid; the error says where.
    """
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


def decode(content: bytes, source: str) -> str:
    """Return the text of a file in UTF-8, with or without a BOM.

    Raises:
        InvalidRequestError: It is not UTF-8; the error says which line, and what it looks like.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        looks_like = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "Windows-1252 or another old encoding"
        raise InvalidRequestError(
            f"{source} is not UTF-8 at byte {error.start:,}, in line {line:,}; it looks like {looks_like}: save it as "
            "UTF-8 (in Excel: CSV UTF-8)"
        ) from None


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of the pairs that a parser found.

    Raises:
        ValueError: A field is given twice.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the field {redact(repr(name), 80)} is given twice")
        fields[name] = value
    return fields


def unknown_names(given: Iterable[Any], known: tuple[str, ...], what: str = "field") -> list[str]:
    """Return a problem for each name that is not known, with the known name that is nearest."""
    problems = []
    for name in given:
        if name not in known:
            close = get_close_matches(str(name).lower(), known, 1)
            problems.append(f"unknown {what} {redact(repr(name), 80)}{f' (is it {close[0]}?)' if close else ''}")
    return problems
