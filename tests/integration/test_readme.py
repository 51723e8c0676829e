"""The README: its examples are run as they are, and its links, commands and prices are checked."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_loova import LoovaVideos, VideoRequest, submit_video
from prefect_loova.models.prices import MODELS, USD_PER_CREDIT

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

pytestmark = [
    pytest.mark.one_s3_server,
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning"),
]


def example(holding: str) -> dict[str, Any]:
    """Return the names that the one example with this text defines."""
    (code,) = [block for block in BLOCKS if holding in block]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


async def bought(prompt: str, place, **fields: Any):
    """Submit the request in an earlier run, so that the example polls at once and not after its first pause."""
    return await submit_video(VideoRequest(prompt=prompt, **fields), credentials=place.credentials, bucket=place.bucket)


async def test_every_example_is_run_by_a_test():
    texts = ["def morning_video", '.save("loova"']
    assert len(BLOCKS) == len(texts)
    assert all(sum(text in block for block in BLOCKS) == 1 for text in texts)


async def test_the_flow_saves_a_video(prefect_server, place, loova):
    await LoovaVideos(credentials=place.credentials, bucket=place.bucket).save("loova", overwrite=True)
    await bought("a boat", place, duration=5)
    assert (await asyncio.to_thread(example("def morning_video")["morning_video"], "a boat")).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


def test_the_blocks_are_registered_and_created_as_shown(prefect_server):
    for module in ("prefect_loova", "prefect_aws"):
        assert f"prefect block register -m {module}\n" in README
        register = [sys.executable, "-m", "prefect", "block", "register", "-m", module]
        environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
        done = subprocess.run(register, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert module == "prefect_aws" or "Loova Videos" in done.stdout
    example('.save("loova"')
    assert LoovaVideos.load("loova").credentials.api_key.get_secret_value() == "..."


def test_the_readme_is_short():
    assert README.count("\n") <= 150


def test_the_prices_are_the_codes():
    low = min(model.price(4, with_video=False) for model in MODELS.values())
    high = max(model.price(15, with_video=True) for model in MODELS.values())
    cheapest, dearest = low * USD_PER_CREDIT[0], high * USD_PER_CREDIT[1]
    assert f"{low:.0f} to {high:.0f} credits (${cheapest:.1f}0 to ${dearest:.0f})" in README


def test_every_link_to_a_file_of_this_repository_leads_somewhere():
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", README):
        assert (ROOT / target).exists(), target
        assert not anchor or anchor in anchors((ROOT / target).read_text()), f"{target}#{anchor}"


def anchors(page: str) -> list[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", page)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_make_has_the_commands_and_the_demo_is_the_guides():
    known = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"(?:^|`)make ([\w-]+)", README, re.MULTILINE):
        assert f"make {target} " in known, target
    demo = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (shown,) = re.findall(r"(?m)^prefect-loova (generate .*)$", (ROOT / "docs" / "index.md").read_text())
    assert f".venv/bin/prefect-loova {shown}\n" in demo
