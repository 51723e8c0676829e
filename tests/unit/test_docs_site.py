"""The documentation site: what mkdocs.yml, the pages and the reference promise, without mkdocs."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import prefect_loova
from tests.support.docs_blocks import BLOCKS, DOCS, GUIDES

CONFIG = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text())
REFERENCE = re.findall(r"(?m)^::: (\S+)$", "\n".join(text for name, text in GUIDES.items() if name.startswith("refer")))


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]


def named(path: str) -> Any:
    """The object of a dotted path."""
    module, _, name = path.rpartition(".")
    return import_module(path) if path == "prefect_loova.errors" else getattr(import_module(module), name)


def test_the_navigation_lists_every_page_once():
    assert sorted(pages(CONFIG["nav"])) == sorted(GUIDES)


def test_the_list_of_decisions_has_every_decision():
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", GUIDES["decisions/index.md"])
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


def test_the_schedules_are_those_of_the_deployments():
    deployments = yaml.safe_load((DOCS.parent / "deployments" / "prefect.yaml").read_text())["deployments"]
    on = {one["name"]: one["schedules"][0].get("active", True) for one in deployments if "schedules" in one}
    told = re.findall(r"(?m)^\| `([\w-]+)` \| every [^|]+ \| (yes|no)", GUIDES["schedule.md"])
    assert {name: is_on == "yes" for name, is_on in told} == on


def test_the_reference_has_every_public_name():
    documented = [named(path) for path in REFERENCE]
    for name in prefect_loova.__all__:
        public = getattr(prefect_loova, name)
        assert any(public is one for one in documented) or public.__module__ == "prefect_loova.errors", name
    assert "prefect_loova.errors" in REFERENCE


@pytest.mark.parametrize("guide", GUIDES)
def test_every_block_is_of_a_kind_that_is_run_or_is_output(guide):
    assert GUIDES[guide].count("```") == 2 * len(BLOCKS[guide])
    for block in BLOCKS[guide]:
        assert block.language in ("python", "bash", "yaml", "")
        assert block.language or not block.not_run
    assert GUIDES[guide].count("not run:") == sum(block.not_run is not None for block in BLOCKS[guide])


@pytest.mark.parametrize("guide", GUIDES)
def test_every_link_between_files_leads_somewhere(guide):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", GUIDES[guide]):
        assert ((DOCS / guide).parent / target).exists(), target


@pytest.mark.parametrize("guide", GUIDES)
def test_a_list_begins_after_a_blank_line(guide):
    """GitHub does not need it, the site does."""
    text = re.sub(r"(?ms)^```.*?^```$", "", GUIDES[guide])
    for before, line in zip(text.split("\n"), text.split("\n")[1:], strict=False):
        if re.match(r"(- |\d+\. )", line):
            assert not before or re.match(r"(- |\d+\. |  )", before), line


def test_nothing_is_loaded_from_the_network():
    """`make docs` looks into the pages that it built, too."""
    assert CONFIG["theme"]["font"] is False
    assert not {"repo_url", "site_url"} & CONFIG.keys()
    assert set(CONFIG["extra"]) == {"generator"}
    assert CONFIG["plugins"][1]["mkdocstrings"]["handlers"]["python"]["inventories"] == []
    assert not any("mermaid" in text for text in GUIDES.values())


def test_the_architecture_page_names_each_module_and_no_other():
    page = GUIDES["architecture.md"]
    tree = page[page.index("```") : page.rindex("```")]
    package = Path(prefect_loova.__file__).parent
    folders = [folder for folder in package.iterdir() if folder.name not in ("simulator", "video", "__pycache__")]
    modules = {path.name for one in folders for path in ([one] if one.is_file() else one.glob("*.py"))}
    assert set(re.findall(r"\w+\.py", tree)) == modules - {"py.typed", "_moved.py"}
    for path in re.findall(r"`((?:\w+/)?\w+\.py)[`:]", page.replace(tree, "")):
        assert (package / path).exists(), path
