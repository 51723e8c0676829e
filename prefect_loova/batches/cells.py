"""A cell of a list as people write it: several media in one cell, and numbers as a spreadsheet saves them."""

from __future__ import annotations

import re

HOW = 'a name with spaces needs quotes within the cell ("my cat.png"), or use JSON lines (.jsonl)'
"""How to write what a cell cannot hold bare."""

_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»"}
_COMMA = re.compile(r",(?=\s|$)|(?<=[.]\w\w),|(?<=[.]\w\w\w),|(?<=[.]\w\w\w\w),")
_AFTER_QUOTE = re.compile(r"[\s,#]")
_MARK = re.compile(r"#[^\s,]+|")
_MOST = 20
_WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,18})([.,]0{1,2})?")


def split_media(cell: str) -> list[str]:
    """The media that a cell names, separated by white space or by commas; those in quotes may hold either.

    A comma within a URL is a part of it, unless white space or another URL follows. A backslash is a backslash.

    Args:
        cell: What is in the cell.

    Raises:
        ValueError: A quote is not closed, or something is glued to it.
    """
    media, left = list[str](), cell
    while left := left.lstrip().removeprefix(",").lstrip():
        if len(media) > _MOST:  # the rules refuse so many, whatever they are
            return [*media, *left.split()]
        found, left = _quoted(left) if left[0] in _QUOTES else _bare(left)
        if found:
            media.append(found)
    return media


def parse_whole_number(cell: str) -> int | str:
    """A whole number where the cell holds one, also as `5.0` or `5,0`; else the text, for the rules to refuse."""
    found = _WHOLE_NUMBER.fullmatch(cell)
    return int(found[1]) if found else cell


def _quoted(text: str) -> tuple[str, str]:
    close = _QUOTES[text[0]]
    end = text.find(close, 1)
    while 0 <= end < len(text) - 1 and not _AFTER_QUOTE.match(text, end + 1):
        end = text.find(close, end + 1)
    if end < 0 and text[0] == "'":
        return _bare(text)  # an apostrophe
    if end < 0:
        raise ValueError(f"a quote is not closed: {HOW}")
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
    found = re.search(r"\s", text)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])
