# /// script
# requires-python = ">=3.11"
# dependencies = ["fal-client"]
# ///
"""fal-client: `subscribe`, the call on fal's model pages. It asks each `interval`, 0.1 s by default
(`DEFAULT_QUEUE_POLL_INTERVAL`)."""

from __future__ import annotations

import os
from typing import Any

from polls import drive

os.environ["FAL_KEY"] = "benchmark:benchmark"

import fal_client

URL = "https://queue.fal.run/fal-ai/veo3.1/requests/1"


def answer(request: Any, ended: bool) -> tuple[bool, Any]:
    if request.method == "POST":
        urls = {"response_url": URL, "status_url": f"{URL}/status", "cancel_url": f"{URL}/cancel"}
        return False, {"request_id": "1", **urls}
    if request.url.path.endswith("/status"):
        return True, {"status": "COMPLETED" if ended else "IN_PROGRESS", "logs": [], "metrics": {}}
    return False, {"video": {"url": "https://example.com/video.mp4"}}


drive("fal-client", lambda: fal_client.subscribe("fal-ai/veo3.1", arguments={"prompt": "a boat"}), answer)
