"""Read a list of videos, in CSV or JSON lines, and write the report of a batch.

The reader collects all problems, by line and column, before anything is spent.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from prefect_loova.batches.cells import parse_whole_number, split_media
from prefect_loova.errors import InvalidRequestError, counted, first_lines, redact
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest

MAX_ROWS = 10_000
"""The default limit of rows."""

MAX_BYTES = 64 * 1024**2
"""The largest manifest, in bytes."""

COLUMNS = tuple(VideoRequest.model_fields)
"""The columns of a manifest: the fields of a request."""

_LISTS = ("image_urls", "audio_urls", "video_urls")
_NUMBERS = ("duration", "take")
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[^\S\r\n]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_BROKEN_FORMULAS = ("#REF!", "#NAME?", "#VALUE!", "#N/A", "#DIV/0!", "#NULL!", "#NUM!")


def read_manifest(content: bytes, name: str, *, max_rows: int = MAX_ROWS) -> list[VideoRequest]:
    """Read the requests of a manifest, one for each row, in order.

    A `.csv` file starts with a header of column names. Commas, semicolons or tabs separate the columns. Spaces or
    commas separate several media in one cell, and quotes enclose a name with spaces. An empty cell means the default.
    A `.jsonl` file has one object per line; null means the default.

    Args:
        content: The file, in UTF-8, with or without a BOM.
        name: Its name. The ending decides the format.
        max_rows: The most rows to accept.

    Raises:
        InvalidRequestError: The file has problems; the error lists all of them, by line and column.
    """
    source = f"manifest: {redact(name, 200)}"
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"{source} has over {MAX_BYTES:,} bytes")
    text = decode(content, source)
    if name.lower().endswith((".csv", ".tsv")):
        rows = _csv_rows(text, source)
    elif name.lower().endswith((".jsonl", ".ndjson")):
        rows = _json_rows(text)
    else:
        raise InvalidRequestError(f"{source} was given: must end with .csv or .jsonl")
    requests, problems, count = [], [], 0
    for line, row in rows:
        count += 1
        if count > max_rows:
            raise InvalidRequestError(f"{source} has over {max_rows:,} rows (max_rows)")
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
            continue
        try:
            requests.append(VideoRequest.model_validate(row))
        except ValidationError as error:
            row_problems = str(InvalidRequestError.from_validation(error)).splitlines()
            problems += [f"line {line}: {problem}" for problem in row_problems]
    if problems:
        head = f"{source} has {counted(len(problems), 'problem')} in {counted(count, 'row')}; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    if not requests:
        raise InvalidRequestError(f"{source} has no rows")
    return requests


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


def _csv_rows(text: str, source: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the line number of each row, and its fields or its problem."""
    csv.field_size_limit(1024**2)
    separator_line, skipped = _SEPARATOR_LINE.match(text), 0
    if separator_line:
        text, skipped = text[separator_line.end() :], 1
    separator = separator_line[1] if separator_line else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise InvalidRequestError(f"{source}, line {1 + skipped}: {_csv_problem(error)}") from None
    columns = _check_header(header or [], f"{source}, line {1 + skipped}")
    while True:
        line = reader.line_num + 1 + skipped
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


def _separator(text: str) -> str:
    """Return the separator that yields the most known column names in the header; a comma by default."""
    header = [text.partition("\n")[0].partition("\r")[0]]

    def known_columns(mark: str) -> int:
        with suppress(csv.Error):
            return sum(cell.strip() in COLUMNS for cells in csv.reader(header, delimiter=mark) for cell in cells)
        return 0

    return max(_SEPARATORS, key=known_columns)


def _check_header(header: list[str], source: str) -> list[str]:
    """Return the column names. A column without a name is allowed for the empty cells that Excel adds."""
    columns = [column.strip() for column in header]
    problems = []
    for column in filter(None, columns):
        if column not in COLUMNS:
            close = get_close_matches(column.lower(), COLUMNS, 1)
            problems.append(f"unknown column {redact(repr(column), 80)}" + (f" (is it {close[0]}?)" if close else ""))
        elif columns.count(column) > 1:
            problems.append(f"column {column} is given twice")
    if "prompt" not in columns:
        problems.append("the column prompt is missing")
    if problems:
        raise InvalidRequestError(
            f"{source}: {'; '.join(dict.fromkeys(problems))}. Columns are {', '.join(COLUMNS)}, separated by commas, "
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


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for line, content in enumerate(text.split("\n"), 1):
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
)


def report_as_csv(report: BatchReport) -> bytes:
    """Return the report of a batch as CSV, in which no cell is a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(REPORTED)
    for video in report.videos:
        cells = {name: getattr(video, name) for name in REPORTED} | {"rows": " ".join(map(str, video.rows))}
        writer.writerow([_text_cell(cells[name]) for name in REPORTED])
    return file.getvalue().encode()


def report_name(manifest: str) -> str:
    """Return the name of the report beside a manifest: `prompts.report.csv` for `prompts.csv`."""
    stem, _, _ = manifest.rpartition(".")
    return f"{stem}.report.csv"


def _text_cell(value: object) -> object:
    """Return a cell that a spreadsheet shows as text or as a number, never as a formula."""
    if isinstance(value, int | float):
        return value
    text = redact("" if value is None else value, 1000)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
