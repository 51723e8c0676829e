# /// script
# requires-python = ">=3.11"
# dependencies = ["runwayml"]
# ///
"""runwayml: `create(...).wait_for_task_output()`, the call of its README. It asks each 4.5 to 7.5 s by chance
(`POLL_TIME`, `POLL_JITTER`), and gives up after 10 minutes by default; with `never` as an argument, its `timeout` is
None."""

from __future__ import annotations

import sys
from typing import Any

from polls import drive
from runwayml import RunwayML


def answer(request: Any, ended: bool) -> tuple[bool, Any]:
    if request.method == "POST":
        return False, {"id": "1"}
    task = {"id": "1", "createdAt": "2026-01-01T00:00:00Z"}
    made = {"status": "SUCCEEDED", "output": ["https://example.com/video.mp4"]}
    return True, task | (made if ended else {"status": "RUNNING", "progress": 0.5})


client = RunwayML(api_key="benchmark")
how = {"timeout": None} if sys.argv[1:] == ["never"] else {}


def call() -> object:
    started = client.image_to_video.create(
        model="gen4_turbo", prompt_image="https://example.com/bunny.jpg", ratio="1280:720", prompt_text="a boat"
    )
    return started.wait_for_task_output(**how)


drive("runwayml", call, answer, runs=20 if how else 200)
