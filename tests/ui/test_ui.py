"""Forms, pages, pictures and progress bars in Prefect's two UIs, in a real browser."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, expect

from tests.ui.environment import API_KEY, Environment

pytestmark = pytest.mark.ui

TEXT = "A futuristic city at sunset, flying cars between towers of glass"


@pytest.fixture(scope="module")
def video(environment: Environment) -> str:
    """The artifact of a video."""
    key = environment.run("video")
    name = "a-futuristic-city-at-sunset-flying-cars-16-9-5s"
    return str(environment.artifact(f"loova-video-{name}-{key[:16]}")["id"])


@pytest.fixture(scope="module")
def gallery(environment: Environment) -> str:
    """The artifact of a batch of 12, one of which Loova refused."""
    environment.loova.fail("prompt_refused")
    environment.run("batch")
    return str(environment.artifact("loova-batch")["id"])


@pytest.fixture(scope="module")
def film(environment: Environment) -> str:
    """The artifact of a story of 4 shots, with a title that means something to markdown."""
    environment.run("story", "A *day* at <b>www.harbour.example</b>")
    return str(environment.artifact("loova-story")["id"])


@pytest.fixture(scope="module")
def deployment(environment: Environment) -> str:
    return str(environment.run("deploy"))


def shown_pictures(page: Page, count: int) -> list[tuple[int, int]]:
    """Wait for so many embedded pictures to be decoded, and return the natural width and the width of each.

    One script does it all, because the second UI redraws a page while it loads.
    """
    script = """count => {
        const found = [...document.images].filter(i => i.src.startsWith("data:image"));
        return found.length === count && found.every(i => i.complete && i.naturalWidth)
            && found.map(i => [i.naturalWidth, Math.round(i.getBoundingClientRect().width)]) }"""
    return [(int(natural), int(width)) for natural, width in page.wait_for_function(script, arg=count).json_value()]


def test_the_page_of_a_video_shows_it_moving(environment: Environment, page: Page, ui: str, video: str) -> None:
    page.goto(environment.address(ui, f"/artifacts/artifact/{video}"))
    expect(page.get_by_text(TEXT).first).to_be_visible()
    [(natural, width)] = shown_pictures(page, 1)
    assert natural == 320
    assert width > 200
    picture = page.locator("img[src^='data:image']")
    first = picture.screenshot()
    for _ in range(40):
        if picture.screenshot() != first:
            break
        time.sleep(0.1)
    else:
        pytest.fail("it does not move")


def test_the_page_of_a_video_says_what_it_cost_and_where_it_is(
    environment: Environment, page: Page, ui: str, video: str
) -> None:
    page.goto(environment.address(ui, f"/artifacts/artifact/{video}"))
    for told in ("75 credits ($2.40 to $6.00); estimate 75", "by this run", "seedance_2_0, omni_reference, 16:9, 5 s"):
        expect(page.get_by_text(told)).to_be_visible()
    assert re.search(r"s3://my-videos/loova/[0-9a-f]{64}/video\.mp4", page.get_by_text("video.mp4").first.inner_text())
    assert API_KEY not in page.content()


def test_the_page_of_a_story_shows_its_film_and_its_shots(
    environment: Environment, page: Page, ui: str, film: str
) -> None:
    page.goto(environment.address(ui, f"/artifacts/artifact/{film}"))
    expect(page.get_by_text("16.0 s, ")).to_be_visible()
    expect(page.get_by_text("joined without re-encoding")).to_be_visible()
    assert re.search(r"_storyboards/[0-9a-f]{64}/video\.mp4", page.get_by_text("_storyboards").first.inner_text())
    pictures = shown_pictures(page, 5)
    assert [natural for natural, _ in pictures] == [320, 240, 240, 240, 240]
    expect(page.get_by_text("4 videos: 4 saved").first).to_be_visible()
    expect(page.get_by_text("A *day* at <b>").first).to_be_visible()
    assert page.locator("a[href*='harbour.example']").count() == 0


def test_the_page_of_a_batch_is_a_gallery_with_failures_first(
    environment: Environment, page: Page, ui: str, gallery: str
) -> None:
    page.goto(environment.address(ui, f"/artifacts/artifact/{gallery}"))
    expect(
        page.get_by_text("12 videos: 11 saved, 1 content refused; 660 credits ($21.12 to $52.80)").first
    ).to_be_visible()
    pictures = shown_pictures(page, 11)
    assert [natural for natural, _ in pictures] == [240] * 11
    assert all(width >= 100 for _, width in pictures)
    reason = page.get_by_text("The prompt was refused by **moderation** <b>&</b>")
    expect(reason).to_be_visible()
    above, below = reason.bounding_box(), page.locator("img[src^='data:image']").first.bounding_box()
    assert above and below and above["y"] < below["y"]


def test_a_gallery_leads_to_the_page_of_each_video(environment: Environment, page: Page, ui: str, gallery: str) -> None:
    page.goto(environment.address(ui, f"/artifacts/artifact/{gallery}"))
    link = page.locator("a[href*='/artifacts/key/loova-video-']").first
    address = str(link.get_attribute("href"))
    assert re.search(r"/artifacts/key/loova-video-[a-z0-9-]+-16-9-4s-[0-9a-f]{16}$", address)
    page.goto(address)  # the history of the page
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.get_by_text("16:9, 4 s").first).to_be_visible()


def test_the_table_of_a_batch_has_a_row_for_each_video(
    environment: Environment, page: Page, ui: str, gallery: str
) -> None:
    table = environment.artifact("loova-batch-table")["id"]
    page.goto(environment.address(ui, f"/artifacts/artifact/{table}"))
    expect(page.get_by_text("content refused", exact=True).first).to_be_visible()
    expect(page.get_by_text("a-lighthouse-in-a-storm-waves-breaking 16:9 4s").first).to_be_visible()


def test_a_run_is_named_after_its_video_and_tagged_by_its_model(
    environment: Environment, page: Page, ui: str, video: str
) -> None:
    run = environment.post("/artifacts/filter", artifacts={"id": {"any_": [video]}})[0]["flow_run_id"]
    page.goto(environment.address(ui, f"/runs/flow-run/{run}"))
    expect(page.get_by_text("a-futuristic-city-at-sunset-flying-cars 16:9 5s").first).to_be_visible()
    expect(page.get_by_text("model:seedance_2_0").first).to_be_visible()


def test_a_running_video_has_a_progress_bar(environment: Environment, page: Page, ui: str) -> None:
    environment.loova.fail("unknown_status", times=25)
    process = environment.start("video", f"A lake, waited for in {ui}")
    bars: list[dict[str, str]] = []
    while not bars and process.poll() is None:
        found = environment.post("/artifacts/filter", artifacts={"type": {"any_": ["progress"]}}, sort="CREATED_DESC")
        bars = [one for one in found if "post_processing" in (one["description"] or "").replace("\\", "")]
    page.goto(environment.address(ui, f"/artifacts/artifact/{bars[0]['id']}"))
    expect(page.get_by_text(re.compile(r"post_processing for [\d.]+ s, Loova task sim")).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"Progress: \d+(\.\d+)?%")).first).to_be_visible()
    assert process.wait(120) == 0


def test_the_form_of_the_block_asks_for_what_it_needs(environment: Environment, page: Page, ui: str) -> None:
    page.goto(environment.address(ui, "/blocks/catalog/loova-credentials/create"))
    for told in ("API key", "The API key, made in the Loova dashboard.", "Credits per day", "Submit timeout"):
        expect(page.get_by_text(told).first).to_be_visible()


def test_the_key_of_a_saved_block_is_masked(environment: Environment, page: Page, ui: str) -> None:
    types = environment.post("/block_types/filter", block_types={"slug": {"any_": ["loova-credentials"]}})
    found = environment.post("/block_documents/filter", block_documents={"block_type_id": {"any_": [types[0]["id"]]}})
    page.goto(environment.address(ui, f"/blocks/block/{found[0]['id']}"))
    expect(page.get_by_text("********").first).to_be_visible()
    assert API_KEY not in page.content()


def test_the_run_form_asks_for_a_video(environment: Environment, page: Page, ui: str, deployment: str) -> None:
    page.goto(environment.address(ui, f"/deployments/deployment/{deployment}/run"))
    for told in ("Prompt", "What the video shows", "Aspect ratio", "Seconds of video, 4 to 15.", "max_paid_attempts"):
        expect(page.get_by_text(told).first).to_be_visible()
    for told in ("seedance_2_0", "Known", "Other"):  # a drop-down, or a text for a model of the block
        expect(page.get_by_text(told, exact=True).first).to_be_visible()
