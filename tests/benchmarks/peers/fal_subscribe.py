# /// script
# requires-python = ">=3.11"
# dependencies = ["fal-client"]
# ///
"""fal-client: `subscribe`, the call on fal's model pages. Its URLs are https by construction, so the server of this
benchmark has a certificate for it; `FAL_QUEUE_RUN_HOST` names the host, and `SSL_CERT_FILE` (of httpx) the certificate.

By hand: `uv run --script fal_subscribe.py https://127.0.0.1:PORT`.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

from witness import PROMPT, witness

os.environ["FAL_QUEUE_RUN_HOST"] = urlsplit(sys.argv[1]).netloc
os.environ["FAL_KEY"] = "benchmark:benchmark"

import fal_client  # reads the host when it is imported

witness(
    "fal-client",
    lambda: fal_client.subscribe("fal-ai/veo3.1", arguments={"prompt": PROMPT}),
    can_list=any("list" in name for name in dir(fal_client)),
)
