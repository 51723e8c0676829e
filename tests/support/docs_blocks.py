"""The fenced code blocks of the guides: those that tests run, and those marked as not run, with the reason."""

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
    """The reason in the comment before the block, if it cannot be run."""


BLOCKS = {
    guide: [Block(found["language"], found["code"], found["not_run"]) for found in _BLOCK.finditer(text)]
    for guide, text in GUIDES.items()
}


def to_run(guide: str, language: str) -> list[str]:
    """Return the code of a guide's blocks of one language, without those marked as not run."""
    return [block.code for block in BLOCKS[guide] if block.language == language and block.not_run is None]


def example(guide: str, number: int = 0) -> dict[str, Any]:
    """Run a guide's Python example and return the names that it defines."""
    names: dict[str, Any] = {"__name__": guide}
    exec(compile(to_run(guide, "python")[number], guide, "exec"), names)
    return names
