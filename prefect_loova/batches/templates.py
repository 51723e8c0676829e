"""Render prompts from a template and columns: `{product} at {place}, {season}`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import Formatter
from typing import Any

from prefect_loova.errors import InvalidRequestError, first_lines, redact
from prefect_loova.models.request import VideoRequest

_FIELDS = frozenset(VideoRequest.model_fields)


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with columns in braces. `{{` and `}}` are braces of the prompt.

    Attributes:
        text: The template.
        columns: The names of the columns, each of which the template uses.
    """

    text: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, text: Any, columns: Any) -> PromptTemplate | None:
        """Return a template, or None if both the text and the columns are missing.

        Args:
            text: The template.
            columns: The names of its columns; None for those that the text names.

        Raises:
            InvalidRequestError: The template and the columns do not fit; the error lists all problems.
        """
        if not text and not columns:
            return None
        problems = [*_text_problems(text)]
        if columns is None and not problems:
            columns = [*dict.fromkeys(_names(text))]
        problems += _column_problems(columns)
        problems = problems or [*_use_problems(text, columns)]
        if problems:
            raise InvalidRequestError("\n".join(first_lines(problems)))
        return cls(text, tuple(columns))

    def apply(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a request: the prompt in place of the columns.

        Raises:
            ValueError: The row has a prompt, or no text in a column; the error lists all problems.
        """
        problems = ["prompt: prompt_template makes the prompt, so a row must not have one"] if "prompt" in row else []
        values = {}
        for column in self.columns:
            value = row.get(column)
            text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
            if not text:
                given = "is missing" if value is None else f"{redact(repr(value), 80)} was given"
                problems.append(f"{column}: {given}: must be text or a number, because prompt_template uses it")
            values[column] = text
        if problems:
            raise ValueError("\n".join(problems))
        fields = {name: value for name, value in row.items() if name not in self.columns}
        return fields | {"prompt": self.text.format_map(values)}


def all_combinations(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each combination of the columns' values. The last column changes first."""
    for values in product(*columns.values()):
        yield dict(zip(columns, values, strict=True))


def _text_problems(text: Any) -> Iterator[str]:
    given = f"prompt_template: {redact(repr(text), 120)} was given"
    if not isinstance(text, str) or not text.strip():
        yield f"{given}: must be a prompt with {{columns}}, because columns are given"
        return
    try:
        fields = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        yield f"{given}: {redact(error, 80)}; write {{{{ for a brace of the prompt"
        return
    for name, spec, conversion in fields:
        if not name or spec or conversion or not name.isidentifier():
            yield f"{given}: braces must hold the name of a column and nothing else, such as {{place}}"
            return


def _column_problems(columns: Any) -> Iterator[str]:
    if not isinstance(columns, Collection) or isinstance(columns, str | bytes) or not columns:
        yield f"columns: {redact(repr(columns), 80)} was given: must name the columns that prompt_template uses"
        return
    seen = list[Any]()
    for column in columns:
        given = f"columns: {redact(repr(column), 80)} was given"
        if not isinstance(column, str) or not column.isidentifier():
            yield f"{given}: must have letters, digits and underscores only, and start with a letter"
        elif column in _FIELDS:
            yield f"{given}: is a field of a request, so a column needs another name"
        elif column in seen:
            yield f"{given} twice"
        seen.append(column)


def _names(text: str) -> list[str]:
    return [part[1] for part in Formatter().parse(text) if part[1] is not None]


def _use_problems(text: str, columns: Collection[str]) -> Iterator[str]:
    used = {*_names(text)}
    for name in sorted(used - set(columns)):
        yield f"prompt_template: {{{name}}} is not in columns ({', '.join(columns)})"
    for name in columns:
        if name not in used:
            yield f"columns: {name} is not used in prompt_template"
