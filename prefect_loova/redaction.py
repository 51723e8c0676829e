"""Hide what is secret in foreign text: queries and passwords of URLs, signatures, the API key, in each encoding.

A server may send back what it was given percent-encoded, in HTML or JSON, in base64 or as hex digits, also one in the
other. A word that holds a secret so is shown decoded, without the secret; every other word stays as it is. All of it
takes linear time.
"""

from __future__ import annotations

import base64
import re
from html.entities import html5

from prefect_loova.signatures import SIGNATURES

_SCHEME = r"[a-z][a-z0-9+.-]{0,20}://"
_URL_START = re.compile(_SCHEME, re.IGNORECASE)
_URL_USER = re.compile(rf"({_SCHEME})[^\s/?#<>]*@", re.IGNORECASE)
_NO_SECRETS = frozenset({"expires", "policy", "hash-algorithm"})
_KNOWN = frozenset().union(*(one.needs | one.may_have for one in SIGNATURES))
_NAMES = sorted(name for name in _KNOWN - _NO_SECRETS if len(name) > 5 or "-" in name)
_SIGNATURE = re.compile(
    rf"\b(x-(?:amz|goog|tos|oss|cos)-[a-z0-9-]{{1,40}}|{'|'.join(_NAMES)}|sig|token|auth_key|access_token)=[^\s&\"'<>]+",
    re.IGNORECASE,
)

_ESCAPE = re.compile(
    r"%(?:25)*(?P<percent>[0-7][0-9a-f])"
    r"|(?<!\\)\\+(?:(?:u00|u\{0{0,4}|x)(?P<code>[0-7][0-9a-f])\}?|(?P<slash>/))"
    r"|&(?:amp;)*(?:#(?P<decimal>\d{1,7})|#x(?P<hex>[0-9a-f]{1,6})|(?P<name>[a-z]{2,20})(?=;));?",
    re.IGNORECASE,
)
_KEPT = frozenset("\"'<>`")  # they end a URL in a text: decoded, they would end it before its secret does
_ROUNDS = 8

_BREAK = (
    r"(?:\r?\n|(?:%(?:25)*0d)?%(?:25)*0a|\\+(?:r\\+)?n|(?:&(?:amp;)*#(?:13|x0*d);?)?&(?:amp;)*#(?:10|x0*a);?"
    r"|(?:\\+u000d)?\\+u000a)"
)
"""The end of a line of base64, itself encoded or not."""
_RUN = re.compile(rf"[a-z0-9+/_-]{{16,}}={{0,2}}(?:{_BREAK}[a-z0-9+/_-]+={{0,2}})*", re.IGNORECASE)
_BETWEEN = re.compile(rf"{_BREAK}|\s", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{16,}", re.IGNORECASE)
_URL = re.compile(rf"[a-z]{{2}}://|{_SIGNATURE.pattern}", re.IGNORECASE)
_SHORTEST_KEY = 8
"""Characters of the shortest API key that is looked for in encoded text: a shorter one may be there by chance."""


def hidden(text: str, key: str = "") -> str:
    """A text without the queries and passwords of its URLs, without signatures, and without the API key.

    Args:
        text: What somebody else wrote.
        key: The API key, where it is known.
    """
    if key:
        text = text.replace(key, "[API key]")
    key = key if len(key) >= _SHORTEST_KEY else ""
    text = _RUN.sub(lambda run: "..." if _holds(run[0], key) else run[0], _plainly(text))
    if not set("%&\\") & set(text):
        return text
    return "".join(_word(word, key) for word in re.split(r"(\s+)", text))


def _plainly(text: str) -> str:
    return _SIGNATURE.sub(r"\1=...", _URL_USER.sub(r"\1...@", re.sub(r"[^\s\"'<>]+", _without_query, text)))


def _without_query(piece: re.Match[str]) -> str:
    start = _URL_START.search(piece[0]) if "?" in piece[0] else None
    query = piece[0].find("?", start.end()) if start else -1
    return piece[0] if query < 0 else f"{piece[0][:query]}?..."


def _word(word: str, key: str) -> str:
    """A word without what is secret in it when it is decoded; decoded only where something is."""
    decoded = _decoded(word)
    if decoded == word:
        return word
    if decoded is None:
        return "..."
    safe = _RUN.sub(lambda run: "..." if _holds(run[0], key) else run[0], _plainly(decoded))
    safe = safe.replace(key, "[API key]") if key else safe
    return word if safe == decoded else safe


def _decoded(text: str) -> str | None:
    """The text without escapes of printable ASCII, or None where they never end."""
    for _ in range(_ROUNDS):
        decoded = _ESCAPE.sub(_character, text)
        if decoded == text:
            return text
        text = decoded
    return None


def _character(escape: re.Match[str]) -> str:
    if escape["slash"]:
        return "/"
    if escape["name"]:
        character = html5.get(f"{escape['name']};", "")
    else:
        code = escape["percent"] or escape["code"] or escape["hex"]
        number = int(code, 16) if code else int(escape["decimal"])
        character = chr(number) if number < 0x7F else ""
    is_read = len(character) == 1 and "!" <= character <= "~" and character not in _KEPT
    return character if is_read else escape[0]


def _holds(run: str, key: str) -> bool:
    """Whether a run of base64 or hex digits holds a URL, a signature or the key."""
    packed = _BETWEEN.sub("", run).replace("-", "+").replace("_", "/").rstrip("=")
    found = []
    for start in range(4):
        part = packed[start:]
        whole = len(part) % 4 != 1
        part = part if whole else part[:-1]
        found.append(base64.b64decode(part + "=" * (-len(part) % 4)))
    for digits in _HEX.findall(packed):
        found += [bytes.fromhex(digits[start:][: (len(digits) - start) // 2 * 2]) for start in (0, 1)]
    for content in found:
        text = content.decode("latin-1")
        text = _decoded(text) or text
        if _URL.search(text) or (key and key in text):
            return True
    return False
