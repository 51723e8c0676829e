# /// script
# requires-python = ">=3.11"
# dependencies = ["google-genai"]
# ///
"""google-genai: `models.generate_videos`, the call of its README, which says that only the Enterprise Agent Platform
makes videos (`vertexai=True`; with an API key here, as there are no Google Cloud credentials). `HttpOptions.base_url`
is its documented way to another server.

By hand: `uv run --script google_veo.py http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import sys

from google import genai
from google.genai import types
from witness import PROMPT, witness

client = genai.Client(vertexai=True, api_key="benchmark", http_options=types.HttpOptions(base_url=sys.argv[1]))
witness(
    "google-genai",
    lambda: client.models.generate_videos(
        model="veo-3.1-generate-001", source=types.GenerateVideosSource(prompt=PROMPT)
    ),
    can_list=hasattr(client.operations, "list"),
)
