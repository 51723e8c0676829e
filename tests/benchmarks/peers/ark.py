# /// script
# requires-python = ">=3.11"
# dependencies = ["volcengine-python-sdk[ark]"]
# ///
"""volcengine's Ark, where Seedance comes from: `content_generation.tasks.create`, the call of its documentation.

By hand: `uv run --script ark.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys

from volcenginesdkarkruntime import Ark
from witness import PROMPT, witness

client = Ark(base_url=f"{sys.argv[1]}/api/v3", api_key="benchmark")
witness(
    "volcengine-python-sdk",
    lambda: client.content_generation.tasks.create(
        model="doubao-seedance-2-0-260128", content=[{"type": "text", "text": PROMPT}]
    ),
    can_list=hasattr(client.content_generation.tasks, "list"),
)
