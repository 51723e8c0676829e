"""The pictures of the docs: `python -m tests.ui.screenshots FOLDER`, of the demo's own command and of a batch of 12."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from prefect_loova import VideoRequest
from tests.ui.environment import ROOT, Environment, chromium, start_environment

DEMO = "A futuristic city at sunset"


def take(page: Page, address: str, file: Path, height: int) -> None:
    """One picture of a page that has its pictures."""
    page.set_viewport_size({"width": 1360, "height": height})
    page.goto(address)
    page.wait_for_function("[...document.images].some(i => i.src.startsWith('data:image') && i.naturalWidth)")
    page.wait_for_timeout(1500)  # fonts, and something to see in the moving one
    page.screenshot(path=str(file))
    print(file)


def artifact(stage: Environment, key: str) -> str:
    """The address of the latest artifact with a key."""
    return stage.address("v1", f"/artifacts/artifact/{stage.artifact(key)['id']}")


def main(folder: Path) -> None:
    """Take them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept, start_environment(Path(kept) / "stage") as stage, chromium() as browser:
        demo = [sys.executable, "flows/generate_video.py", DEMO, "--simulate", "--state", f"{kept}/demo"]
        subprocess.run(demo, cwd=ROOT, env=stage.environment, check=True)
        stage.loova.fail(on="submit", status=400, envelope={"code": 400, "message": "The prompt was refused"})
        stage.play("batch")
        page = browser.new_page()
        key = f"loova-video-{VideoRequest(prompt=DEMO).key[:16]}"
        take(page, artifact(stage, key), folder / "video.png", 900)
        take(page, artifact(stage, "loova-batch"), folder / "batch.png", 1100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
