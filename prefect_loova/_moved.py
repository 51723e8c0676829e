"""The module names of 0.1.0, which had no folders.

Prefect stores a task's result with the module of its class, and projects may contain copies of this package's flows.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

_MOVED = {
    "accounts": ("models.reports",),
    "batch": ("models.reports",),
    "collecting": ("models.reports", "jobs.collect"),
    "manifest": ("batches.manifest",),
    "manifests": ("_prefect.manifest_files",),
    "media_types": ("models.media_types",),
    "states": ("models.job_record", "models.attempts", "models.job_states"),
    "storyboard": ("models.reports", "batches.storyboard"),
}


def first_with(name: str, *modules: str) -> Any:
    """Return an attribute from the first of these modules that has it.

    Raises:
        AttributeError: None of them has it.
    """
    for module in modules:
        with suppress(AttributeError):
            return getattr(import_module(module), name)
    raise AttributeError(f"none of {', '.join(modules)} has {name!r}")


class _Moved(ModuleType):
    def __getattr__(self, name: str) -> Any:
        package, _, old = self.__name__.rpartition(".")
        return first_with(name, *(f"{package}.{module}" for module in _MOVED[old]))


def keep_old_names(package: str) -> None:
    """Make modules importable by their old names. A module loads when one of its names is used."""
    for old in _MOVED:
        name = f"{package}.{old}"
        sys.modules.setdefault(name, _Moved(name))
