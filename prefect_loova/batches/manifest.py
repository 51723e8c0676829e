"""A list of videos as people keep it: CSV or JSON lines, columns named like the request's fields.

Everything that is wrong is told at once, by line and column, before anything is spent.
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
from prefect_loova.errors import InvalidRequestError, first_lines, redact
from prefect_loova.models.reports import BatchReport
from prefect_loova.models.request import VideoRequest

MAX_ROWS = 10_000
"""The most rows of a manifest by default."""

MAX_BYTES = 64 * 1024**2
"""The largest manifest, in bytes."""

COLUMNS = tuple(VideoRequest.model_fields)
"""The columns that a manifest may have."""

_LISTS = ("image_urls", "audio_urls", "video_urls")
_NUMBERS = ("duration", "take")
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?[^\S\r\n]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_BROKEN_FORMULAS = ("#REF!", "#NAME?", "#VALUE!", "#N/A", "#DIV/0!", "#NULL!", "#NUM!")


def read_manifest(content: bytes, name: str, *, max_rows: int = MAX_ROWS) -> list[VideoRequest]:
    """The requests of a manifest, one for each row, in its order.

    A `.csv` has a header with column names, separated by commas, semicolons or tabs; several media in a cell are
    separated by spaces or commas, and those with spaces are in quotes; an empty cell is the default. A `.jsonl` has one
    object a line; null is the default.

    Args:
        content: The file, in UTF-8, with or without a BOM.
        name: Its name; the ending tells the format.
        max_rows: The most rows to take.

    Raises:
        InvalidRequestError: Everything that is wrong with it, by line and column.
    """
    text = _decoded(content, name)
    if name.lower().endswith((".csv", ".tsv")):
        rows = _csv_rows(text, name)
    elif name.lower().endswith((".jsonl", ".ndjson")):
        rows = _json_rows(text)
    else:
        raise InvalidRequestError(f"manifest: {redact(name, 200)} was given: must end with .csv or .jsonl")
    requests, problems, count = [], [], 0
    for line, row in rows:
        count += 1
        if count > max_rows:
            raise InvalidRequestError(f"manifest: {redact(name, 200)} has over {max_rows:,} rows (max_rows)")
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
            continue
        try:
            requests.append(VideoRequest.model_validate(row))
        except ValidationError as error:
            found = str(InvalidRequestError.from_validation(error)).splitlines()
            problems += [f"line {line}: {problem}" for problem in found]
    if problems:
        head = f"manifest: {redact(name, 200)} has {len(problems):,} problems in {count:,} rows; nothing was started"
        raise InvalidRequestError("\n".join([head, *first_lines(problems)]))
    if not requests:
        raise InvalidRequestError(f"manifest: {redact(name, 200)} has no rows")
    return requests


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"manifest: {redact(name, 200)} has over {MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16: save it as UTF-8" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise InvalidRequestError(f"manifest: {redact(name, 200)} is not UTF-8 at byte {error.start:,}{hint}") from None


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number, and the fields that the row gives, or what is wrong with it."""
    csv.field_size_limit(1024**2)
    told, skipped = _SEPARATOR_LINE.match(text), 0
    if told:
        text, skipped = text[told.end() :], 1
    separator = told[1] if told else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise InvalidRequestError(f"manifest: {redact(name, 200)}, line {1 + skipped}: {redact(error)}") from None
    columns = _checked_header(header or [], name, 1 + skipped)
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, redact(error)
            return
        if not any(cell.strip() for cell in cells):
            continue
        yield line, _fields(columns, cells)


def _separator(text: str) -> str:
    """What separates the columns, by the header: the mark between the most column names, else a comma."""
    header = [text.partition("\n")[0].partition("\r")[0]]

    def names(mark: str) -> int:
        with suppress(csv.Error):
            return sum(cell.strip() in COLUMNS for cells in csv.reader(header, delimiter=mark) for cell in cells)
        return 0

    return max(_SEPARATORS, key=names)


def _checked_header(header: list[str], name: str, line: int) -> list[str]:
    """The columns by name; one without a name is there for the empty cells that Excel adds."""
    columns = [column.strip() for column in header]
    problems = []
    for column in filter(None, columns):
        if column not in COLUMNS:
            close = get_close_matches(column.lower(), COLUMNS, 1)
            problems.append(f"unknown column {redact(repr(column), 80)}" + (f" (is it {close[0]}?)" if close else ""))
        elif columns.count(column) > 1:
            problems.append(f"column {column} stands there twice")
    if "prompt" not in columns:
        problems.append("there is no column prompt")
    if problems:
        told = "; ".join(dict.fromkeys(problems))
        raise InvalidRequestError(
            f"manifest: {redact(name, 200)}, line {line}: {told}. Columns are {', '.join(COLUMNS)}, separated by "
            "commas, semicolons or tabs"
        )
    return columns


def _fields(columns: list[str], cells: list[str]) -> dict[str, Any] | str:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(columns):
        return f"{len(cells)} cells for {len(columns)} columns: a cell with a separator or a line break needs quotes"
    fields: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        value = cell.strip()
        if not value:
            continue
        if not column:
            return f"{redact(repr(value), 80)} was given in a column without a name"
        if value.startswith("=") or value in _BROKEN_FORMULAS:
            return f"{column}: {redact(repr(value), 80)} was given: a formula, or what is left of one, not its value"
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
            row = json.loads(content, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            yield line, f"no JSON object of a request: {redact(error, 200)}"
            continue
        if not isinstance(row, dict):
            yield line, f"{redact(content, 80)} was given: must be an object"
            continue
        yield line, {field: value for field, value in row.items() if value is not None or field not in COLUMNS}


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of these pairs, for a parser.

    Raises:
        ValueError: A field stands there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands there twice")
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
)


def report_as_csv(report: BatchReport) -> bytes:
    """The report of a batch as CSV, in which no cell is a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(REPORTED)
    for video in report.videos:
        cells = {name: getattr(video, name) for name in REPORTED} | {"rows": " ".join(map(str, video.rows))}
        writer.writerow([_harmless(cells[name]) for name in REPORTED])
    return file.getvalue().encode()


def report_name(manifest: str) -> str:
    """Where the report of a manifest goes: beside it, `prompts.csv` to `prompts.report.csv`."""
    stem, _, _ = manifest.rpartition(".")
    return f"{stem}.report.csv"


def _harmless(value: object) -> object:
    """A cell that a spreadsheet shows as text."""
    if isinstance(value, int | float):
        return value
    text = redact("" if value is None else value, 1000)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
