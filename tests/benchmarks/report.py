"""Print and write the result of a benchmark: its table, command, machine and versions.

The JSON is `.bench/NAME.json`. `BENCH_RESULTS` names another folder. The documentation shows the files in
docs/benchmarks (`page.py`).
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(os.environ.get("BENCH_RESULTS", ROOT / ".bench"))

Cell = str | float | int | None


def finish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    aims: Mapping[str, bool],
    figures: Mapping[str, Any],
    target: str | None = None,
    packages: Iterable[str] = (),
    tools: Mapping[str, str] | None = None,
    plot: Callable[[Any], None] | None = None,
) -> None:
    """Print the table and aims of a benchmark, and write them with all measurements.

    Args:
        name: The name of the files: `NAME.json` and, with a plot, `NAME.svg`.
        title: What the table shows, in one line.
        columns: The headings of the table. The first column names the program, the others what was measured.
        rows: The cells. None means not measured.
        aims: Each aim as a sentence with its bound, and whether this run reached it.
        figures: All measurements.
        target: The target of make that runs the benchmark, `bench-TARGET`. By default it is the name.
        packages: Python packages whose versions matter.
        tools: Other programs, with their versions.
        plot: A function that draws into a matplotlib `Figure`.
    """
    rows = [list(row) for row in rows]
    text = "\n".join([title, "", *_table([list(columns), *rows])])
    result = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
        "command": f"make bench-{target or name}" + (f' ARGS="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""),
        "machine": machine(),
        "versions": {package: version(package) for package in ("prefect", "httpx", "boto3", *packages)} | (tools or {}),
        "table": text,
        "aims": dict(aims),
        "figures": dict(figures),
    }
    print(f"\n{text}\n")
    for aim, reached in aims.items():
        print(f"{'reached' if reached else 'MISSED '}  {aim}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    if plot:
        _draw(plot, RESULTS / f"{name}.svg")
    print(f"\nAll figures: {RESULTS / name}.json")


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Return the processor, memory and system of this machine."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _table(rows: list[list[Cell]]) -> list[str]:
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in texts]


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _draw(plot: Callable[[Any], None], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    plot(figure)
    figure.savefig(path, metadata={"Date": None})
