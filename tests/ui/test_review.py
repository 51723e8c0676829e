"""A review in Prefect's two UIs, in a real browser: drafts, a form with pictures, a re-take, and what was chosen."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.environment import API_KEY, Environment
from tests.ui.review_form import Form
from tests.ui.scenario import PROMPTS
from tests.ui.test_ui import shown_pictures

pytestmark = pytest.mark.ui

FAST, FULL = "seedance_2_0_fast", "seedance_2_0"
CITY, LIGHTHOUSE, BOAT = PROMPTS[:3]


def state(environment: Environment, run: str) -> str:
    return str(environment.post("/flow_runs/filter", flow_runs={"id": {"any_": [run]}})[0]["state"]["name"])


def submits(environment: Environment, of: str) -> list[tuple[str, str]]:
    """The models and prompts of all submits whose prompts end like this, in order."""
    made = [task["request"] for task in environment.loova.ledger["tasks"]]
    return [(one["model"], one["prompt"]) for one in made if one["prompt"].endswith(of)]


def reviews(environment: Environment, ui: str) -> dict[str, list[dict[str, Any]]]:
    """The decisions in the bucket, by the prompt of their request."""
    stored = environment.run("reviews")
    return {one["request"]["prompt"]: one["decisions"] for one in stored if f", in {ui}" in json.dumps(one["request"])}


def test_a_person_reviews_drafts_and_pays_only_for_what_was_decided(
    environment: Environment, page: Page, ui: str
) -> None:
    of = f", in {ui}"
    run = environment.run("review_run", of)
    environment.execute(run)
    assert state(environment, run) == "Suspended"
    drafts = sorted([(FAST, f"{prompt}{of}") for prompt in (CITY, LIGHTHOUSE, BOAT)] * 2)
    assert sorted(submits(environment, of)) == drafts

    gallery = environment.artifact("loova-review")["id"]
    page.goto(environment.address(ui, f"/artifacts/artifact/{gallery}"))
    assert [natural for natural, _ in shown_pictures(page, 6)] == [240] * 6
    expect(page.get_by_text("to review, 40 credits").first).to_be_visible()

    form = Form(environment, page, ui, run)
    expect(form.box.get_by_text("Choose among 6 takes of 3 requests.").last).to_be_visible()
    for picture in form.box.locator("img[src^='data:image']").all()[-6:]:
        picture.scroll_into_view_if_needed()
        expect(picture).to_be_in_viewport()
    form.choose(1, "take 1")
    form.choose(2, "re-take")
    form.write(2, f"A lighthouse at dawn{of}")
    form.choose(3, "drop")
    form.submit("Ada")
    environment.execute(run)
    assert state(environment, run) == "Suspended"
    assert sorted(submits(environment, of)[6:]) == [(FULL, f"{CITY}{of}"), (FAST, f"A lighthouse at dawn{of}")]

    form = Form(environment, page, ui, run)
    expect(form.box.get_by_text("Choose among 3 takes of 1 request.").last).to_be_visible()
    assert form.request(2).count() == 0
    form.choose(1, "take 2")
    form.submit("Grace")
    environment.execute(run)
    assert state(environment, run) == "Completed"
    assert submits(environment, of)[8:] == [(FULL, f"A lighthouse at dawn{of}")]

    decisions = reviews(environment, ui)
    found = {
        prompt.removesuffix(of): [(one["what"], one["take"], one["who"]) for one in made]
        for prompt, made in decisions.items()
    }
    assert found == {
        CITY: [("choose", 1, "Ada")],
        LIGHTHOUSE: [("retake", 2, "Ada"), ("choose", 2, "Grace")],
        BOAT: [("drop", None, "Ada")],
    }

    page.goto(environment.address(ui, f"/artifacts/artifact/{environment.artifact('loova-batch')['id']}"))
    shown_pictures(page, 9)
    expect(page.get_by_role("heading", name="Drafts")).to_be_visible()
    for told in ("chosen, 60 credits", "not chosen, ", "dropped, "):
        expect(page.locator("td").filter(has_text=told).first).to_be_visible()
    assert API_KEY not in page.content()

    again = environment.run("review_run", of)
    environment.execute(again)
    assert state(environment, again) == "Completed"
    assert len(submits(environment, of)) == 9


def test_a_story_of_six_shots_is_reviewed_and_only_what_was_chosen_is_made_joined_and_published(
    environment: Environment, page: Page, ui: str
) -> None:
    of = f", filmed in {ui}"
    run = environment.run("story_run", of)
    environment.execute(run)
    assert state(environment, run) == "Suspended"
    assert [model for model, _ in submits(environment, of)] == [FAST] * 12

    form = Form(environment, page, ui, run)
    expect(form.box.get_by_text("Choose among 12 takes of 6 requests.").last).to_be_visible()
    form.choose(1, "take 1")
    form.choose(2, "re-take")
    form.write(2, f"A lighthouse at dawn{of}")
    for number in (3, 4, 5):
        form.choose(number, "take 0")
    form.choose(6, "drop")
    form.submit("Ada")
    environment.execute(run)
    assert state(environment, run) == "Suspended"
    assert submits(environment, of)[12:] == [(FAST, f"A lighthouse at dawn{of}")]

    form = Form(environment, page, ui, run)
    form.choose(1, "take 2")
    form.submit("Grace")
    environment.execute(run)
    assert state(environment, run) == "Completed"
    wanted = [CITY, "A lighthouse at dawn", BOAT, *PROMPTS[3:5]]
    assert sorted(submits(environment, of)[13:]) == sorted((FULL, f"{prompt}{of}") for prompt in wanted)

    story = environment.artifact("loova-story")
    page.goto(environment.address(ui, f"/artifacts/artifact/{story['id']}"))
    shown_pictures(page, 1 + 5 + 13)
    expect(page.get_by_text(f"A day{of}").first).to_be_visible()
    expect(page.get_by_text("dropped, ").first).to_be_visible()
    keys = re.findall(r"keep: ([0-9a-f]{64})", story["data"])
    assert len(environment.run("publish_keys", *keys)) == len(wanted)
    assert len(submits(environment, of)) == 12 + 1 + 5
