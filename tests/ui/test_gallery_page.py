"""The gallery page of published videos, in a real browser: from a downloaded folder, light and dark."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from prefect_loova import PublishedVideo
from prefect_loova.batches.publish_files import gallery_page
from tests.support.films import film

pytestmark = pytest.mark.ui

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> a boat"
RATIOS = {"16:9": (128, 72), "9:16": (72, 128), "1:1": (96, 96)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A downloaded collection of three videos. Their names need escapes in a URL."""
    folder, videos = tmp_path_factory.mktemp("collection"), []
    for number, (ratio, size) in enumerate(RATIOS.items()):
        name = f"50% off? {number}.mp4"
        (folder / name).write_bytes(film(24, size))
        videos.append(
            PublishedVideo(
                name=name,
                video=f"s3://b/{name}",
                prompt=HOSTILE,
                key="a" * 64,
                label="Spring" if number else "",
                model="seedance_2_0",
                ratio=ratio,
                duration=4,
                sha256="b" * 64,
                size_bytes=1000,
                source="s3://b/loova/video.mp4",
            )
        )
    (folder / "index.html").write_bytes(gallery_page("boats", videos, quote, manifest="manifest.csv"))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_videos_play_from_a_downloaded_folder_and_foreign_text_does_nothing(
    browser: Browser, folder: Path, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    asked, problems = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState > 0)")
    expect(page.get_by_text("<img src=x onerror=").first).to_be_visible()
    assert page.title() == "boats"
    size = "[v.videoWidth, v.videoHeight, v.clientWidth / v.clientHeight]"
    shown = page.evaluate(f"[...document.querySelectorAll('video')].map(v => {size})")
    for (width, height, ratio), size in zip(shown, RATIOS.values(), strict=True):
        assert (width, height) == size
        assert ratio == pytest.approx(width / height, rel=0.03)  # no black bars
    page.evaluate("document.querySelector('video').play()")
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    assert {url.partition("://")[0] for url in asked} == {"file"}
    assert len(asked) == 4
    assert problems == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(246, 247, 249)", "dark": "rgb(16, 19, 24)"}[scheme]
    page.close()


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto((folder / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
