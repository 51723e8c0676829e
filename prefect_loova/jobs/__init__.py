"""One job: submit, wait, save, resolve a doubt, collect. The order of record, POST, record is kept here.

It may use `transfer`, `video`, `store`, `client` and `models`. It does not import Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:  # `prefect_loova.jobs` was one module in 0.1.0
    if name not in ("MAX_WAIT", "JobTimes"):
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.context"), name)
