"""Compare a request with a Loova task that a person wants to adopt, and with the video that was made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_loova.errors import redact
from prefect_loova.models.attempts import Attempt, StoredVideo, is_cost
from prefect_loova.models.results import VideoTask

CLOCK_SECONDS = 15 * 60.0
"""The largest difference between Loova's clock and the worker's clock, in seconds."""

MAX_DURATION_ERROR = 0.75
"""By how many seconds the duration of a video may differ from its request."""

MAX_RATIO_ERROR = 0.08
"""By which part the ratio of a video may differ from its request."""


def contradictions(task: VideoTask, request: Mapping[str, Any], attempt: Attempt) -> list[str]:
    """Return the reasons why a task cannot be the one that this attempt's lost submit created.

    `request` is the request in the job record. A field that Loova does not report contradicts nothing.
    """
    reasons = []
    asked = str(request.get("model", ""))
    if task.model and asked and _normalize(task.model) != _normalize(asked):
        reasons.append(f"model: the task is of {redact(task.model, 80)}, and {redact(asked, 80)} was asked for")
    sent = attempt.times.get("submitting")
    if task.created_at is not None and sent is not None:
        after = timedelta(seconds=(attempt.post_timeout_seconds or 0) + CLOCK_SECONDS)
        if not sent - timedelta(seconds=CLOCK_SECONDS) <= task.created_at <= sent + after:
            reasons.append(
                f"created_at: the task was made at {_time(task.created_at)}, and the submit was sent at {_time(sent)}"
            )
    cost, price = task.credits_cost, attempt.credits_estimate
    # 0 may mean that Loova has not charged yet.
    if is_cost(cost) and cost > 0 and not math.isclose(cost, price, rel_tol=0.01):
        reasons.append(f"credits_cost: Loova charged {cost:g} credits for the task, and the price was {price:g}")
    return reasons


def differences(request: Mapping[str, Any], video: StoredVideo) -> str:
    """Return one line about how a video differs from its request, or an empty string.

    The duration may differ by 0.75 s and the ratio by 8%. With `first_last_frames` the images decide the ratio.
    """
    reasons = []
    asked, length = request.get("duration"), video.duration_seconds
    if isinstance(asked, int | float) and length is not None and abs(length - asked) > MAX_DURATION_ERROR:
        reasons.append(f"it plays {length:.1f} s, and {asked:g} s were asked for")
    wanted = ratio_of(request.get("ratio"))
    if wanted and video.width and video.height and request.get("function_mode") != "first_last_frames":
        width, height = (video.height, video.width) if video.is_turned else (video.width, video.height)
        if abs(width / height / wanted - 1) > MAX_RATIO_ERROR:
            reasons.append(f"its pictures are {width} x {height}, and {redact(request['ratio'], 20)} was asked for")
    return "; ".join(reasons)


def ratio_of(text: object) -> float | None:
    """Return width divided by height of a ratio such as `16:9`, or None if the text is none."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", str(text))
    return int(match[1]) / int(match[2]) if match and int(match[1]) and int(match[2]) else None


def _normalize(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
