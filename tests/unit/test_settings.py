"""The settings: where they come from, what wins, and the table in the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from prefect_loova import LoovaCredentials
from prefect_loova.errors import InvalidRequestError
from prefect_loova.settings import LoovaSettings


def test_a_setting_is_read_from_the_environment_and_a_given_value_wins(monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_BASE_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_SUBMIT_TIMEOUT", "12")
    block = LoovaCredentials(api_key=SecretStr("key"), timeout=3)
    assert (block.base_url, block.submit_timeout, block.timeout) == ("http://127.0.0.1:9/api", 12, 3)


def test_a_setting_is_read_from_pyproject(monkeypatch, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[tool.prefect.integrations.loova]\npoll_seconds = 7\n")
    monkeypatch.chdir(tmp_path)
    assert LoovaSettings().poll_seconds == 7


def test_a_bad_setting_is_an_error_that_names_the_setting_and_the_rule(monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "0")
    with pytest.raises(InvalidRequestError, match=r"PREFECT_INTEGRATIONS_LOOVA_\*: poll_seconds: .*greater than 0"):
        LoovaSettings.load()


def test_a_command_reports_a_bad_setting_in_one_line(monkeypatch):
    env = dict(os.environ) | {"PREFECT_INTEGRATIONS_LOOVA_TIMEOUT": "-1", "LOOVA_API_KEY": "key"}
    command = [sys.executable, "-m", "prefect_loova.cli", "generate", "a boat", "--bucket", "my-videos"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "PREFECT_INTEGRATIONS_LOOVA_*: timeout: " in line


def test_the_table_in_the_docs_is_the_codes():
    rows = []
    for name, field in LoovaSettings.model_fields.items():
        default = f"{field.default:g}" if isinstance(field.default, float) else f"`{field.default}`"
        shown = "" if field.default is None else default
        rows.append(f"| `PREFECT_INTEGRATIONS_LOOVA_{name.upper()}` | {shown} | {field.description} |")
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    table = page.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert table.splitlines()[2:] == rows


def test_the_schema_of_the_block_shows_the_defaults_in_the_form():
    properties = LoovaCredentials.model_json_schema()["properties"]
    assert (properties["timeout"]["default"], properties["submit_timeout"]["default"]) == (30.0, 60.0)
