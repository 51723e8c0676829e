"""Stories whose shots have takes: drafts, a review, and the film of what was chosen, on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prefect_loova import BatchError, BudgetError, GateInput, StoryReport, Verdict, VideoRequest, generate_storyboard
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.reviews import open_reviews
from tests.integration.test_batches import lister
from tests.integration.test_reviews import FAST, decided, submits

__all__ = ["lister"]

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.takes, pytest.mark.one_s3_server]

FULL = "seedance_2_0"
STORY = """
duration: 4
shots:
  - {prompt: the boat, takes: 2}
  - {prompt: the fog, continue: true, takes: 2}
  - {prompt: a child, takes: 2}
"""


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "harbour.yaml"
    path.write_text(STORY)
    return path


async def make(story: Path, place: Any, **options: Any) -> StoryReport:
    options = {"preview": "none", "poll_seconds": 0.1} | options
    return await generate_storyboard(str(story), place.credentials, place.bucket, **options)


async def test_a_story_of_drafts_is_reviewed_and_only_what_was_chosen_is_made_and_joined(lister, loova, story):
    options: dict[str, Any] = {"draft": FAST, "review": "suspend"}
    report = await make(story, lister, **options)
    assert (report.film, report.summary[:31]) == (None, "6 takes wait for a review; 240 ")
    assert submits(loova).count((FAST, "the fog")) == 2
    await chosen(lister, "the boat", "choose", take=1)
    await chosen(lister, "the fog", "retake", prompt="the mist")
    await chosen(lister, "a child", "drop")
    report = await make(story, lister, **options)
    assert report.film is None and submits(loova)[6:] == [(FAST, "the mist")]
    await chosen(lister, "the fog", "choose", take=2)
    report = await make(story, lister, **options)
    assert submits(loova)[7:] == [(FULL, "the boat"), (FULL, "the mist")]
    assert report.film is not None and report.duration_seconds == pytest.approx(8, abs=0.2)
    assert [(one.rows, one.take, one.prompt) for one in report.shots.videos] == [
        ((1,), 1, "the boat"),
        ((2,), 2, "the mist"),
    ]
    again = await make(story, lister, **options)
    assert (again.film, again.credits_charged, loova.ledger["totals"]["posted"]) == (report.film, 0, 9)


async def test_a_chosen_take_stays_and_its_seam_is_shown(lister, loova, story):
    report = await make(story, lister, review="suspend")
    assert report.film is None and loova.ledger["totals"]["posted"] == 6
    await chosen(lister, "the boat", "choose", take=1)
    await chosen(lister, "the fog", "choose", take=0)
    await chosen(lister, "a child", "choose", take=1)
    report = await make(story, lister, review="suspend")
    assert report.film is not None and loova.ledger["totals"]["posted"] == 6
    assert [one.shot for one in report.seams] == [2] and report.seams[0].distance > 0
    assert [one.take for one in report.shots.videos] == [1, 0, 1]


async def test_without_a_review_the_film_has_the_first_takes_that_no_gate_rejected(lister, loova, story):
    def second_boat(video: GateInput) -> Verdict:
        is_bad = video.request["prompt"] == "the boat" and video.request["take"] == 0
        return Verdict.reject("a bad boat") if is_bad else Verdict.accept()

    report = await make(story, lister, quality_gates=[second_boat])
    assert [one.take for one in report.shots.videos] == [1, 0, 0]
    assert report.film is not None and loova.ledger["totals"]["posted"] == 6


async def test_the_price_of_both_stages_is_known_before_the_first_draft(lister, loova, story):
    options: dict[str, Any] = {"draft": FAST, "review": "suspend"}
    fast = VideoRequest(prompt="a", duration=4, model=FAST).estimate_credits()
    most = 6 * fast + 3 * 60
    with pytest.raises(BudgetError, match=rf"9 of 9 videos are to be bought, for up to {most:g} credits"):
        await make(story, lister, max_credits=most - 1, **options)
    assert loova.ledger["totals"]["posted"] == 0
    await make(story, lister, max_credits=most, **options)
    for prompt in ("the boat", "the fog", "a child"):
        await chosen(lister, prompt, "choose", take=0)
    report = await make(story, lister, max_credits=180, **options)
    assert report.film is not None and report.credits_charged == 180


async def test_a_story_whose_shots_are_all_dropped_has_no_film_and_costs_nothing_more(lister, loova, story):
    await make(story, lister, review="suspend")
    for prompt in ("the boat", "the fog", "a child"):
        await chosen(lister, prompt, "drop")
    with pytest.raises(BatchError, match="all shots were dropped"):
        await make(story, lister, review="suspend")
    assert loova.ledger["totals"]["posted"] == 6


async def test_a_draft_that_breaks_a_rule_is_refused_by_shot(lister, loova, story):
    with pytest.raises(InvalidRequestError, match="shot 1, its draft: duration: 2 was given"):
        await make(story, lister, draft_duration=2, review="suspend")
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_shot_made_from_its_fallback_prompt_is_in_the_film_and_is_asked_about_once(lister, loova, story):
    story.write_text("shots: [{prompt: a star, fallback_prompt: a singer, duration: 4, takes: 2}]")
    loova.fail("prompt_refused", prompt="a star", times=None)
    assert (await make(story, lister, review="suspend")).film is None
    assert submits(loova) == [(FULL, "a singer")] * 2
    await chosen(lister, "a star", "choose", take=1)
    report = await make(story, lister, review="suspend")
    assert report.film is not None and [one.take for one in report.shots.videos] == [1]
    assert loova.ledger["totals"]["billed"] == 2


async def test_after_three_lost_answers_no_other_take_is_submitted(lister, loova, story):
    story.write_text("duration: 4\nshots: [{prompt: a, takes: 2}, {prompt: b, takes: 2}, {prompt: c, takes: 2}]")
    loova.fail("lost_reply", times=3)
    with pytest.raises(BatchError, match=r"shot 1, .*in doubt"):
        await make(story, lister)
    assert loova.ledger["totals"]["posted"] == 3


async def test_a_gate_that_is_not_deployed_is_refused_before_the_first_take(lister, loova, story):
    with pytest.raises(InvalidRequestError, match="gates: there is no deployment"):
        await make(story, lister, quality_gates=["no-such/deployment"])
    assert loova.ledger["totals"]["posted"] == 0


async def chosen(place: Any, shot: str, what: Any, **options: Any) -> None:
    async with place.open() as jobs:
        prompts = [review.request["prompt"] for review in await open_reviews(jobs)]
    await decided(place, prompts.index(shot), what, **options)


async def test_takes_that_were_not_chosen_count_against_the_limit_of_the_run(lister, loova, story):
    """A parent flow makes all three calls, so that they are one run."""
    options: dict[str, Any] = {"draft": FAST, "review": "suspend"}
    spent, full = 7 * 40, 3 * 60

    @flow
    async def directed() -> StoryReport:
        await make(story, lister, max_credits=spent + full, **options)
        await chosen(lister, "the boat", "retake", prompt="the ship")
        for shot in ("the fog", "a child"):
            await chosen(lister, shot, "choose", take=0)
        await make(story, lister, max_credits=spent + full, **options)
        await chosen(lister, "the boat", "choose", take=2)
        with pytest.raises(BudgetError, match="179 was given"):
            await make(story, lister, max_credits=spent + full - 1, **options)
        return await make(story, lister, max_credits=spent + full, **options)

    report = await directed()
    assert report.film is not None and report.credits_charged == spent + full
