"""The figures that docs/performance.md shows are those of docs/benchmarks, which `make bench` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "performance.md").read_text()
RESULTS = sorted((DOCS / "benchmarks").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_table_of_the_page_is_that_of_a_run(path: Path) -> None:
    result = json.loads(path.read_text())
    assert f"```\n$ {result['command']}\n\n{result['table']}\n```" in PAGE
    assert f"benchmarks/{path.name}" in PAGE


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_aim_of_a_run_stands_in_the_page_reached_or_missed(path: Path) -> None:
    for aim, reached in json.loads(path.read_text())["aims"].items():
        assert f"- {'reached' if reached else '**missed**'}: {aim}\n" in PAGE


def test_every_run_was_on_the_machine_that_the_page_names() -> None:
    assert RESULTS
    for path in RESULTS:
        machine = json.loads(path.read_text())["machine"]
        assert f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}" in PAGE
