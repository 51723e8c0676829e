"""Hide what is secret in foreign text: queries and passwords of URLs, signatures, the API key, in each encoding.

A server may send back what it was given percent-encoded, in HTML or JSON, in base64 or as hex digits, also one in the
other. The text is read as it is and with its escapes decoded once, twice and so on. A piece that holds a secret in
base64 or hex digits at any of these depths is not shown. A word that holds a URL's secret is shown decoded, without the
secret. Everything else stays as it is. All of it takes linear time.
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
_KEPT = frozenset("\"'<>`")  # they end a URL in a text: decoded, they would end it before its secret does
_ROUNDS = 8

_RUN = re.compile(r"[a-z0-9+/_-]{11,}(?:[ \t]*\r?\n[ \t]*[a-z0-9+/_-]+)*", re.IGNORECASE)
"""base64 or hex digits, in one line or more; 11 characters of base64 hold the shortest key."""
_HEX = re.compile(r"[0-9a-f]{16,}", re.IGNORECASE)
_URL = re.compile(rf"[a-z]{{2}}://|{_NAMED}", re.IGNORECASE)
_SHORTEST_KEY = 8
"""Characters of the shortest API key that is looked for in encoded text: a shorter one may be there by chance."""


def hide_secrets(text: str, key: str = "") -> str:
    """A text without the queries and passwords of its URLs, without signatures, and without the API key.

    Args:
        text: What somebody else wrote.
        key: The API key, where it is known.
    """
    sought = key if len(key) >= _SHORTEST_KEY else ""
    text = _plainly(_without_packed(text, sought))
    if set("%&\\") & set(text):
        text = "".join(_word(word) for word in re.split(r"(\s+)", text))
        text = _without_key(text, sought) if sought else text
    return text.replace(key, "[API key]") if key else text


def _plainly(text: str) -> str:
    return _SIGNATURE.sub(r"\1=...", _URL_USER.sub(r"\1...@", _PIECE.sub(_without_query, text)))


def _without_query(piece: re.Match[str]) -> str:
    start = _URL_START.search(piece[0]) if "?" in piece[0] else None
    query = piece[0].find("?", start.end()) if start else -1
    return piece[0] if query < 0 else f"{piece[0][:query]}?..."


def _word(word: str) -> str:
    """A word without the secrets of URLs in it when it is decoded; decoded only where there are any."""
    decoded = word
    for _ in range(_ROUNDS):
        before, decoded = decoded, _ESCAPE.sub(_readable, decoded)
        if decoded == before:
            safe = _plainly(decoded)
            return word if safe == decoded else safe
    return "..."


def _readable(escape: re.Match[str]) -> str:
    """The printable character of ASCII that an escape means, or the escape as it is."""
    character = _meaning(escape)
    return character if "!" <= character <= "~" and character not in _KEPT else escape[0]


def _meaning(escape: re.Match[str]) -> str:
    """The character of ASCII that an escape means, or nothing."""
    if escape["letter"]:
        return _LETTERS.get(escape["letter"], "")
    if escape["name"]:
        character = html5.get(f"{escape['name']};", "")
        return character if len(character) == 1 and character.isascii() else ""
    code = escape["percent"] or escape["code"] or escape["braced"] or escape["hex"]
    number = int(code, 16) if code else int(escape["decimal"])
    return chr(number) if number < 0x80 else ""


def _depths(text: str) -> Iterator[tuple[str, Sequence[int]]]:
    """The text as it is, then with its escapes decoded once, twice and so on, white space and quotes too.

    Yields:
        The text, and where in the given text each of its characters, and its end, comes from.
    """
    places: Sequence[int] = range(len(text) + 1)
    yield text, places
    for _ in range(_ROUNDS):
        parts: list[str] = []
        origins: list[int] = []
        end = 0
        for escape in _ESCAPE.finditer(text):
            if character := _meaning(escape):
                parts += text[end : escape.start()], character
                origins += places[end : escape.start() + 1]
                end = escape.end()
        if not parts:
            return
        text, places = "".join(parts) + text[end:], [*origins, *places[end:]]
        yield text, places


def _without_packed(text: str, key: str) -> str:
    """A text without the pieces that hold a secret in base64 or hex digits, at any depth of escapes."""
    spans = sorted(
        (places[run.start()], places[run.end()])
        for decoded, places in _depths(text)
        for run in _RUN.finditer(decoded)
        if _holds(run[0], key)
    )
    starts = [start for start, _ in spans]
    ends = list(accumulate((end for _, end in spans), max))

    def shown(piece: re.Match[str]) -> str:
        before = bisect_left(starts, piece.end())
        return "..." if before and ends[before - 1] > piece.start() else piece[0]

    return _PIECE.sub(shown, text) if spans else text


def _without_key(text: str, key: str) -> str:
    """A text without the key, at any depth of escapes."""
    spans = sorted(
        (places[found.start()], places[found.end()])
        for decoded, places in _depths(text)
        for found in re.finditer(re.escape(key), decoded)
    )
    parts: list[str] = []
    shown = 0
    for start, end in spans:
        if start >= shown:
            parts += text[shown:start], "[API key]"
        shown = max(shown, end)
    return "".join(parts) + text[shown:]


def _holds(run: str, key: str) -> bool:
    """Whether a run of base64 or hex digits holds a URL, a signature or the key, or escapes without an end."""
    packed = re.sub(r"\s+", "", run).replace("-", "+").replace("_", "/")
    found = []
    for start in range(4):
        part = packed[start:]
        part = part[:-1] if len(part) % 4 == 1 else part
        found.append(base64.b64decode(part + "=" * (-len(part) % 4)))
    for digits in _HEX.findall(packed):
        found += [bytes.fromhex(digits[start:][: (len(digits) - start) // 2 * 2]) for start in (0, 1)]
    return any(
        depth == _ROUNDS or _URL.search(text) or (key and key in text)
        for content in found
        for depth, (text, _) in enumerate(_depths(content.decode("latin-1")))
    )
