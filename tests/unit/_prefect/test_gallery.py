"""The page of a batch with takes, drafts and verdicts, and the pictures of a review form."""

from __future__ import annotations

from typing import Any

from prefect_loova._prefect.gallery import gallery, outcome_rows, take_pictures
from prefect_loova._prefect.pages import Picture
from prefect_loova.models.reports import BatchReport, VideoOutcome


def video(key: str, **fields: Any) -> VideoOutcome:
    known = {"name": f"video {key}", "rows": (1,), "outcome": "saved", "credits_estimate": 60, "credits_charged": 60}
    return VideoOutcome(key=key, **known | {"group": "g", "prompt": "a kite"} | fields)


def pictures(*videos: VideoOutcome) -> dict[str, Picture]:
    return {one.key: Picture(one.key.encode(), "image/webp") for one in videos}


def test_drafts_come_after_the_final_videos_with_what_was_decided_about_them() -> None:
    drafts = [
        video("1", is_draft=True, choice="not chosen"),
        video("2", is_draft=True, take=1, choice="chosen"),
        video("3", is_draft=True, group="h", prompt="a boat", choice="dropped"),
    ]
    final = video("4", take=1, choice="chosen")
    report = BatchReport(videos=(*drafts, final))
    above, below = gallery(report, pictures(*report.videos)).split("## Drafts")
    assert "**chosen**, 60 credits" in above and "video 4" in above
    assert above.count("data:image") == 1 and below.count("data:image") == 3
    for told in ("not chosen, 60 credits", "**chosen**, 60 credits", "dropped, 60 credits", "take 0", "take 1"):
        assert told in below
    assert [row["choice"] for row in outcome_rows(report)] == [
        "draft, not chosen",
        "draft, chosen",
        "draft, dropped",
        "chosen",
    ]


def test_a_batch_without_drafts_has_no_part_for_them() -> None:
    takes = [video("1"), video("2", take=1)]
    assert "## Drafts" not in gallery(BatchReport(videos=tuple(takes)), pictures(*takes))


def test_what_a_gate_rejected_is_told_in_full_above_the_pictures() -> None:
    reason = "black: 3.5 of 4 seconds are black, which is more than 1.5"
    one = video("1", rejected=reason)
    page = gallery(BatchReport(videos=(one,)), pictures(one)).replace("\\", "")
    told, _, shown = page.partition("![")
    assert "Quality gates rejected these videos:" in told and reason in told
    assert "rejected by black: 3.5" in shown


def test_a_retake_with_another_prompt_says_so() -> None:
    takes = [video("1"), video("2", take=1, prompt="a blue kite")]
    page = gallery(BatchReport(videos=tuple(takes)), pictures(*takes))
    assert "take 1: a blue kite" in page


def test_a_form_gets_a_table_of_pictures_for_each_request_that_waits() -> None:
    takes = [video("1", choice="to review"), video("2", take=1, choice="to review"), video("3", group="h")]
    tables = take_pictures(takes, pictures(*takes))
    assert list(tables) == ["g"]
    assert tables["g"].count("data:image/webp") == 2 and "take 1" in tables["g"]
    assert take_pictures(takes, {}) == {"g": ""}
