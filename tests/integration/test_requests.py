"""What a run asks of S3 and of Prefect: nothing that it could do without."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from prefect_loova import VideoRequest, generate_video
from prefect_loova.jobs.context import JobTimes
from tests.benchmarks.overhead import S3_REQUESTS

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
REQUEST = VideoRequest(prompt="A futuristic city at sunset", duration=4)


async def test_one_video_sends_s3_what_there_is_a_reason_for(place):
    sent = []
    place.credentials.job_times = JobTimes()  # the fixture's lease of 2 s is renewed each 0.5 s

    def note(request: Any, event_name: str, **_: Any) -> None:
        key = re.sub(r"\d{4}-\d\d-\d\d", "DAY", request.url.split("/", 4)[4].replace(REQUEST.key, "KEY"))
        sent.append(f"{event_name.rpartition('.')[2]} {key.partition('?')[0]}")

    place.bucket.credentials.get_s3_client().meta.events.register("before-send.s3", note)
    await generate_video(REQUEST, place.credentials, place.bucket, poll_seconds=0.1)
    asked = [what for what in sent if "/_open/_probe/" not in what]  # once in a process
    assert asked[:10] == [what for what, _ in S3_REQUESTS[:10]]
    assert sorted(asked) == sorted(what for what, _ in S3_REQUESTS)  # three pictures are written side by side


async def test_a_run_without_a_deployment_asks_prefect_for_none(place, monkeypatch):
    asked, send = [], httpx.AsyncClient.send

    def noted(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> Any:
        asked.append(f"{request.method} {request.url.path}")
        return send(client, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", noted)
    await generate_video(REQUEST, place.credentials, place.bucket, poll_seconds=0.1)
    assert sum(bool(re.search(r"GET .*/flow_runs/[^/]+$", what)) for what in asked) <= 1, asked  # Prefect's own
