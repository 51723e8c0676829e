"""deployments/ says what is there: entrypoints, parameters, blocks by name, schedules with time zone and slug."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.importtools import import_object

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = CONFIG["deployments"]


def flow_of(deployment: dict[str, Any]) -> Any:
    return import_object(deployment["entrypoint"])


def test_every_flow_of_the_package_is_deployed_by_its_module_path():
    files = {path.name for path in (ROOT / "flows").glob("*.py")}
    assert len(DEPLOYMENTS) == len(files)
    assert {one["entrypoint"] for one in DEPLOYMENTS} == {
        f"prefect_loova.flows.{flow_of(one).fn.__name__}" for one in DEPLOYMENTS
    }


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_its_parameters_are_the_flows_and_name_blocks_without_their_secrets(deployment):
    flow = flow_of(deployment)
    assert deployment["name"] == flow.name
    known = inspect.signature(flow.fn).parameters
    assert set(deployment["parameters"]) <= set(known)
    missing = {name for name, one in known.items() if one.default is one.empty} - set(deployment["parameters"])
    assert missing <= {"request"}
    for name in ("credentials", "bucket"):
        assert list(deployment["parameters"][name]) == ["$ref"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_it_is_described_tagged_and_its_schedules_have_a_time_zone_and_a_slug(deployment):
    assert deployment["description"].endswith(".")
    assert deployment["tags"] == ["loova"]
    for schedule in deployment.get("schedules", []):
        assert {"cron", "timezone", "slug"} <= set(schedule)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_the_ui_shows_what_each_parameter_is_for(deployment):
    flow = flow_of(deployment)
    assert flow.description
    for name in inspect.signature(flow.fn).parameters:
        assert re.search(rf"^\s+{name}: ", flow.description, re.MULTILINE), name


def test_the_image_has_the_locked_prefect():
    image = re.search(r"prefecthq/prefect:([\d.]+)-", (ROOT / "deployments" / "Dockerfile").read_text())
    locked = re.search(r'name = "prefect"\nversion = "([\d.]+)"', (ROOT / "uv.lock").read_text())
    assert image and locked and image[1] == locked[1] == CONFIG["prefect-version"]
