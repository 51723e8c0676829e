# /// script
# requires-python = ">=3.11"
# dependencies = ["replicate"]
# ///
"""replicate: `run`, the call of its README. Its POST says `Prefer: wait`, which holds the answer for up to 60 s by the
service's documentation; then it asks each `Client.poll_interval`, 0.5 s (`REPLICATE_POLL_INTERVAL`)."""

from __future__ import annotations

import os
from typing import Any

from polls import drive

os.environ["REPLICATE_API_TOKEN"] = "benchmark"

import replicate

URL = "https://api.replicate.com/v1/predictions/1"


def answer(request: Any, ended: bool) -> tuple[bool, Any]:
    if request.method == "POST":
        assert request.headers["Prefer"] == "wait"
    return request.method == "GET", {
        "id": "1",
        "model": "google/veo-3",
        "version": "1",
        "status": "succeeded" if ended else "starting",
        "input": {},
        "output": "https://example.com/video.mp4" if ended else None,
        "created_at": "2026-01-01T00:00:00Z",
        "urls": {"get": URL, "cancel": f"{URL}/cancel"},
    }


drive("replicate", lambda: replicate.run("google/veo-3", input={"prompt": "a boat"}), answer, held=60)
