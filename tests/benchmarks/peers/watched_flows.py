"""The package's flows, with a note of each list and each video that a flow run's process asks of S3.

Each line of the file `NIGHTS_NOTES` has the seconds, the process, what was done, and how many keys were returned.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from botocore import handlers

from prefect_loova.flows import collect_videos, generate_from_manifest

__all__ = ["collect_videos", "generate_from_manifest"]


def note(what: str, keys: int = 0) -> None:
    """Add a line with one write, because several processes write."""
    with Path(os.environ["NIGHTS_NOTES"]).open("ab", buffering=0) as file:
        file.write(f"{time.time():.3f} {os.getpid()} {what} {keys}\n".encode())


def note_list(parsed: dict[str, Any], **_: Any) -> None:
    """Count what a list returned. The queue's list is apart: what waits in it is not finished."""
    what = "queue" if parsed.get("Prefix", "").endswith("/queued/") else "list"
    note(what, len(parsed.get("Contents", [])) + len(parsed.get("CommonPrefixes", [])))


def note_video(params: dict[str, Any], **_: Any) -> None:
    """Count a video that is about to be whole."""
    if params["Key"].endswith("/video.mp4"):
        note("video")


note("start")
handlers.BUILTIN_HANDLERS += [
    ("after-call.s3.ListObjectsV2", note_list),
    ("before-parameter-build.s3.PutObject", note_video),
    ("before-parameter-build.s3.CompleteMultipartUpload", note_video),
]
