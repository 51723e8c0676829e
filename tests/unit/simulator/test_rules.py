"""The simulator and the package each have a copy of Loova's rules and prices. The copies must agree."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from prefect_loova import simulator
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.prices import MODELS, FunctionMode, Model, Ratio
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import rules
from prefect_loova.simulator.submit_request import Refusal, validate

ENDINGS = {"image_urls": "png", "audio_urls": "mp3", "video_urls": "mp4"}
URLS = {name: f"https://example.com/{{}}.{ending}" for name, ending in ENDINGS.items()}


def package_rules() -> dict[str, Any]:
    """Return the package's rules and prices in the form of the simulator's."""
    fields = VideoRequest.model_fields
    schema = VideoRequest.model_json_schema()["then"]["properties"]
    return {
        "CHOICES": {"model": get_args(Model), "function_mode": get_args(FunctionMode), "ratio": get_args(Ratio)},
        "DEFAULTS": {name: fields[name].default for name in ("model", "function_mode", "ratio", "duration")},
        "DURATIONS": range(schema["duration"]["minimum"], schema["duration"]["maximum"] + 1),
        "MAX_MEDIA": {name: schema[name]["maxItems"] for name in ("image_urls", "audio_urls", "video_urls")},
        "CREDITS_PER_SECOND": {
            (name, with_video): model.price(1, with_video=with_video)
            for name, model in MODELS.items()
            for with_video in (True, False)
        },
    }


def differences(package: dict[str, Any]) -> list[str]:
    """Return every difference between the two copies, with its name."""
    differing = []
    for table, values in package.items():
        own = getattr(rules, table)
        if not isinstance(own, dict):
            own, values = {"": own}, {"": values}
        for name in own | values:
            pair = [set(value) if isinstance(value, tuple) else value for value in (own.get(name), values.get(name))]
            if pair[0] != pair[1]:
                differing.append(f"{table} {name}: the simulator has {own.get(name)}, the package {values.get(name)}")
    return differing


def test_the_simulator_and_the_package_have_the_same_rules_and_prices() -> None:
    assert differences(package_rules()) == []


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("CREDITS_PER_SECOND", ("seedance_2_0", True), 31),
        ("CREDITS_PER_SECOND", ("seedance_2_5", True), 30),
        ("CHOICES", "ratio", ("16:9", "2:1")),
        ("DEFAULTS", "duration", 6),
        ("MAX_MEDIA", "image_urls", 10),
    ],
)
def test_a_difference_is_named(table: str, name: Any, value: Any) -> None:
    package = package_rules()
    package[table] = package[table] | {name: value}
    own = getattr(rules, table).get(name)
    assert differences(package) == [f"{table} {name}: the simulator has {own}, the package {value}"]


def is_accepted(fields: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the simulator and the package accept a request."""
    try:
        VideoRequest(**fields).check_model(MODELS)
        by_package = True
    except (ValidationError, InvalidRequestError):
        by_package = False
    try:
        validate(fields)
        by_simulator = True
    except Refusal:
        by_simulator = False
    return by_simulator, by_package


def requests() -> list[dict[str, Any]]:
    """Return requests on both sides of every limit."""
    numbers = product((*rules.CHOICES["function_mode"], "other"), (0, 1, 2, 3, 9, 10), (0, 1, 3, 4), (0, 1, 3, 4))
    media = [
        {"function_mode": mode}
        | {name: [URLS[name].format(n) for n in range(count)] for name, count in zip(URLS, counts, strict=True)}
        for mode, *counts in numbers
    ]
    durations = [{"duration": seconds} for seconds in (*range(3, 17), "5", None)]
    choices = [{name: value} for name, values in rules.CHOICES.items() for value in (*values, "other", None)]
    prompts = [{"prompt": prompt} for prompt in ("", " \n", None, 5)]
    return [{"prompt": "A city"} | fields for fields in (*media, *durations, *choices, *prompts)]


def test_the_simulator_and_the_package_accept_the_same_requests() -> None:
    verdicts = [(fields, is_accepted(fields)) for fields in requests()]
    assert [fields for fields, (by_simulator, by_package) in verdicts if by_simulator != by_package] == []
    assert {by_simulator for _, (by_simulator, _) in verdicts} == {True, False}


def test_both_ask_the_same_price() -> None:
    for model, with_video, seconds in product(rules.CHOICES["model"], (True, False), rules.DURATIONS):
        videos = [URLS["video_urls"].format(0)] if with_video else []
        fields: dict[str, Any] = {"prompt": "A city", "model": model, "duration": seconds, "video_urls": videos}
        assert validate(fields).credits_cost == VideoRequest(**fields).estimate_credits()


def test_the_simulator_imports_nothing_of_the_package_outside_its_folder() -> None:
    imported = set()
    for path in Path(simulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    ours = {name for name in imported if name.partition(".")[0] == "prefect_loova"}
    assert [name for name in ours if not f"{name}.".startswith("prefect_loova.simulator.")] == []
    assert "prefect_loova.simulator.rules" in ours
