"""Read a cell of a list: several media in one cell, and numbers as a spreadsheet saves them."""

from __future__ import annotations

import re

CELL_HINT = 'a name with spaces needs quotes within the cell ("my cat.png"), or use JSON lines (.jsonl)'
"""How to write a name with spaces."""

_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»"}
_COMMA = re.compile(r",(?=\s|$)|(?<=[.]\w\w),|(?<=[.]\w\w\w),|(?<=[.]\w\w\w\w),")
_AFTER_QUOTE = re.compile(r"[\s,#]")
_MARK = re.compile(r"#[^\s,]+|")
_MAX_MEDIA = 20
_WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,18})([.,]0{1,2})?")


def split_media(cell: str) -> list[str]:
    """Return the media that a cell names. White space or commas separate them; a name in quotes may contain both.

    A comma in a URL is part of it, unless white space or another URL follows. A backslash has no special meaning.

    Args:
        cell: The text of the cell.

    Raises:
        ValueError: A quote is not closed, or text follows it directly.
    """
    media, left = list[str](), cell
    while left := left.lstrip().removeprefix(",").lstrip():
        if len(media) > _MAX_MEDIA:  # the request refuses so many
            return [*media, *left.split()]
        name, left = _quoted(left) if left[0] in _QUOTES else _bare(left)
        if name:
            media.append(name)
    return media


def parse_whole_number(cell: str) -> int | str:
    """Return the whole number of a cell, also of `5.0` or `5,0`; else its text, which the request then refuses."""
    match = _WHOLE_NUMBER.fullmatch(cell)
    return int(match[1]) if match else cell


def _quoted(text: str) -> tuple[str, str]:
    close = _QUOTES[text[0]]
    end = text.find(close, 1)
    while 0 <= end < len(text) - 1 and not _AFTER_QUOTE.match(text, end + 1):
        end = text.find(close, end + 1)
    if end < 0 and text[0] == "'":
        return _bare(text)  # an apostrophe
    if end < 0:
        raise ValueError(f"a quote is not closed: {CELL_HINT}")
    mark = _MARK.match(text, end + 1)
    assert mark is not None  # noqa: S101
    return text[1:end] + mark[0], text[mark.end() :]


def _bare(text: str) -> tuple[str, str]:
    word, space, rest = _cut_at_space(text)
    for comma in _COMMA.finditer(word):
        after = word[comma.end() :]
        is_url, next_is_url = "://" in word[: comma.start()], re.match(r"(https?|s3)://", after, re.IGNORECASE)
        if not after or next_is_url or not is_url:
            return word[: comma.start()], after + space + rest
    return word, rest


def _cut_at_space(text: str) -> tuple[str, str, str]:
    space = re.search(r"\s", text)
    return (text, "", "") if space is None else (text[: space.start()], space[0], text[space.end() :])
