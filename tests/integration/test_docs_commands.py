"""What the guides show for a shell is run, each page from its first block to its last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from tests.support.docs_blocks import BLOCKS, to_run
from tests.support.prefect_server import PrefectServer

ROOT = Path(__file__).parents[2]
Run = Callable[[str], list[str]]
pytestmark = [pytest.mark.processes, pytest.mark.one_s3_server]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, with a list in it."""
    for name in ("flows", "deployments"):
        (tmp_path / name).symlink_to(ROOT / name)
    harbour, _, takes = to_run("storyboards.md", "yaml")
    (tmp_path / "harbour.yaml").write_text(harbour)
    (tmp_path / "takes.yaml").write_text(takes)
    (tmp_path / "products.yaml").write_text(to_run("directing.md", "yaml")[0])
    (tmp_path / "prompts.csv").write_text("prompt,duration\na boat,4\na train,4\n")
    (tmp_path / "products.csv").write_text("product,place,season\na chair,the sea,spring\na lamp,home,winter\n")
    return tmp_path


@pytest.fixture
def run(served: dict[str, str], bucket: Any, loova: Any, checkout: Path) -> Run:
    """Runs a guide's blocks, and returns what each of them prints."""
    env = served | {
        "AWS_ACCESS_KEY_ID": bucket.server.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.server.secret_key,
    }

    def blocks(guide: str) -> list[str]:
        told = []
        for code in to_run(guide, "bash"):
            tasks = loova.ledger["tasks"]
            names = {"my-videos": bucket.name, "TASK_ID": tasks[0]["task_id"] if tasks else "TASK_ID"}
            told.append(in_a_shell(code, names, env, checkout))
        return told

    return blocks


def in_a_shell(code: str, names: dict[str, str], env: dict[str, str], cwd: Path) -> str:
    for shown, real in names.items():
        code = code.replace(shown, real)
    env = env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "PREFECT_HOME": str(cwd / "home")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_is_run_by_a_test():
    assert {guide for guide in BLOCKS if to_run(guide, "bash")} == {
        "index.md",
        "batches.md",
        "storyboards.md",
        "publishing.md",
        "directing.md",
        "detached.md",
        "budgets.md",
        "deploy.md",
        "schedule.md",  # by test_workers.py
    }


def test_start_here(run: Run):
    simulated, registered = run("index.md")
    assert Path(simulated.splitlines()[-1]).suffix == ".mp4"
    assert "Loova Credentials" in registered


def test_a_list_is_priced_and_made(run: Run, loova: Any, checkout: Path):
    run("batches.md")
    assert loova.ledger["totals"]["billed"] == 2
    assert (checkout / "prompts.report.csv").read_text().count(",saved,") == 2


def test_a_story_is_priced_and_made(run: Run, loova: Any):
    first, second = run("storyboards.md")
    priced, made = first.splitlines()
    assert priced.startswith("3 videos, 3 to be bought for up to 180 credits")
    assert made.startswith("3 of 3 shots are there; s3://")
    assert ", 12.0 s; 180 credits" in made
    assert second.startswith("4 takes wait for a review; 160 credits") and "a boat leaves the harbour" in second
    assert loova.ledger["totals"]["billed"] == 3 + 4


def test_a_list_is_published(run: Run, bucket: Any):
    made, published = run("publishing.md")[0].splitlines()
    assert made.startswith("2 videos: 2 saved")
    assert published == f"2 videos, 2 copied by this run; s3://{bucket.name}/spring/index.html"


def test_a_list_is_directed_from_drafts_to_published_videos(run: Run, bucket: Any, loova: Any):
    priced, drafted, once, again, published = run("directing.md")
    assert "9 videos, 9 to be bought for up to 420 credits" in priced
    assert drafted.startswith("6 videos: 6 saved") and drafted.count("take 1: s3://") == 3
    assert once.splitlines()[-1].startswith("8 videos: 6 reused, 2 saved; 100 credits")
    assert again.splitlines()[-1].startswith("9 videos: 8 reused, 1 saved; 60 credits")
    assert published == f"2 videos, 2 copied by this run; s3://{bucket.name}/spring/index.html\n"
    made = [(task["request"]["model"], task["request"]["prompt"]) for task in loova.ledger["tasks"][6:]]
    evening = "a lamp at home, in the evening"
    assert sorted(made[:2]) == [("seedance_2_0", "a lamp at the sea"), ("seedance_2_0_fast", evening)]
    assert made[2:] == [("seedance_2_0", evening)]


def test_a_detached_list_is_collected(run: Run, loova: Any, bucket: Any):
    queued, one, rest = run("detached.md")
    assert "2 submitted" in queued
    assert (one, rest) == ("1 saved\n", "1 saved\n")
    assert loova.ledger["totals"]["billed"] == 2


def test_the_credits_are_reported(run: Run):
    (told,) = run("budgets.md")
    assert "the account has 10,000 credits; 0 were spent" in told


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Deployments and automations would trouble the other tests."""
    with PrefectServer(tmp_path_factory.mktemp("server")) as server:
        yield server


async def test_everything_is_deployed(
    own_server: PrefectServer, place: Any, environment: dict[str, str], checkout: Path
):
    with temporary_settings({PREFECT_API_URL: own_server.api_url}):
        await place.credentials.save("loova", overwrite=True)
        await place.bucket.save("loova", overwrite=True)
        await SlackWebhook(url=SecretStr("https://hooks.slack.com/services/T00000000/B00000000/x")).save("on-call")
        env = environment | {"PREFECT_API_URL": own_server.api_url}
        for code in to_run("deploy.md", "bash"):
            in_a_shell(code, {"http://127.0.0.1:4200/api": own_server.api_url}, env, checkout)
        async with get_client() as prefect:
            deployed = {one.name: one for one in await prefect.read_deployments()}
            runs = [one for one in await prefect.read_flow_runs() if not one.auto_scheduled]
        assert {name for name, one in deployed.items() if any(on.active for on in one.schedules)} == {"report-credits"}
        assert len(deployed) == 7
        assert {run.parameters.get("manifest") for run in runs} == {"s3://my-videos/loova/prompts.csv", None}
        assert [run.parameters["request"]["duration"] for run in runs if "request" in run.parameters] == [5]
        assert (await Automation.aread(name="Loova job in doubt")).enabled
