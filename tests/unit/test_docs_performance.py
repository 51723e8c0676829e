"""The figures that docs/performance.md shows are those of docs/benchmarks, which `make bench` wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks.page import DOCS, section

PAGE = (DOCS / "performance.md").read_text()
RESULTS = sorted((DOCS / "benchmarks").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_section_of_the_page_is_what_a_run_wrote(path: Path) -> None:
    assert f"<!-- {path.stem} -->\n\n{section(path.stem)}\n\n<!-- end -->" in PAGE


def test_each_section_has_a_run_and_each_run_a_section() -> None:
    sections = [name for name in re.findall(r"<!-- ([a-z-]+) -->", PAGE) if name != "end"]
    assert sorted(sections) == [path.stem for path in RESULTS]


def test_every_run_was_on_one_machine_and_of_committed_code() -> None:
    runs = [json.loads(path.read_text()) for path in RESULTS]
    assert len({json.dumps(run["machine"]) for run in runs}) == 1
    assert not [run["name"] for run in runs if run["revision"].endswith("-dirty")]
