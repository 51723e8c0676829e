"""The figures in the documentation are those of docs/benchmarks/*.json, which `make bench` wrote."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from prefect_loova.jobs.wait import PollSchedule
from tests.benchmarks.page import (
    DOCS,
    OURS,
    PLAIN,
    RUNS,
    deployed,
    figures,
    generated,
    lost_reply,
    marked,
    overhead,
    saving,
    scale,
)

SECTIONS = [(path, name, text) for path, texts in generated().items() for name, text in texts.items()]
PAGES = [DOCS / "performance.md", *sorted((DOCS / "benchmarks").glob("*.md"))]


@pytest.mark.parametrize(("path", "name", "text"), SECTIONS, ids=[name for _, name, _ in SECTIONS])
def test_each_generated_section_is_what_a_run_wrote(path: Path, name: str, text: str) -> None:
    assert marked(name, text) in path.read_text()


def test_each_section_has_a_run_and_each_run_a_section() -> None:
    sections = [
        (path, name) for path in PAGES for name in re.findall(r"<!-- ([a-z-]+) -->", path.read_text()) if name != "end"
    ]
    assert sections == [(path, name) for path, name, _ in SECTIONS]
    assert [path.stem for path in PAGES[1:]] == list(RUNS)


def test_the_page_has_six_figures_each_with_the_command_of_its_run() -> None:
    rows = re.findall(r"\| \[`([^`]+)`\]\(benchmarks/([\w-]+)\.md\) \|\n", (DOCS / "performance.md").read_text())
    assert rows == [
        (RUNS[name]["command"], name) for name in ("lost-reply", "waiting", "saving", "overhead", "scale", "start")
    ]


def test_every_run_was_on_one_machine_with_the_same_versions_and_of_committed_code() -> None:
    assert len({str(run["machine"]) for run in RUNS.values()}) == 1
    assert not [name for name, run in RUNS.items() if run["revision"].endswith("-dirty")]
    versions = defaultdict(set)
    for run in RUNS.values():
        for package, version in run["versions"].items():
            versions[package].add(version)
    assert not {package for package, found in versions.items() if len(found) > 1}


def _money() -> list[str]:
    ours_first, ours_again = lost_reply()[OURS]
    by_posts = defaultdict(list)
    for package, (first, again) in lost_reply().items():
        if package != OURS:
            assert first == again
            by_posts[first].append(package)
    peers = [
        f"{', '.join(names[:-1])} and {names[-1]} send {posts}" if names[1:] else f"{names[0]} sends {posts}"
        for posts, names in by_posts.items()
    ]
    return [f"sends {ours_first} paid POST and puts", f"it sends {ours_again}.", *peers]


def _waiting() -> list[str]:
    ours, each_second = RUNS["waiting"]["figures"][OURS], RUNS["waiting"]["figures"]["every 1 s"]
    assert ours["longest_lag_share_over_200_s"] <= 0.1
    first, jitter = PollSchedule().first, PollSchedule().jitter
    return [
        f"{ours['lag_median']:.0f} s late in the median, or {ours['share_median']:.1%} of the generation time",
        f"In 9 of 10 generations it notices within {ours['lag_p90']:.0f} s",
        "10% of the generation time in 9 of 10 generations, and misses it",
        f"{ours['share_over_a_tenth']:.1%} of the generations are noticed later",
        "less than 200 s",
        f"the first pauses last {first * (1 - jitter):.0f} to {first:.0f} s",
        f"{each_second['lag_median']:.1f} s late, and sends {each_second['polls_for_3_h']:,} polls for a generation",
        "of 3 h",
    ]


def _saving() -> list[str]:
    small, large, film, on_moto = saving(8)["ours"], saving(4096)["ours"], saving(1024), saving(1024, "moto")
    sizes = [("seaweedfs", mib) for mib in (8, 64, 1024, 4096)] + [("moto", mib) for mib in (8, 64, 1024)]
    for server, mib in sizes:
        peers = saving(mib, server)
        assert min(one["seconds"] for name, one in peers.items() if "checked" in name) > peers["ours"]["seconds"]
    of_floor = re.findall(r"(?m)^\w+, \d+ MiB: ours +\d+ +[\d.]+ +([\d.]+)", RUNS["saving"]["table"])
    assert len(of_floor) == len(sizes)
    low, high = min(map(float, of_floor)), max(map(float, of_floor))
    pipe = [next(one for name, one in by.items() if name.startswith("curl | aws")) for by in (film, on_moto)]
    return [
        f"of 8 MiB takes {small['seconds']:.1f} s and {small['over_idle_mib']:.0f} MiB of memory",
        f"of 4 GiB takes {large['seconds']:.0f} s and {large['over_idle_mib']:.0f} MiB",
        f"{low:.1f} to {high:.1f} times as long as the slower of download and upload",
        "a SHA-256",
        f"`curl | aws s3 cp -` takes {pipe[0]['seconds']:.1f} s for 1 GiB on SeaweedFS and {pipe[1]['seconds']:.1f} s",
        f"prefect-loova takes {film['ours']['seconds']:.1f} s and {on_moto['ours']['seconds']:.1f} s.",
    ]


def _one_video() -> list[str]:
    ours, plain, without = overhead(OURS), overhead(PLAIN), overhead(f"{OURS}, preview=none")
    requests = RUNS["overhead"]["figures"]["s3_requests_of_one_video"]
    pictures = sum("picture" in reason for _, reason in requests)
    assert len(requests) == ours["S3 requests"]
    preview = RUNS["preview"]["figures"]
    drawn = sorted(film["prefect_loova"]["seconds_median"] for film in preview["films"].values())
    return [
        f"{ours['seconds beyond'] / plain['seconds beyond']:.1f} times as long as in a plain Prefect flow",
        f"{ours['client CPU s'] / plain['client CPU s']:.1f} times the processor time",
        f"{len(requests)} requests to S3: 1 for the video, {len(requests) - 1 - pictures} for the job record",
        f"{pictures} for the pictures",
        f"{without['seconds beyond']:.2f} s and {without['S3 requests']:.0f} requests to S3",
        f"15 s in 1080p take {drawn[0]:.1f} to {drawn[-1]:.1f} s",
        f"a run {preview['in_a_run']['seconds']:.1f} s longer",
    ]


def _batch() -> list[str]:
    compared = RUNS["overhead"]["figures"]
    *smaller, most = (size["requests"] for size in RUNS["scale"]["figures"]["found"])
    each = scale(most)
    for size in (scale(requests) for requests in smaller if requests >= 100):
        assert all(each[name] <= 1.05 * size[name] for name in ("seconds", "prefect_requests", "s3_requests"))
    growth = next(re.findall(r"\((\d+) KiB\)", aim)[0] for aim in RUNS["scale"]["aims"] if "memory" in aim)
    seconds = {name: median(run["seconds"] for run in runs) for name, runs in compared["batch"].items()}
    ours, without = (seconds[name] / seconds[PLAIN] for name in (OURS, f"{OURS}, preview=none"))

    def over(measure: str) -> str:
        return f"{overhead(f'{OURS}, preview=none', 'batch')[measure] / overhead(PLAIN, 'batch')[measure]:.1f}"

    return [
        f"At {most:,} videos, each takes {each['seconds']:.2f} s, {each['s3_requests']:.0f} requests to S3",
        f"{each['prefect_requests']:.1f} to Prefect's API, and {each['database_kib']:.0f} KiB of Prefect's database",
        f"peaks at {each['peak_mib']:.0f} MiB, and grows by {growth} KiB",
        f"{each['again_s3_requests']:.0f} requests to S3 and {each['again_seconds'] * 1000:.0f} ms for each video",
        f"of {compared['generation_seconds']:.0f} s, a batch of {compared['requests']} takes {ours:.1f} times as long",
        f"{without:.1f} times without pictures",
        "at most 1.5 times the plain flow",
        f"messages to Prefect ({over('API messages')}) and the processor time of its server ({over('server CPU s')})",
        f"seconds ({over('seconds beyond')}) and the processor time of the client ({over('client CPU s')}) do not",
    ]


def _start() -> list[str]:
    imports = RUNS["start"]["figures"]["import_seconds"]
    runs = RUNS["start"]["figures"]["deployed_runs"]["generate_video"]

    def over(name: str, base: str) -> float:
        return median(one - other for one, other in zip(imports[name], imports[base], strict=True))

    assert abs(over("import prefect, prefect_loova", "import prefect")) < 0.05
    held_up = sum(run["running_to_post"] > 1.5 for run in runs)
    return [
        f"{median(imports['generate_video']):.1f} s, {over('generate_video', 'plain flow'):.2f} s more than a plain",
        f"{deployed('generate_video'):.1f} s after a worker takes it up",
        f"a plain flow after {deployed('plain flow'):.1f} s",
        f"held up {held_up} of {len(runs)} runs: more than 1.5 s",
    ]


CLAIMS: dict[str, Callable[[], list[str]]] = {
    "Money: a lost answer": _money,
    "Time: waiting": _waiting,
    "Time and memory: saving": _saving,
    "Time and requests: one video": _one_video,
    "Time and memory: a batch": _batch,
    "Time: start": _start,
}
"""The phrases with a number of each section of docs/performance.md, made of the figures."""


def test_the_readme_names_the_most_paid_posts_of_a_peer() -> None:
    most = max(first for package, (first, _) in lost_reply().items() if package != OURS)
    assert f"other clients send up to {most} paid POSTs" in (DOCS.parent / "README.md").read_text()


def test_each_section_of_the_page_has_its_claims() -> None:
    introduction, *sections = (DOCS / "performance.md").read_text().split("\n## ")
    assert [section.partition("\n")[0] for section in sections] == list(CLAIMS)
    assert not re.search(r"\d", introduction.replace(marked("figures", figures()), "").replace("S3", ""))


@pytest.mark.parametrize("heading", CLAIMS)
def test_every_number_in_the_text_of_the_page_is_a_runs(heading: str) -> None:
    (section,) = re.findall(rf"(?ms)^## {heading}$(.*?)(?=^## |\Z)", (DOCS / "performance.md").read_text())
    text = " ".join(section.split())
    for claim in CLAIMS[heading]():
        assert text.count(claim) == 1, claim
        text = text.replace(claim, " ... ")
    assert not re.search(r"\b\d", text), text
