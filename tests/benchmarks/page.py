"""Put the figures of docs/benchmarks into docs/performance.md: `python -m tests.benchmarks.page`.

What stands between `<!-- NAME -->` and `<!-- end -->` there is written anew, from `docs/benchmarks/NAME.json`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def section(name: str) -> str:
    """A benchmark's table, aims and plot, as markdown."""
    result = json.loads((DOCS / "benchmarks" / f"{name}.json").read_text())
    aims = [f"- {'reached' if reached else '**missed**'}: {aim}" for aim, reached in result["aims"].items()]
    plot = [f"![{name}](benchmarks/{name}.svg)", ""] if (DOCS / "benchmarks" / f"{name}.svg").exists() else []
    machine, versions = result["machine"], ", ".join(f"{name} {one}" for name, one in result["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    return "\n".join(
        [
            f"```\n$ {result['command']}\n\n{result['table']}\n```",
            "",
            *plot,
            *aims,
            "",
            f"{result['date']}, revision {result['revision']}; {where}; Python {machine['python']}, {versions}. "
            f"[All figures](benchmarks/{name}.json).",
        ]
    )


def main() -> None:
    """Write the page anew."""
    page = DOCS / "performance.md"
    text = page.read_text()
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        made = f"<!-- {path.stem} -->\n\n{section(path.stem)}\n\n<!-- end -->"
        text = re.sub(rf"<!-- {path.stem} -->.*?<!-- end -->", lambda _, made=made: made, text, flags=re.DOTALL)
    page.write_text(text)


if __name__ == "__main__":
    main()
