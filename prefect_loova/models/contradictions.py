"""What contradicts a request: of a Loova task that a person wants to adopt, and of the video that was made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_loova.errors import redact
from prefect_loova.models.job_record import Attempt, StoredVideo, is_cost
from prefect_loova.models.results import VideoTask

CLOCK_SECONDS = 15 * 60.0
"""By how many seconds Loova's clock and that of the worker that submitted may differ."""

_LENGTH = 0.75
_RATIO = 0.08


def contradictions(task: VideoTask, request: Mapping[str, Any], attempt: Attempt) -> list[str]:
    """What Loova says of a task that cannot be true of the one that this attempt's lost submit made.

    Args:
        task: The task as Loova shows it; what it does not name contradicts nothing.
        request: What was asked for, as the job record has it.
        attempt: The attempt in doubt.
    """
    found = []
    asked = str(request.get("model", ""))
    if task.model and asked and _plain(task.model) != _plain(asked):
        found.append(f"model: the task is of {redact(task.model, 80)}, and {redact(asked, 80)} was asked for")
    sent = attempt.times.get("submitting")
    if task.created_at is not None and sent is not None:
        after = timedelta(seconds=(attempt.post_timeout_seconds or 0) + CLOCK_SECONDS)
        if not sent - timedelta(seconds=CLOCK_SECONDS) <= task.created_at <= sent + after:
            found.append(
                f"created_at: the task was made at {_time(task.created_at)}, and the submit was sent at {_time(sent)}"
            )
    cost, price = task.credits_cost, attempt.credits_estimate
    # 0 may mean that Loova has yet to charge.
    if is_cost(cost) and cost > 0 and not math.isclose(cost, price, rel_tol=0.01):
        found.append(f"credits_cost: Loova charged {cost:g} credits for the task, and the price was {price:g}")
    return found


def differences(request: Mapping[str, Any], video: StoredVideo) -> str:
    """How a video differs from what was asked for, as one line; empty where it does not.

    The duration may be off by 0.75 s, the ratio by 8%. The ratio of `first_last_frames` follows the images.
    """
    found = []
    asked, length = request.get("duration"), video.duration_seconds
    if isinstance(asked, int | float) and length is not None and abs(length - asked) > _LENGTH:
        found.append(f"it plays {length:.1f} s, and {asked:g} s were asked for")
    wanted = _ratio(request.get("ratio"))
    if wanted and video.width and video.height and request.get("function_mode") != "first_last_frames":
        width, height = (video.height, video.width) if video.is_turned else (video.width, video.height)
        if abs(width / height / wanted - 1) > _RATIO:
            found.append(f"its pictures are {width} x {height}, and {redact(request['ratio'], 20)} was asked for")
    return "; ".join(found)


def _ratio(text: object) -> float | None:
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", str(text))
    return int(found[1]) / int(found[2]) if found and int(found[1]) and int(found[2]) else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
