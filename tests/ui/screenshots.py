"""Make the pictures of the docs (demo, batch, collection, review): `python -m tests.ui.screenshots FOLDER`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
from av.filter import Graph
from playwright.sync_api import Page

from prefect_loova import VideoRequest
from prefect_loova._prefect.artifacts import artifact_key
from tests.ui.environment import ROOT, Environment, chromium, start_environment
from tests.ui.review_form import Form

DEMO = "A futuristic city at sunset"


def take(page: Page, address: str, file: Path, height: int) -> None:
    """Take a screenshot of a page after its pictures are loaded."""
    page.set_viewport_size({"width": 1360, "height": height})
    page.goto(address)
    page.wait_for_function("[...document.images].some(i => i.src.startsWith('data:image') && i.naturalWidth)")
    page.wait_for_timeout(1500)  # load the fonts, and let the moving picture play
    page.screenshot(path=str(file))
    print(file)


def shrink(file: Path) -> None:
    """Write a picture again with a palette of 256 colors, which is a quarter of its size."""
    with av.open(str(file)) as container:
        picture = next(container.decode(video=0)).reformat(format="rgba")
    graph = Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1)
    )
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse", "dither=none")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    picture.pts = 0
    source.push(picture)
    source.push(None)
    found = sink.pull()
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        found.width,
        found.height,
        "pal8",
        Fraction(1, 1),
    )
    found.pts = 0
    file.write_bytes(b"".join(map(bytes, [*encoder.encode(found), *encoder.encode(None)])))


def artifact(environment: Environment, key: str) -> str:
    """Return the URL of the latest artifact with a key."""
    return environment.address("v1", f"/artifacts/artifact/{environment.artifact(key)['id']}")


def take_review(environment: Environment, page: Page, folder: Path) -> None:
    """Take the screenshots of a review: the takes, the form, and the page of the batch after it."""
    run = environment.run("review_run")
    environment.execute(run)
    take(page, artifact(environment, "loova-review"), folder / "review.png", 1000)
    page.set_viewport_size({"width": 1100, "height": 1320})
    form = Form(environment, page, "v1", run)
    page.wait_for_timeout(1500)
    form.choose(1, "take 1")
    form.choose(2, "re-take")
    form.write(2, "A lighthouse at dawn, a calm sea")
    form.choose(3, "drop")
    form.write_name("Ada")
    page.locator(".p-modal__body").evaluate("body => body.scrollTop = 0")
    page.wait_for_timeout(300)
    form.box.screenshot(path=str(folder / "review-form.png"))
    form.submit("Ada")
    environment.execute(run)
    form = Form(environment, page, "v1", run)
    form.choose(1, "take 2")
    form.submit("Ada")
    environment.execute(run)
    take(page, artifact(environment, "loova-batch"), folder / "reviewed.png", 1250)


def main(folder: Path) -> None:
    """Take the screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as kept,
        start_environment(Path(kept) / "environment") as environment,
        chromium() as browser,
    ):
        demo = [sys.executable, "flows/generate_video.py", DEMO, "--simulate", "--state", f"{kept}/demo"]
        subprocess.run(demo, cwd=ROOT, env=environment.variables, check=True)
        environment.loova.fail(on="submit", status=400, envelope={"code": 400, "message": "The prompt was refused"})
        environment.run("batch")
        page = browser.new_page()
        request = VideoRequest(prompt=DEMO)
        key = artifact_key("video", request.key, request.name)
        take(page, artifact(environment, key), folder / "video.png", 900)
        take(page, artifact(environment, "loova-batch"), folder / "batch.png", 1100)
        gallery = Path(kept) / "index.html"
        gallery.write_text(environment.run("publish"))
        page.goto(gallery.as_uri())
        page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState > 0)")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(folder / "published.png"))
        take_review(environment, page, folder)
        for picture in folder.glob("*.png"):
            shrink(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
