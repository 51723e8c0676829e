# /// script
# requires-python = ">=3.11"
# dependencies = ["runwayml"]
# ///
"""runwayml: `image_to_video.create`, the call of its README.

By hand: `uv run --script runway.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys

from runwayml import RunwayML
from witness import PROMPT, witness

client = RunwayML(base_url=sys.argv[1], api_key="benchmark")
witness(
    "runwayml",
    lambda: client.image_to_video.create(
        model="gen4_turbo",
        prompt_image="https://example.com/assets/bunny.jpg",
        ratio="1280:720",
        prompt_text=PROMPT,
    ),
    can_list=hasattr(client.tasks, "list"),
)
