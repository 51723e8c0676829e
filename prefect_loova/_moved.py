"""Module names of 0.1.0, which had no folders, for as long as something may name them.

Prefect keeps the result of a task with the module of its class, and a project's own flows may be copies of ours.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_MOVED = {
    "accounts": "batches.credits",
    "batch": "batches.plan",
    "collecting": "jobs.collect",
    "manifest": "batches.manifest",
    "manifests": "_prefect.manifest_files",
    "media_types": "models.media_types",
    "states": "models.job_record",
    "storyboard": "batches.storyboard",
}


class _Moved(ModuleType):
    def __getattr__(self, name: str) -> Any:
        package, _, old = self.__name__.rpartition(".")
        return getattr(import_module(f"{package}.{_MOVED[old]}"), name)


def keep_old_names(package: str) -> None:
    """Let modules be imported by their old names; nothing is loaded before a name of theirs is used."""
    for old in _MOVED:
        name = f"{package}.{old}"
        sys.modules.setdefault(name, _Moved(name))
