"""Read a list of videos, in CSV, JSON lines or YAML, and write the report of a batch.

The reader collects all problems, by line and column, before anything is spent.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from prefect_loova.batches.cells import parse_whole_number, split_media
from prefect_loova.batches.documents import decode, read_document, unique_fields, unknown_names
from prefect_loova.batches.templates import PromptTemplate, all_combinations
from prefect_loova.errors import InvalidRequestError, counted, first_lines, redact
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest

MAX_ROWS = 10_000
"""The default limit of rows."""

MAX_BYTES = 64 * 1024**2
"""The largest manifest, in bytes."""

COLUMNS = tuple(VideoRequest.model_fields)
"""The columns of a manifest: the fields of a request."""

_SHARED = tuple(name for name in COLUMNS if name not in ("prompt", "fallback_prompt", "take"))
"""The fields that a YAML or JSON list may set for all videos."""

_PlacedRow = tuple[str, dict[str, Any] | str]
"""Where a row is, and its fields or its problem."""

_LISTS = ("image_urls", "audio_urls", "video_urls")
_NUMBERS = ("duration", "take", "takes")
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[^\S\r\n]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_BROKEN_FORMULAS = ("#REF!", "#NAME?", "#VALUE!", "#N/A", "#DIV/0!", "#NULL!", "#NUM!")


def read_manifest(
    content: bytes, name: str, *, max_rows: int = MAX_ROWS, template: PromptTemplate | None = None
) -> list[VideoRequest]:
    """Read the requests of a manifest, one for each row, in order.

    A `.csv` file starts with a header of column names. Commas, semicolons or tabs separate the columns. Spaces or
    commas separate several media in one cell, and quotes enclose a name with spaces. An empty cell means the default.
    A `.jsonl` file has one object per line; null means the default. A `.yaml` or `.json` file has fields for all
    videos, and `videos`, or `prompt_template` with `columns`.

    Args:
        content: The file, in UTF-8, with or without a BOM.
        name: Its name. The ending decides the format.
        max_rows: The most rows to accept.
        template: Makes the prompt of each row from the row's other columns.

    Raises:
        InvalidRequestError: The file has problems; the error lists all of them, by line and column.
    """
    source = f"manifest: {redact(name, 200)}"
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"{source} has over {MAX_BYTES:,} bytes")
    if name.lower().endswith((".csv", ".tsv")):
        rows = _csv_rows(decode(content, source), source, template)
    elif name.lower().endswith((".jsonl", ".ndjson")):
        rows = _json_rows(decode(content, source))
    elif name.lower().endswith((".yaml", ".yml", ".json")):
        template, rows = _document_rows(read_document(content, name, source), source, template)
    else:
        raise InvalidRequestError(f"{source} was given: must end with .csv, .jsonl, .yaml or .json")
    requests, problems, count = [], [], 0
    for place, row in rows:
        count += 1
        if count > max_rows:
            raise InvalidRequestError(f"{source} has over {max_rows:,} rows (max_rows)")
        if isinstance(row, str):
            problems.append(f"{place}: {row}")
            continue
        try:
            requests.append(VideoRequest.model_validate(template.apply(row) if template else row))
        except ValidationError as error:
            row_problems = str(InvalidRequestError.from_validation(error)).splitlines()
            problems += [f"{place}: {problem}" for problem in row_problems]
        except ValueError as error:
            problems += [f"{place}: {problem}" for problem in str(error).splitlines()]
    if problems:
        head = f"{source} has {counted(len(problems), 'problem')} in {counted(count, 'row')}; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    if not requests:
        raise InvalidRequestError(f"{source} has no rows")
    return requests


def _document_rows(
    parsed: Any, source: str, template: PromptTemplate | None
) -> tuple[PromptTemplate | None, Iterator[_PlacedRow]]:
    """Return the template of a YAML or JSON list, and its rows."""
    given: dict[Any, Any] = {"videos": parsed} if isinstance(parsed, list) else parsed
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{source} must have a list of videos, or prompt_template with columns")
    if template and given.get("prompt_template"):
        raise InvalidRequestError(f"prompt_template: was given, and {source} has one too: remove one of them")
    columns, videos = given.get("columns"), given.get("videos")
    problems = unknown_names(given, (*_SHARED, "prompt_template", "columns", "videos"))
    if isinstance(columns, dict):
        problems += [
            f"columns: {name} must have a list of values"
            for name, values in columns.items()
            if not isinstance(values, list) or not values
        ]
        if videos is not None:
            problems.append("videos: columns have all values already, so the list makes all combinations of them")
    elif not isinstance(videos, list) or not videos:
        problems.append("videos: must be a list of videos, each with a prompt or with the columns")
    if problems:
        raise InvalidRequestError("\n".join(f"{source}: {problem}" for problem in first_lines(problems)))
    shared = {name: value for name, value in given.items() if name in _SHARED and value is not None}
    rows = all_combinations(columns) if isinstance(columns, dict) else iter(videos or ())
    return template or PromptTemplate.of(given.get("prompt_template"), columns), _placed(rows, shared)


def _placed(rows: Iterator[Any], shared: Mapping[str, Any]) -> Iterator[_PlacedRow]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield f"video {number}", {**shared, **{name: value for name, value in row.items() if value is not None}}
        else:
            yield f"video {number}", f"{redact(repr(row), 80)} was given: must be the fields of a video, such as prompt"


def _csv_rows(text: str, source: str, template: PromptTemplate | None) -> Iterator[_PlacedRow]:
    """Yield the place of each row, and its fields or its problem."""
    csv.field_size_limit(1024**2)
    separator_line, skipped = _SEPARATOR_LINE.match(text), 0
    if separator_line:
        text, skipped = text[separator_line.end() :], 1
    known = (*COLUMNS, *(template.columns if template else ()))
    separator = separator_line[1] if separator_line else _separator(text, known)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise InvalidRequestError(f"{source}, line {1 + skipped}: {_csv_problem(error)}") from None
    needed = template.columns if template else ("prompt",)
    columns = _check_header(header or [], known, needed, f"{source}, line {1 + skipped}")
    while True:
        line = f"line {reader.line_num + 1 + skipped}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _csv_problem(error)
            return
        if not any(cell.strip() for cell in cells):
            continue
        yield line, _fields(columns, cells)


def _csv_problem(error: csv.Error) -> str:
    if "unexpected end of data" not in str(error):
        return redact(error)
    return "a quote opens in this row and is never closed; a quote within a cell is written twice"


def _separator(text: str, known: tuple[str, ...]) -> str:
    """Return the separator that yields the most known column names in the header; a comma by default."""
    header = [text.partition("\n")[0].partition("\r")[0]]

    def known_columns(mark: str) -> int:
        with suppress(csv.Error):
            return sum(cell.strip() in known for cells in csv.reader(header, delimiter=mark) for cell in cells)
        return 0

    return max(_SEPARATORS, key=known_columns)


def _check_header(header: list[str], known: tuple[str, ...], needed: tuple[str, ...], source: str) -> list[str]:
    """Return the column names. A column without a name is allowed for the empty cells that Excel adds."""
    columns = [column.strip() for column in header]
    problems = unknown_names(filter(None, columns), known, "column")
    problems += [f"column {column} is given twice" for column in columns if column and columns.count(column) > 1]
    problems += [f"the column {column} is missing" for column in needed if column not in columns]
    if problems:
        raise InvalidRequestError(
            f"{source}: {'; '.join(dict.fromkeys(problems))}. Columns are {', '.join(known)}, separated by commas, "
            "semicolons or tabs"
        )
    return columns


def _fields(columns: list[str], cells: list[str]) -> dict[str, Any] | str:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(columns):
        given = f"{counted(len(cells), 'cell')} for {counted(len(columns), 'column')}"
        return f"{given}: a cell with a separator or a line break needs quotes"
    fields: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        value = cell.strip()
        if not value:
            continue
        if not column:
            return f"{redact(repr(value), 80)} was given in a column without a name"
        if value.startswith("=") or value in _BROKEN_FORMULAS:
            return f"{column}: {redact(repr(value), 80)} was given: it is a formula or an error of one, not a value"
        if column in _LISTS:
            try:
                fields[column] = split_media(value)
            except ValueError as error:
                return f"{column}: {redact(repr(value), 80)} was given: {error}"
        elif column in _NUMBERS:
            fields[column] = parse_whole_number(value)
        else:
            fields[column] = cell if column == "prompt" else value
    return fields


def _json_rows(text: str) -> Iterator[_PlacedRow]:
    for number, content in enumerate(text.split("\n"), 1):
        line = f"line {number}"
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=unique_fields)
        except (ValueError, RecursionError) as error:
            yield line, f"not a JSON object: {redact(error, 200)}"
            continue
        if not isinstance(row, dict):
            yield line, f"{redact(content, 80)} was given: must be an object"
            continue
        yield line, {field: value for field, value in row.items() if value is not None or field not in COLUMNS}


REPORTED = (
    "rows",
    "outcome",
    "reason",
    "name",
    "video",
    "task_id",
    "credits_charged",
    "credits_estimate",
    "key",
    "cost_difference",
    "take",
    "label",
    "is_draft",
    "choice",
    "rejected",
)


def report_as_csv(report: BatchReport) -> bytes:
    """Return the report of a batch as CSV, in which no cell is a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(REPORTED)
    for video in report.videos:
        cells = {name: getattr(video, name) for name in REPORTED} | {"rows": " ".join(map(str, video.rows))}
        writer.writerow([text_cell(cells[name]) for name in REPORTED])
    return file.getvalue().encode()


def report_name(manifest: str) -> str:
    """Return the name of the report beside a manifest: `prompts.report.csv` for `prompts.csv`."""
    stem, _, _ = manifest.rpartition(".")
    return f"{stem}.report.csv"


def text_cell(value: object, limit: int = 1000) -> object:
    """Return a cell that a spreadsheet shows as text or as a number, never as a formula."""
    if isinstance(value, int | float):
        return value
    text = redact("" if value is None else value, limit)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
