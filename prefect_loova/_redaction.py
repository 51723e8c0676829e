"""Remove secrets from foreign text: queries and passwords of URLs, signatures, and the API key, in any encoding.

A server may return text that it received percent-encoded, in HTML or JSON, in base64 or as hex digits, or in several of
these encodings. So the text is also searched with its escapes decoded once, twice and so on. A piece with a secret in
base64 or hex digits at any depth is replaced. A word with a URL's secret is returned decoded, without the secret. All
other text is unchanged. The time is linear in the length of the text.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from html.entities import html5
from itertools import accumulate

from prefect_loova._url_signatures import SIGNATURES

_SCHEME = r"[a-z][a-z0-9+.-]{0,20}://"
_URL_START = re.compile(_SCHEME, re.IGNORECASE)
_URL_USER = re.compile(rf"({_SCHEME})[^\s/?#<>]*@", re.IGNORECASE)
_NO_SECRETS = frozenset({"expires", "policy", "hash-algorithm"})
_KNOWN = frozenset().union(*(one.needs | one.may_have for one in SIGNATURES))
_NAMES = sorted(name for name in _KNOWN - _NO_SECRETS if len(name) > 5 or "-" in name)
_NAMED = rf"\b(x-(?:amz|goog|tos|oss|cos)-[a-z0-9-]{{1,40}}|{'|'.join(_NAMES)}|sig|token|auth_key|access_token)="
_SIGNATURE = re.compile(rf"{_NAMED}[^\s&\"'<>]+", re.IGNORECASE)
_PIECE = re.compile(r"[^\s\"'<>]+")

_ESCAPE = re.compile(
    r"%(?:25)*(?P<percent>[0-7][0-9a-f])"
    r"|(?<!\\)\\+(?:(?:u00|x)(?P<code>[0-7][0-9a-f])|u\{0*(?P<braced>[0-7]?[0-9a-f])\}|(?P<letter>[/nrt]))"
    r"|&(?:amp;)*(?:#0*(?P<decimal>\d{1,7})|#x0*(?P<hex>[0-9a-f]{1,6})|(?P<name>[a-z]{2,20})(?=;));?",
    re.IGNORECASE,
)
_LETTERS = {"/": "/", "n": "\n", "r": "\r", "t": "\t"}
_KEPT = frozenset("\"'<>`")  # decoded, they would end a URL before its secret ends
_ROUNDS = 8

_SHORTEST_RUN = 11
_RUN = re.compile(rf"[a-z0-9+/_-]{{{_SHORTEST_RUN},}}(?:[ \t]*\r?\n[ \t]*[a-z0-9+/_-]+)*", re.IGNORECASE)
"""base64 or hex digits, on one or more lines. The shortest key is 11 characters in base64."""
_HEX = re.compile(r"[0-9a-f]{16,}", re.IGNORECASE)
_URL = re.compile(rf"[a-z]{{2}}://|{_NAMED}", re.IGNORECASE)
_SUSPECT = re.compile(rb"[a-z0-9_-]=|%[0-9a-f]|&[#a-z]|\\[/nrtux\\]|://", re.IGNORECASE)
"""What is in every URL, signature and escape. Most digests have none of it, and are not searched further."""
_SHORTEST_KEY = 8
"""The shortest API key that is searched in encoded text, in characters. A shorter one may occur by chance."""


def hide_secrets(text: str, key: str = "") -> str:
    """Return a text without queries and passwords of URLs, without signatures, and without the API key.

    Args:
        text: Foreign text.
        key: The API key, if known.
    """
    if len(text) < _SHORTEST_RUN and not set("%&\\=:") & set(text):  # a word: nothing is packed in it, and no URL
        return text.replace(key, "[API key]") if key else text
    sought = key if len(key) >= _SHORTEST_KEY else ""
    text = _hide_in_plain(_hide_packed(text, sought))
    if set("%&\\") & set(text):
        text = "".join(_hide_in_word(word) for word in re.split(r"(\s+)", text))
        text = _hide_key(text, sought) if sought else text
    return text.replace(key, "[API key]") if key else text


def _hide_in_plain(text: str) -> str:
    return _SIGNATURE.sub(r"\1=...", _URL_USER.sub(r"\1...@", _PIECE.sub(_hide_query, text)))


def _hide_query(piece: re.Match[str]) -> str:
    start = _URL_START.search(piece[0]) if "?" in piece[0] else None
    query = piece[0].find("?", start.end()) if start else -1
    return piece[0] if query < 0 else f"{piece[0][:query]}?..."


def _hide_in_word(word: str) -> str:
    """Return a word without secrets of URLs. It is decoded only if it has any."""
    decoded = word
    for _ in range(_ROUNDS):
        before, decoded = decoded, _ESCAPE.sub(_readable, decoded)
        if decoded == before:
            safe = _hide_in_plain(decoded)
            return word if safe == decoded else safe
    return "..."


def _readable(escape: re.Match[str]) -> str:
    """Return the printable ASCII character of an escape, or the escape itself."""
    character = _meaning(escape)
    return character if "!" <= character <= "~" and character not in _KEPT else escape[0]


def _meaning(escape: re.Match[str]) -> str:
    """Return the ASCII character of an escape, or an empty string."""
    if escape["letter"]:
        return _LETTERS.get(escape["letter"], "")
    if escape["name"]:
        character = html5.get(f"{escape['name']};", "")
        return character if len(character) == 1 and character.isascii() else ""
    code = escape["percent"] or escape["code"] or escape["braced"] or escape["hex"]
    number = int(code, 16) if code else int(escape["decimal"])
    return chr(number) if number < 0x80 else ""


def _depths(text: str) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the text, then the text with its escapes decoded once, twice and so on, including white space and quotes.

    Yields:
        The decoded text, and the positions of its characters and of its end in the given text.
    """
    positions: Sequence[int] = range(len(text) + 1)
    yield text, positions
    for _ in range(_ROUNDS):
        parts: list[str] = []
        origins: list[int] = []
        end = 0
        for escape in _ESCAPE.finditer(text):
            if character := _meaning(escape):
                parts += text[end : escape.start()], character
                origins += positions[end : escape.start() + 1]
                end = escape.end()
        if not parts:
            return
        text, positions = "".join(parts) + text[end:], [*origins, *positions[end:]]
        yield text, positions


def _hide_packed(text: str, key: str) -> str:
    """Return a text without the pieces that contain a secret in base64 or hex digits, at any depth of escapes."""
    spans = sorted(
        (positions[run.start()], positions[run.end()])
        for decoded, positions in _depths(text)
        for run in _RUN.finditer(decoded)
        if _has_secret(run[0], key)
    )
    starts = [start for start, _ in spans]
    ends = list(accumulate((end for _, end in spans), max))

    def hide(piece: re.Match[str]) -> str:
        before = bisect_left(starts, piece.end())
        return "..." if before and ends[before - 1] > piece.start() else piece[0]

    return _PIECE.sub(hide, text) if spans else text


def _hide_key(text: str, key: str) -> str:
    """Return a text without the key, at any depth of escapes."""
    spans = sorted(
        (positions[match.start()], positions[match.end()])
        for decoded, positions in _depths(text)
        for match in re.finditer(re.escape(key), decoded)
    )
    parts: list[str] = []
    position = 0
    for start, end in spans:
        if start >= position:
            parts += text[position:start], "[API key]"
        position = max(position, end)
    return "".join(parts) + text[position:]


def _has_secret(run: str, key: str) -> bool:
    """Return whether base64 or hex digits contain a URL, a signature or the key, or escapes nested too deep."""
    packed = re.sub(r"\s+", "", run).replace("-", "+").replace("_", "/")
    contents = []
    for start in range(4):
        part = packed[start:]
        part = part[:-1] if len(part) % 4 == 1 else part
        contents.append(base64.b64decode(part + "=" * (-len(part) % 4)))
    for digits in _HEX.findall(packed):
        contents += [bytes.fromhex(digits[start:][: (len(digits) - start) // 2 * 2]) for start in (0, 1)]
    return any(
        depth == _ROUNDS or _URL.search(text) or (key and key in text)
        for content in contents
        if _SUSPECT.search(content) or (key and key.encode() in content)
        for depth, (text, _) in enumerate(_depths(content.decode("latin-1")))
    )
