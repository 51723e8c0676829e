"""The flows that users import and deploy: one video, a batch, a storyboard, and the maintenance of jobs.

They may use everything else in the package. Each is loaded when it is first used: a flow takes 60 ms to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "generate_video": "video",
    "generate_videos": "batch",
    "generate_from_manifest": "batch",
    "generate_storyboard": "storyboard",
    "collect_videos": "maintenance",
    "report_credits": "maintenance",
    "resolve_job": "maintenance",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
