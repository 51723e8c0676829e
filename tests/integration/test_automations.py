"""deployments/automations.py on a real Prefect server: a job in doubt sends a message to a webhook."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from prefect_loova import InDoubtError, VideoRequest, generate_video

pytestmark = pytest.mark.one_s3_server
SCRIPT = Path(__file__).parents[2] / "deployments" / "automations.py"


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()


def script() -> Any:
    spec = importlib.util.spec_from_file_location("automations", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_job_in_doubt_notifies_a_person(prefect_server, place, loova, webhook):
    url, got = webhook
    block = CustomWebhookNotificationBlock(
        name="on-call", url=url, method="POST", json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    await block.save("on-call", overwrite=True)
    for _ in range(2):  # the second time brings them up to date
        await asyncio.to_thread(script().main, ["--block", "custom-webhook/on-call"])
    assert len([one for one in script().WATCHED if await Automation.aread(name=one)]) == 4
    await asyncio.sleep(6)  # the server loads new automations every few seconds
    request = VideoRequest(prompt="lost", duration=4)
    loova.fail("lost_reply")
    with pytest.raises(InDoubtError):
        await generate_video(request, place.credentials, place.bucket)
    for _ in range(200):
        if got:
            break
        await asyncio.sleep(0.1)
    told = {one["subject"]: one["body"] for one in got}
    assert request.key in told["Loova job in doubt"]
    assert loova.api_key not in json.dumps(got)
