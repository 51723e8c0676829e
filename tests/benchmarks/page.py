"""Write the figures of docs/benchmarks/*.json into the documentation: `python -m tests.benchmarks.page`.

A page marks the text that is generated with `<!-- NAME -->` and `<!-- end -->`. Each benchmark has such a page beside
its JSON, with its whole table; docs/performance.md has the six figures that matter to a user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RUNS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "benchmarks").glob("*.json"))
}


def section(name: str) -> str:
    """Return the table, plot and aims of a benchmark as markdown."""
    run = RUNS[name]
    aims = [f"- {'reached' if reached else '**missed**'}: {aim}" for aim, reached in run["aims"].items()]
    plot = [f"![{name}]({name}.svg)", ""] if (DOCS / "benchmarks" / f"{name}.svg").exists() else []
    return "\n".join(
        [
            f"```\n$ {run['command']}\n\n{run['table']}\n```",
            "",
            *plot,
            *aims,
            "",
            f"{run['date']}, revision {run['revision']}; {environment([name])}. [All figures]({name}.json).",
        ]
    )


def environment(names: Iterable[str]) -> str:
    """Return the machine and the versions that these benchmarks ran on."""
    runs = [RUNS[name] for name in names]
    machine, versions = runs[0]["machine"], {name: version for run in runs for name, version in run["versions"].items()}
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"Python {machine['python']}, {', '.join(f'{name} {version}' for name, version in versions.items())}"
    )


def lost_reply() -> dict[str, Any]:
    """Return by package: its paid POSTs, and those of the same call again, where the connection is closed."""
    rows = RUNS["lost-reply"]["figures"]["rows"]
    return {row["package"]: (row["paid_posts"], row["paid_posts_again"]) for row in rows if row["scenario"] == "closed"}


def saving(mib: int, server: str = "seaweedfs") -> dict[str, dict[str, float]]:
    """Return by program: the medians of saving a video of this size."""
    medians: dict[str, dict[str, float]] = RUNS["saving"]["figures"][server][f"{mib} MiB"]["medians"]
    return medians


def overhead(program: str, what: str = "one") -> dict[str, float]:
    """Return the medians of what a program costs beside the generation; `what` is `one` or `batch`."""
    costs = [one["cost"] for one in RUNS["overhead"]["figures"][what][program]]
    return {measure: median(cost[measure] for cost in costs) for measure in costs[0]}


def scale(requests: int) -> dict[str, Any]:
    """Return what one video costs in a batch of so many."""
    (size,) = (size for size in RUNS["scale"]["figures"]["found"] if size["requests"] == requests)
    return dict(size)


def deployed(flow: str, step: str = "taken_up_to_post") -> float:
    """Return the median seconds of one step of a deployed run, up to its paid POST."""
    return median(run[step] for run in RUNS["start"]["figures"]["deployed_runs"][flow])


OURS, PLAIN = "prefect-loova", "(b) Prefect flow of three tasks"


def figures() -> str:
    """Return the six figures of docs/performance.md as a markdown table."""
    posts, waiting, film = lost_reply(), RUNS["waiting"]["figures"], saving(1024)
    ours, plain, batch = overhead(OURS), overhead(PLAIN), scale(1000)
    rows = {
        "lost-reply": (
            "Paid POSTs after a lost answer: in the run that lost it + in the next run",
            "{} + {}".format(*posts[OURS]),
            "`fal-client`: {} + {}; `openai`: {} + {}".format(*posts["fal-client"], *posts["openai"]),
        ),
        "waiting": (
            "Time until a finished generation is noticed (median); polls for a generation of 3 h",
            "{lag_median:.0f} s; {polls_for_3_h:.0f} polls".format(**waiting[OURS]),
            "one poll every 60 s: {lag_median:.0f} s; {polls_for_3_h} polls".format(**waiting["every 60 s"]),
        ),
        "saving": (
            "Time and memory to save a video of 1 GiB in S3",
            "{seconds:.1f} s, {over_idle_mib:.0f} MiB".format(**film["ours"]),
            "`httpx` and `upload_fileobj`: {seconds:.1f} s, {over_idle_mib:,.0f} MiB".format(
                **film["httpx, upload_fileobj"]
            ),
        ),
        "overhead": (
            "Time and requests that one video adds to its generation",
            _beside(ours),
            f"a plain Prefect flow: {_beside(plain)}",
        ),
        "scale": (
            "Time for each video of a batch of 1,000; peak memory of the run",
            f"{batch['seconds']:.2f} s; {batch['peak_mib']:.0f} MiB",
            f"a plain Prefect flow: {batch['plain_seconds']:.2f} s; {batch['plain_peak_mib']:.0f} MiB",
        ),
        "start": (
            "Time from the start of a deployed run to its paid POST",
            f"{deployed('generate_video'):.1f} s",
            f"a plain Prefect flow: {deployed('plain flow'):.1f} s",
        ),
    }
    table = ["| What | prefect-loova | Alternatives | Command and table |", "|---|---|---|---|"]
    for name, cells in rows.items():
        table.append(f"| {' | '.join(cells)} | [`{RUNS[name]['command']}`](benchmarks/{name}.md) |")
    dates = sorted({RUNS[name]["date"] for name in rows})
    return "\n".join([*table, "", f"Measured on {' and '.join(dates)}; {environment(rows)}."])


def _beside(cost: Mapping[str, float]) -> str:
    return "{seconds beyond:.2f} s; {S3 requests:.0f} to S3, {API requests:.0f} to Prefect".format(**cost)


def generated() -> dict[Path, dict[str, str]]:
    """Return each page's generated texts, by marker."""
    pages = {DOCS / "benchmarks" / f"{name}.md": {name: section(name)} for name in RUNS}
    return {DOCS / "performance.md": {"figures": figures()}, **pages}


def marked(name: str, text: str) -> str:
    """Return the text between its markers."""
    return f"<!-- {name} -->\n\n{text}\n\n<!-- end -->"


def main() -> None:
    """Write the generated texts into their pages."""
    for path, texts in generated().items():
        page = path.read_text()
        for name, text in texts.items():
            new = marked(name, text)
            page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, new=new: new, page, flags=re.DOTALL)
        path.write_text(page)


if __name__ == "__main__":
    main()
