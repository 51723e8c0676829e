# /// script
# requires-python = ">=3.11"
# dependencies = ["lumaai"]
# ///
"""lumaai: `generations.create`, the call of its README.

By hand: `uv run --script luma.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys

from lumaai import LumaAI
from witness import PROMPT, witness

client = LumaAI(base_url=f"{sys.argv[1]}/dream-machine/v1", auth_token="benchmark")
witness(
    "lumaai",
    lambda: client.generations.create(model="ray-2", aspect_ratio="16:9", loop=False, prompt=PROMPT),
    can_list=hasattr(client.generations, "list"),
)
