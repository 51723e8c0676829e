"""The flows that users import and deploy: one video, a batch, a storyboard, and the maintenance of jobs.

They may use the whole package. Each is imported on first use, because that takes 60 ms.
"""

from __future__ import annotations

from typing import Any

import prefect_loova


def __getattr__(name: str) -> Any:
    if not prefect_loova._HOME.get(name, "").startswith("flows."):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(prefect_loova, name)
