"""A worker that saves one video, as a process of its own that can be stopped; its spec, as JSON, is the argument."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from prefect_loova.client import LoovaClient
from prefect_loova.errors import LoovaError
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.jobs.save import save_video
from prefect_loova.models.results import Submission
from prefect_loova.simulator.s3 import s3_client
from prefect_loova.store.records import JobRecords


async def saved(spec: dict[str, Any]) -> dict[str, Any]:
    """Save the video; tells what came of it."""
    s3 = s3_client(spec["s3"], *spec["keys"])
    async with LoovaClient(spec["api_key"], spec["base_url"]) as loova:
        records = JobRecords(s3, spec["bucket"], "loova", loova.origin)
        jobs = VideoJobs(loova, records, times=JobTimes(lease=spec["lease"], look_again=0.05))
        try:
            video, _ = await save_video(jobs, Submission.model_validate(spec["submission"]), max_wait=30)
        except LoovaError as error:
            return {"error": str(error)}
        return {"sha256": video.sha256}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(saved(json.loads(sys.argv[1])))))
