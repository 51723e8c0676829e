"""The settings: where they come from, what wins, and the table in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from prefect_loova import LoovaCredentials
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


def test_a_bad_setting_names_the_field_and_the_rule(monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "0")
    with pytest.raises(ValidationError, match="greater than 0"):
        LoovaSettings()


def test_a_bad_base_url_is_refused_by_the_block(monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_BASE_URL", "nonsense")
    with pytest.raises(ValidationError, match="base_url"):
        LoovaCredentials(api_key=SecretStr("key"))


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
