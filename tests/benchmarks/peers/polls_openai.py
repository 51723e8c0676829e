# /// script
# requires-python = ">=3.11"
# dependencies = ["openai"]
# ///
"""openai: `videos.create_and_poll`, the call of its API reference. It asks each second, or as often as the service says
in `openai-poll-after-ms`; this one says nothing."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from polls import drive


def answer(request: Any, ended: bool) -> tuple[bool, Any]:
    status = "completed" if ended else "in_progress"
    video = {"id": "video_1", "object": "video", "status": status, "progress": 0, "created_at": 0}
    return request.method == "GET", video | {"model": "sora-2", "seconds": "4", "size": "720x1280"}


client = OpenAI(api_key="benchmark")
drive("openai", lambda: client.videos.create_and_poll(model="sora-2", prompt="a boat"), answer)
