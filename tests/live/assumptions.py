"""Every assumption about Loova, by section, and the table of docs/assumptions.md that is made of them."""

from __future__ import annotations

from tests.live.api import API
from tests.live.model import Assumption, Row, Seen, judge
from tests.live.polls import POLLS
from tests.live.submits import SUBMITS
from tests.live.videos import VIDEOS

SECTIONS: dict[str, tuple[Assumption, ...]] = {
    "The API": API,
    "The submit": SUBMITS,
    "The polls": POLLS,
    "The video": VIDEOS,
}
ASSUMPTIONS = tuple(one for section in SECTIONS.values() for one in section)


def rows(seen: Seen) -> list[Row]:
    """Compare every assumption with what was seen."""
    return [judge(one, seen) for one in ASSUMPTIONS]


def tables() -> str:
    """Return the tables of docs/assumptions.md."""
    return "\n".join(f"## {title}\n\n{_table(section)}" for title, section in SECTIONS.items())


def _table(section: tuple[Assumption, ...]) -> str:
    lines = ["| Id | Assumption | Source | If it is wrong | Live check |", "|---|---|---|---|---|"]
    lines += [f"| `{one.id}` | {one.claim} | {one.source} | {one.if_wrong} | {one.live} |" for one in section]
    return "\n".join(lines) + "\n"
