"""Each public task, flow and block has an example in its docstring, and the example runs."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect.blocks.core import Block

import prefect_loova
from prefect_loova import LoovaVideos, VideoRequest, generate_storyboard, submit_video
from prefect_loova._prefect.context import Location
from prefect_loova.simulator import LoovaSimulator
from tests.integration.conftest import block_of

pytestmark = [
    pytest.mark.one_s3_server,
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning"),
]

PAID = {
    "a boat at sunset": ("wait_for_video", "save_video", "generate_video", "publish_videos", "LoovaVideos"),
    "a boat": ("generate_videos",),
}
PAID["a kite"] = PAID["a boat"]

RESULTS = {
    "LoovaCredentials": r"10000\.0",
    "LoovaVideos": r"s3://.+/video\.mp4",
    "collect_videos": "nothing to do",
    "generate_from_manifest": r"2 videos, 2 to be bought for up to 120 credits .*",
    "generate_storyboard": r"s3://.+/_storyboards/.+/video\.mp4",
    "generate_video": r"s3://.+/video\.mp4",
    "generate_videos": r"2 videos: 2 reused; .*",
    "get_credits": r"10000\.0",
    "prepare_media": "[0-9a-f]{64}",
    "publish_videos": r"s3://.+/boats/index\.html",
    "report_credits": r"10000\.0",
    "resolve_job": "0",
    "save_video": r"s3://.+/video\.mp4",
    "submit_video": r"sim[\w-]+",
    "wait_for_video": "succeeded",
}
"""The result of each example."""


def docstring(name: str) -> str:
    public = getattr(prefect_loova, name)
    return inspect.getdoc(getattr(public, "fn", public)) or ""


def example(name: str) -> Callable[[], Any]:
    """Return the function `main` of an example."""
    code = re.search(r"^Example:\n.*?```python\n(.*?)^ *```", docstring(name), re.DOTALL | re.MULTILINE)
    assert code is not None, f"{name} has no example"
    names: dict[str, Any] = {"__name__": name}
    named = code[1].replace("BLOCK_NAME", "loova")  # the placeholder that Prefect's own tests of blocks expect
    exec(compile(inspect.cleandoc(named), name, "exec"), names)
    main: Callable[[], Any] = names["main"]
    return main


@pytest.fixture
async def stored(
    name: str, prefect_server: None, place: Location, bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Location:
    """The blocks under the name of the examples, and the files that examples or earlier runs need."""
    lister = block_of(bucket, bucket.server.access_key, bucket.server.secret_key)
    if name == "LoovaVideos":
        await LoovaVideos(credentials=place.credentials, bucket=lister).save("loova", overwrite=True)
    else:
        await place.credentials.save("loova", overwrite=True)
        await lister.save("loova", overwrite=True)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_POLL_SECONDS", "0.1")
    Image.linear_gradient("L").resize((640, 360)).save(tmp_path / "cat.png")
    (tmp_path / "boat.yaml").write_text("shots: [{prompt: a boat, duration: 4}, {prompt: fog, continue: true}]")
    monkeypatch.chdir(tmp_path)
    return replace(place, bucket=lister)


def test_each_public_task_flow_and_block_has_an_example():
    public = {name: getattr(prefect_loova, name) for name in prefect_loova.__all__}
    named = {
        name
        for name, value in public.items()
        if hasattr(value, "with_options") or (isinstance(value, type) and issubclass(value, Block))
    }
    assert named == set(RESULTS)


@pytest.mark.parametrize("name", sorted(RESULTS))
async def test_the_example_of_a_docstring_runs(name: str, stored: Location, loova: LoovaSimulator):
    for prompt, examples in PAID.items():
        if name in examples:  # an earlier run paid for it, so the first poll finds it finished
            request = VideoRequest(prompt=prompt, duration=4)
            await submit_video(request, credentials=stored.credentials, bucket=stored.bucket)
    if name == "generate_storyboard":
        await generate_storyboard("boat.yaml", stored.credentials, stored.bucket, poll_seconds=0.1)
    billed = loova.ledger["totals"]["billed"]
    main = example(name)
    result = await asyncio.to_thread(main) if isinstance(getattr(prefect_loova, name), type) else await main()
    assert re.fullmatch(RESULTS[name], str(result))
    assert loova.ledger["totals"]["billed"] - billed == (name == "submit_video")
