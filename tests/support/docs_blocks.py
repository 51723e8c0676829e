"""The fenced blocks of the guides: what is run, and what is marked as not run, with its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<not_run>[^\n]*\S) -->\n)?```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    code: str
    not_run: str | None
    """Why it cannot be run, as the comment in front of it says."""


BLOCKS = {
    guide: [Block(found["language"], found["code"], found["not_run"]) for found in _BLOCK.finditer(text)]
    for guide, text in GUIDES.items()
}


def to_run(guide: str, language: str) -> list[str]:
    """The code of a guide's blocks of one language, without those that are marked."""
    return [block.code for block in BLOCKS[guide] if block.language == language and block.not_run is None]


def example(guide: str, number: int = 0) -> dict[str, Any]:
    """The names that a guide's Python example defines."""
    names: dict[str, Any] = {"__name__": guide}
    exec(compile(to_run(guide, "python")[number], guide, "exec"), names)
    return names
