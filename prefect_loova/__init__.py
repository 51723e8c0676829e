"""Prefect tasks, flows and blocks that make videos on Loova, pay for each once, and put it in your S3 bucket.

Names are loaded when they are first used, so that the core and the simulator start without Prefect.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_loova.accounts import CreditsReport as CreditsReport
    from prefect_loova.batch import BatchReport as BatchReport
    from prefect_loova.batch import VideoOutcome as VideoOutcome
    from prefect_loova.batch_flows import generate_from_manifest as generate_from_manifest
    from prefect_loova.batch_flows import generate_videos as generate_videos
    from prefect_loova.client import LoovaClient as LoovaClient
    from prefect_loova.collecting import CollectedVideos as CollectedVideos
    from prefect_loova.credentials import LoovaCredentials as LoovaCredentials
    from prefect_loova.errors import BatchError as BatchError
    from prefect_loova.errors import BudgetError as BudgetError
    from prefect_loova.errors import InDoubtError as InDoubtError
    from prefect_loova.errors import LoovaError as LoovaError
    from prefect_loova.flows import generate_video as generate_video
    from prefect_loova.media_types import MediaRules as MediaRules
    from prefect_loova.models import CreditBalance as CreditBalance
    from prefect_loova.models import JobInDoubt as JobInDoubt
    from prefect_loova.models import SavedVideo as SavedVideo
    from prefect_loova.models import Submission as Submission
    from prefect_loova.models import VideoRequest as VideoRequest
    from prefect_loova.models import VideoTask as VideoTask
    from prefect_loova.story_flow import generate_storyboard as generate_storyboard
    from prefect_loova.storyboard import StoryReport as StoryReport
    from prefect_loova.tasks import get_credits as get_credits
    from prefect_loova.tasks import prepare_media as prepare_media
    from prefect_loova.tasks import save_video as save_video
    from prefect_loova.tasks import submit_video as submit_video
    from prefect_loova.tasks import wait_for_video as wait_for_video
    from prefect_loova.upkeep import collect_videos as collect_videos
    from prefect_loova.upkeep import report_credits as report_credits
    from prefect_loova.upkeep import resolve_job as resolve_job

__version__ = version("prefect-loova")

__all__ = [
    "BatchError",
    "BatchReport",
    "BudgetError",
    "CollectedVideos",
    "CreditBalance",
    "CreditsReport",
    "InDoubtError",
    "JobInDoubt",
    "LoovaClient",
    "LoovaCredentials",
    "LoovaError",
    "MediaRules",
    "SavedVideo",
    "StoryReport",
    "Submission",
    "VideoOutcome",
    "VideoRequest",
    "VideoTask",
    "collect_videos",
    "generate_from_manifest",
    "generate_storyboard",
    "generate_video",
    "generate_videos",
    "get_credits",
    "prepare_media",
    "report_credits",
    "resolve_job",
    "save_video",
    "submit_video",
    "wait_for_video",
]

_HOME = {
    "CreditsReport": "accounts",
    "BatchReport": "batch",
    "VideoOutcome": "batch",
    "LoovaClient": "client",
    "CollectedVideos": "collecting",
    "LoovaCredentials": "credentials",
    "BatchError": "errors",
    "BudgetError": "errors",
    "InDoubtError": "errors",
    "LoovaError": "errors",
    "collect_videos": "upkeep",
    "generate_from_manifest": "batch_flows",
    "generate_storyboard": "story_flow",
    "generate_video": "flows",
    "generate_videos": "batch_flows",
    "report_credits": "upkeep",
    "resolve_job": "upkeep",
    "MediaRules": "media_types",
    "CreditBalance": "models",
    "JobInDoubt": "models",
    "SavedVideo": "models",
    "Submission": "models",
    "VideoRequest": "models",
    "VideoTask": "models",
    "StoryReport": "storyboard",
    "get_credits": "tasks",
    "prepare_media": "tasks",
    "save_video": "tasks",
    "submit_video": "tasks",
    "wait_for_video": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
