"""Deliberate breaks of the code that keeps the promises: each one must turn the tests red that guard it.

A break is made in a copy of the package, which the tests import instead of the one here. `make test` tries
two of them, `make test-crash` all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import prefect_loova
from tests.crash.conftest import EVERYTHING

ROOT = Path(__file__).parents[2]
SECONDS = 300
"""For one run of pytest: a break may make a test wait for ever."""

SEARCH = "tests/unit/jobs/test_protocol_exhaustive.py::test_no_order_of_requests_breaks_a_promise"
WORKER_AND_COLLECTOR = f"{SEARCH}[a worker and a collector, one fault]"
WORKER_AND_COLLECTOR_AFTER_CLAIM = f"{SEARCH}[a worker and a collector after a claim, one fault]"
TWO_WORKERS = f"{SEARCH}[two workers, one fault]"
TWO_WORKERS_AFTER_CLAIM = f"{SEARCH}[two workers after a claim, one late answer, 20 steps]"
TRANSFER = "tests/integration/test_transfer.py"
RECORDS = "tests/integration/test_records.py"
JOBS = "tests/integration/jobs"


@dataclass(frozen=True)
class Break:
    """One line that is changed for the worse.

    Attributes:
        name: What is broken.
        file: Where, in the package.
        old: The text there, which occurs once.
        new: What stands there instead.
        red: The tests that must fail, each by its node id.
        says: A regular expression for what the output must say, so that they are red because of this break.
        always: Whether `make test` tries it as well.
    """

    name: str
    file: str
    old: str
    new: str
    red: tuple[str, ...]
    says: str
    always: bool = False


BREAKS = [
    Break(
        "a video whose length nobody announced counts as whole",
        "transfer/copy.py",
        "length_is_known=download.announced is not None",
        "length_is_known=True",
        (f"{TRANSFER}::test_a_video_of_unknown_length_that_may_be_cut_between_two_fragments_is_not_saved[seaweedfs]",),
        "DID NOT RAISE IncompleteVideoError",
    ),
    Break(
        "a part with another ETag is put behind what came before",
        "transfer/download.py",
        "if changed or total != (self.announced or total):",
        "if total != (self.announced or total):",
        (
            f"{TRANSFER}::test_a_part_that_bears_another_etag_or_date_is_never_spliced"
            "[seaweedfs-another ETag beside the same date]",
        ),
        "where False = is_copy_of",
    ),
    Break(
        "the index is not restored after a deletion",
        "store/records.py",
        "if stored is not None and stored.record.is_open:",
        "if False:",
        (
            f"{RECORDS}::test_removing_an_open_job_from_the_index_restores_its_entry[limited_client-seaweedfs]",
            f"{RECORDS}::test_an_entry_is_restored_even_if_the_response_to_its_deletion_is_lost[seaweedfs]",
        ),
        r"assert 'loova/_open/\w+' in \{",
    ),
    Break(
        "a person's decision is written without comparing the attempt",
        "jobs/decisions.py",
        "which(jobs, record, number), **fields",
        "which(jobs, record), **fields",
        (
            f"{JOBS}/test_doubt.py::test_a_decision_is_refused_if_another_person_decided_about_its_attempt_meanwhile"
            "[seaweedfs-give-up]",
        ),
        "DID NOT RAISE InvalidTransitionError",
    ),
    Break(
        "`submitting` is not written before the POST",
        "jobs/submit.py",
        "stored, age = await _begin(jobs, claimed, stored, seconds, await jobs.balance())",
        "age = lambda: 0.0",
        (WORKER_AND_COLLECTOR_AFTER_CLAIM,),
        "A submits, and the record says claimed",
    ),
    Break(
        "a record that is read back counts as ours without its `write_id`",
        "store/records.py",
        "current.record.write_id == record.write_id",
        "current.record.key == record.key",
        (WORKER_AND_COLLECTOR_AFTER_CLAIM,),
        "A submits, and the record says claimed",
        always=True,
    ),
    Break(
        "the POST leaves however long `submitting` took",
        "jobs/submit.py",
        "if took <= jobs.times.fresh_for:",
        "if True:",
        (
            f"{JOBS}/test_submitting.py::test_a_submitting_that_is_no_longer_fresh_is_written_again_before_the_post"
            "[seaweedfs-1-9-2-clock]",
            TWO_WORKERS,
        ),
        "attempt 1 is in doubt, and A still waits within its timeout",
    ),
    Break(
        "a submit is in doubt while its answer may come yet",
        "jobs/doubt.py",
        "(attempt.post_timeout_seconds or 0) + after",
        "after",
        (WORKER_AND_COLLECTOR,),
        "attempt 1 is in doubt, and A still waits within its timeout",
        always=True,
    ),
    Break(
        "a claim is taken over whatever the record says by now",
        "jobs/submit.py",
        "stored = await jobs.records.advance(stored, move(budget_day=day))",
        "mine = move(budget_day=day)\n    stored = await jobs.records.change(stored.record.key, lambda _: mine)",
        (TWO_WORKERS_AFTER_CLAIM,),
        "A submits, and the record says claimed",
    ),
    Break(
        "the lease of another one who saves is ignored",
        "jobs/save.py",
        "if attempt.saving is not None and stored.age < attempt.saving.seconds:",
        "if False:",
        (f"{JOBS}/test_saving.py::test_a_lease_that_runs_is_respected[seaweedfs]",),
        "DID NOT RAISE WaitTimeoutError",
    ),
    Break(
        "a refusal is noted over another worker's try",
        "jobs/submit.py",
        "if record.attempt(number).refusals != tried:",
        "if False:",
        (
            f"{JOBS}/test_submitting.py::test_a_refusal_that_is_noted_already_is_not_noted_again_over_another_workers_try"
            "[seaweedfs]",
        ),
        "DID NOT RAISE WaitTimeoutError",
    ),
]
TRIED = [one for one in BREAKS if EVERYTHING or one.always]


@pytest.mark.parametrize("broken", TRIED, ids=lambda broken: broken.name)
def test_a_break_turns_the_tests_red_that_guard_it(broken: Break, tmp_path: Path) -> None:
    source = copied_to(tmp_path) / broken.file
    whole = source.read_text()
    assert whole.count(broken.old) == 1, f"{broken.file} has changed, so this break has to follow it: {broken.old}"
    source.write_text(whole.replace(broken.old, broken.new))

    status, output = tried(tmp_path, broken.red)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert not re.search(r"^ERROR tests/", output, re.MULTILINE), output
    for test in broken.red:
        assert re.search(rf"^FAILED {re.escape(test)}", output, re.MULTILINE), f"{test} is not red:\n{output}"
    assert re.search(broken.says, output), output


@pytest.mark.parametrize("folder", sorted({test.rpartition("/")[0] for one in TRIED for test in one.red}))
def test_a_copy_without_a_break_passes_the_same_tests(folder: str, tmp_path: Path) -> None:
    """Each folder in a process of its own, as each break is."""
    copied_to(tmp_path)
    tests = dict.fromkeys(test for one in TRIED for test in one.red if test.rpartition("/")[0] == folder)
    status, output = tried(tmp_path, tests)
    assert status == pytest.ExitCode.OK, output


def copied_to(folder: Path) -> Path:
    """A copy of the package, and beside it a plugin that says which one the tests had."""
    (folder / "whose_package.py").write_text(
        "import prefect_loova\n"
        "def pytest_terminal_summary(terminalreporter):\n"
        "    terminalreporter.write_line(f'the package was {prefect_loova.__file__}')\n"
    )
    package = Path(prefect_loova.__file__).parent
    return shutil.copytree(package, folder / "prefect_loova")


def tried(folder: Path, tests: Iterable[str]) -> tuple[int, str]:
    """The exit status and the output of pytest, with the package in this folder."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    # The folder comes before the checkout, which an editable install appends.
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-p", "whose_package"]
    ended = subprocess.run(
        [*command, "-q", "--color=no", *tests],
        cwd=ROOT,
        env=ours | {"PYTHONPATH": path, "CRASH_EVERYTHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert f"the package was {folder / 'prefect_loova' / '__init__.py'}\n" in ended.stdout, ended.stdout
    return ended.returncode, ended.stdout
