# /// script
# requires-python = ">=3.11"
# dependencies = ["replicate"]
# ///
"""replicate: `run`, the call of its README and of its model pages. `REPLICATE_BASE_URL` names the server.

By hand: `uv run --script replicate_run.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import os
import sys

from witness import PROMPT, witness

os.environ["REPLICATE_BASE_URL"] = sys.argv[1]
os.environ["REPLICATE_API_TOKEN"] = "benchmark"

import replicate

witness(
    "replicate",
    lambda: replicate.run("google/veo-3", input={"prompt": PROMPT}),
    can_list=hasattr(replicate.predictions, "list"),
)
