"""Values and rules: requests, media, attempts, job records, and the moves that a record allows.

Nothing here does I/O. It may use `errors` and the modules with an underscore at the top.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:  # `prefect_loova.models` was one module in 0.1.0
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.request"), name)
