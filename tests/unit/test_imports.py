"""What is loaded when: in processes of their own, as this one has loaded everything."""

from __future__ import annotations

import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import prefect_loova

JOBS = Path(prefect_loova.__file__).with_name("jobs")
HEAVY = ("av", "boto3", "httpx", "prefect", "prefect_aws", "pydantic", "yaml")


def loaded_by(code: str) -> set[str]:
    """Those of the heavy packages that some code loads."""
    script = f"{code}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_package_alone_loads_nothing():
    assert loaded_by("import prefect_loova") == set()


@pytest.mark.parametrize(
    "core", ["client", "store.records", *(f"jobs.{path.stem}" for path in sorted(JOBS.glob("[a-z]*.py")))]
)
def test_the_core_loads_neither_prefect_nor_yaml_nor_decoders(core):
    assert not loaded_by(f"import prefect_loova.{core}") & {"prefect", "prefect_aws", "yaml", "av"}


def test_modules_stand_on_fourteen_floors_at_most_and_none_imports_itself_in_a_circle():
    graph = grimp.build_graph("prefect_loova", exclude_type_checking_imports=True, cache_dir=None)
    below = {
        module: [one for one in graph.find_modules_directly_imported_by(module) if ".simulator" not in one]
        for module in graph.modules
        if ".simulator" not in module
    }
    order = [*TopologicalSorter(below).static_order()]  # raises CycleError
    floors = dict[str, int]()
    for module in order:
        floors[module] = 1 + max((floors[one] for one in below[module]), default=0)
    assert max(floors.values()) <= 14


def test_decoders_are_not_loaded_with_the_public_names():
    assert "av" not in loaded_by(
        "import prefect_loova\nfor name in prefect_loova.__all__: getattr(prefect_loova, name)"
    )


@pytest.mark.parametrize(
    ("names", "not_loaded"),
    [
        (
            "submit_video, wait_for_video, save_video",
            ["flows.video", "flows.batch", "flows.storyboard", "flows.maintenance"],
        ),
        ("generate_video", ["flows.batch", "flows.storyboard", "flows.maintenance"]),
        ("LoovaCredentials", ["tasks"]),
    ],
)
def test_a_flow_is_not_loaded_with_others(names, not_loaded):
    modules = tuple(f"prefect_loova.{name}" for name in not_loaded)
    script = f"from prefect_loova import {names}\nimport sys\nprint(*(set({modules}) & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []
    )


def test_type_checkers_see_the_names_that_are_loaded():
    source = Path(prefect_loova.__file__).read_text()
    checked = {
        name: module for module, name in re.findall(r"^    from prefect_loova\.([\w.]+) import (\w+) as", source, re.M)
    }
    assert checked == prefect_loova._HOME
