"""Prefect tasks, flows and blocks that make videos on Loova, pay for each once, and save it in your S3 bucket.

Each name is imported on first use, so the core and the simulator start without Prefect.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prefect_loova._moved import keep_old_names

if TYPE_CHECKING:  # for type checkers, which cannot read the table below
    from prefect_loova.client import LoovaClient as LoovaClient
    from prefect_loova.credentials import LoovaCredentials as LoovaCredentials
    from prefect_loova.errors import BatchError as BatchError
    from prefect_loova.errors import BudgetError as BudgetError
    from prefect_loova.errors import ContentRefusedError as ContentRefusedError
    from prefect_loova.errors import InDoubtError as InDoubtError
    from prefect_loova.errors import LoovaError as LoovaError
    from prefect_loova.flows.batch import generate_from_manifest as generate_from_manifest
    from prefect_loova.flows.batch import generate_videos as generate_videos
    from prefect_loova.flows.maintenance import collect_videos as collect_videos
    from prefect_loova.flows.maintenance import report_credits as report_credits
    from prefect_loova.flows.maintenance import resolve_job as resolve_job
    from prefect_loova.flows.publish import publish_videos as publish_videos
    from prefect_loova.flows.storyboard import generate_storyboard as generate_storyboard
    from prefect_loova.flows.video import generate_video as generate_video
    from prefect_loova.models.gates import GateInput as GateInput
    from prefect_loova.models.gates import QualityGate as QualityGate
    from prefect_loova.models.gates import Verdict as Verdict
    from prefect_loova.models.media_types import MediaRules as MediaRules
    from prefect_loova.models.prices import VideoModel as VideoModel
    from prefect_loova.models.published import PublishedVideo as PublishedVideo
    from prefect_loova.models.published import PublishedVideos as PublishedVideos
    from prefect_loova.models.reports import BatchReport as BatchReport
    from prefect_loova.models.reports import CollectedVideos as CollectedVideos
    from prefect_loova.models.reports import CreditsReport as CreditsReport
    from prefect_loova.models.reports import StoryReport as StoryReport
    from prefect_loova.models.reports import VideoOutcome as VideoOutcome
    from prefect_loova.models.request import VideoRequest as VideoRequest
    from prefect_loova.models.results import CreditBalance as CreditBalance
    from prefect_loova.models.results import JobInDoubt as JobInDoubt
    from prefect_loova.models.results import SavedVideo as SavedVideo
    from prefect_loova.models.results import Submission as Submission
    from prefect_loova.models.results import VideoTask as VideoTask
    from prefect_loova.tasks import get_credits as get_credits
    from prefect_loova.tasks import prepare_media as prepare_media
    from prefect_loova.tasks import save_video as save_video
    from prefect_loova.tasks import submit_video as submit_video
    from prefect_loova.tasks import wait_for_video as wait_for_video
    from prefect_loova.videos import LoovaVideoRun as LoovaVideoRun
    from prefect_loova.videos import LoovaVideos as LoovaVideos

_NAMES = {
    "client": ("LoovaClient",),
    "credentials": ("LoovaCredentials",),
    "errors": ("BatchError", "BudgetError", "ContentRefusedError", "InDoubtError", "LoovaError"),
    "flows.batch": ("generate_from_manifest", "generate_videos"),
    "flows.maintenance": ("collect_videos", "report_credits", "resolve_job"),
    "flows.publish": ("publish_videos",),
    "flows.storyboard": ("generate_storyboard",),
    "flows.video": ("generate_video",),
    "models.gates": ("GateInput", "QualityGate", "Verdict"),
    "models.media_types": ("MediaRules",),
    "models.prices": ("VideoModel",),
    "models.published": ("PublishedVideo", "PublishedVideos"),
    "models.reports": ("BatchReport", "CollectedVideos", "CreditsReport", "StoryReport", "VideoOutcome"),
    "models.request": ("VideoRequest",),
    "models.results": ("CreditBalance", "JobInDoubt", "SavedVideo", "Submission", "VideoTask"),
    "videos": ("LoovaVideoRun", "LoovaVideos"),
    "tasks": ("get_credits", "prepare_media", "save_video", "submit_video", "wait_for_video"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__version__ = version("prefect-loova")
__all__ = sorted(_HOME)  # noqa: PLE0605
keep_old_names(__name__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
