# /// script
# requires-python = ">=3.11"
# dependencies = ["openai"]
# ///
"""openai: `videos.create`, the call of its API reference. (The package still has it, marked as deprecated: it says
that the service behind it was to end on September 24, 2026.)

By hand: `uv run --script openai_videos.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys

from openai import OpenAI
from witness import PROMPT, witness

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="benchmark")
witness(
    "openai",
    lambda: client.videos.create(model="sora-2", prompt=PROMPT),
    can_list=hasattr(client.videos, "list"),
)
