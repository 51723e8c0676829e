"""Values and rules: requests, media, attempts, job records, and the moves that a record allows.

Nothing here does I/O. It may use `errors` and the modules with an underscore at the top.
"""

from __future__ import annotations

from typing import Any

from prefect_loova._moved import first_with


def __getattr__(name: str) -> Any:  # `prefect_loova.models` was one module in 0.1.0
    if name.startswith("_"):
        raise AttributeError(name)
    return first_with(name, *(f"{__name__}.{module}" for module in ("request", "results", "prices", "job_states")))
