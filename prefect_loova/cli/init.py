"""`prefect-loova init`: write a project with a flow, its test and its deployments."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_loova.cli.output import say
from prefect_loova.errors import InvalidRequestError

PROJECT = {
    "README.md": "README.md.txt",
    "flow.py": "flow.py.txt",
    "test_flow.py": "test_flow.py.txt",
    "prompts.csv": "prompts.csv.txt",
    "prefect.yaml": "prefect.yaml.txt",
    "blocks.py": "blocks.py.txt",
    ".env.sample": "env.sample.txt",
    ".gitignore": "gitignore.txt",
}
"""The files of a project, and the template of each."""


def init(folder: Annotated[Path, Parameter(help="the folder of the project; it may exist")] = Path()) -> None:
    """Write a project: a flow, a list, a test with the simulator, and deployments. It overwrites nothing.

    Exit codes: 0 written; 2 invalid input; 1 any other error.
    """
    known = [name for name in PROJECT if (folder / name).exists()]
    if known:
        raise InvalidRequestError(f"folder: {str(folder)!r} has {', '.join(known)} already; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, template in PROJECT.items():
            text = files("prefect_loova.cli").joinpath("templates", template).read_text(encoding="utf-8")
            text = text.replace("@PREFECT@", version("prefect")).replace("@FOLDER@", json.dumps(str(folder.resolve())))
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"folder: {str(folder)!r} cannot be written ({error.strerror})") from None
    say(f"The project is in {folder.resolve()}. Test it for free with pytest; its README.md says how to deploy it.")
