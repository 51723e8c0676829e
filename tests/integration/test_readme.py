"""What the README shows is run, as it stands there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_loova import LoovaCredentials, VideoRequest, submit_video

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

pytestmark = [
    pytest.mark.one_s3_server,
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs:UserWarning"),
]


def example(holding: str) -> dict[str, Any]:
    """The names that the one example with this text in it defines."""
    (code,) = [block for block in BLOCKS if holding in block]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


async def bought(prompt: str, place, **fields: Any):
    """Have it submitted by an earlier run, so that the example looks at once instead of after its first pause."""
    return await submit_video(VideoRequest(prompt=prompt, **fields), credentials=place.credentials, bucket=place.bucket)


async def test_every_example_is_run_by_a_test():
    told = [
        "async def morning_video",
        "def evening_video",
        '.save("loova"',
        '.serve(name="videos")',  # by test_deployment.py
        "loova_simulator",
    ]
    assert len(BLOCKS) == len(told)
    assert all(sum(text in block for block in BLOCKS) == 1 for text in told)


async def test_the_flow_of_ones_own_saves_a_video(place, loova):
    await place.credentials.save("loova", overwrite=True)
    await place.bucket.save("loova", overwrite=True)
    await bought("a boat", place)
    assert (await example("async def morning_video")["morning_video"]("a boat")).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


def test_the_sync_flow_saves_a_video(place, loova):
    asyncio.run(bought("a train", place))
    where = {"credentials": place.credentials, "bucket": place.bucket}
    assert example("def evening_video")["evening_video"]("a train", where).endswith("/video.mp4")
    assert loova.ledger["totals"]["billed"] == 1


def test_the_blocks_are_registered_and_created_as_shown():
    for module in ("prefect_loova", "prefect_aws"):
        assert f"prefect block register -m {module}\n" in README
        register = [sys.executable, "-m", "prefect", "block", "register", "-m", module]
        environment = {**__import__("os").environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
        done = subprocess.run(register, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert module == "prefect_aws" or "Loova Credentials" in done.stdout
    example('.save("loova"')
    assert LoovaCredentials.load("loova").api_key.get_secret_value() == "..."


async def test_the_pytest_plugin_is_used_as_shown(loova_simulator):
    await example("loova_simulator")["test_my_pipeline"](loova_simulator)


def test_the_commands_arguments_are_those_of_the_command():
    usage = re.search(r"generate_video\.py PROMPT (.*?)```", README, re.DOTALL)
    assert usage is not None
    shown = set(re.findall(r"--[a-z0-9-]+", usage[1]))
    told = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "generate_video.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == set(re.findall(r"(?m)^  (?:-h, )?(--[a-z0-9-]+)", told)) - {"--help"}


def test_the_commands_for_a_job_in_doubt_are_those_that_its_error_shows():
    shown = re.findall(r"python -m prefect_loova\.resolve KEY (.*?) --bucket", README)
    assert shown == ["adopt TASK_ID", "submit-again", "give-up"]  # run by test_resolve.py, as the error shows them


def test_every_link_to_a_file_of_this_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_make_says_what_there_is():
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"make {target}" in told
