"""The wheel, as it would go to PyPI: what is in it, and what a user does with it who has nothing else.

It loads everything from a package registry: `make test-wheel`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[2]
UV = ROOT / ".uv" / "bin" / "uv"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LOOVA_", "PREFECT_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `python -m build` makes from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "tool", "run", "--from", "build", "pyproject-build", "--outdir", folder, ROOT, cwd=folder)
    run(UV, "tool", "run", "twine", "check", "--strict", *folder.iterdir(), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a new environment, into which pip installed the wheel."""
    folder = tmp_path_factory.mktemp("user")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    commands = folder / "venv" / "bin"
    run(commands / "pip", "install", "--quiet", "--upgrade", "pip", cwd=folder)
    run(commands / "pip", "install", "--quiet", f"prefect-loova[simulator] @ {wheel.as_uri()}", cwd=folder)
    return commands


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def test_the_wheel_has_the_package_its_licence_and_its_types_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"prefect_loova"}
    assert "prefect_loova/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert any(name.startswith("prefect_loova/cli/templates/") for name in names)


def test_the_metadata_has_what_a_registry_shows(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == "<3.15,>=3.11"
    assert "Typing :: Typed" in found.get_all("Classifier", [])
    assert found.get_all("Project-URL")
    assert "pays for each video **once**" in str(found.get_payload())


def test_a_user_with_the_wheel_only_makes_a_video_and_a_project(installed: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": f"{installed}:/usr/bin:/bin"}
    made = run(installed / "prefect-loova", "generate", "A boat at sunset", "--simulate", cwd=tmp_path, **home)
    assert ".mp4" in made
    run(installed / "prefect-loova", "init", "my-videos", cwd=tmp_path, **home)
    run(installed / "pip", "install", "--quiet", "pytest", "pytest-asyncio", cwd=tmp_path, **home)
    assert "passed" in run(installed / "python", "-m", "pytest", "-q", cwd=tmp_path / "my-videos", **home)
