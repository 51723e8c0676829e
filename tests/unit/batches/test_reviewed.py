"""What a round of a batch with a review makes, and what the report says of each take."""

from __future__ import annotations

from typing import Any

from prefect_loova import VideoRequest
from prefect_loova.batches.reviewed import next_round, take_groups, undecided, with_choices
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.reviews import Draft, Review, TakeDecision, TakeGroup, TakeVerdict

FAST = Draft(model="seedance_2_0_fast")


def kite(color: str = "red", **fields: Any) -> VideoRequest:
    return VideoRequest(prompt=f"a {color} kite", duration=4, **fields)


def decided(group: TakeGroup, *decisions: TakeDecision, verdicts: tuple[TakeVerdict, ...] = ()) -> TakeGroup:
    review = Review(group=group.id, api_origin="https://loova.test", decisions=decisions, verdicts=verdicts)
    return group.with_review(review)


def chosen(group: TakeGroup, take: int) -> TakeGroup:
    return decided(group, TakeDecision(what="choose", who="Ada", take=take, key=group.takes[take].shown.key))


def saved(*groups: TakeGroup) -> BatchReport:
    """A report in which all takes are in the bucket."""
    takes = [(group, take) for group in groups for take in group.takes]
    return BatchReport(
        videos=tuple(
            VideoOutcome(
                key=take.shown.key,
                name=f"take {take.final.take}",
                rows=group.rows,
                group=group.id,
                take=take.final.take,
                outcome="saved",
                credits_estimate=1,
            )
            for group, take in takes
        )
    )


def made(groups: list[TakeGroup]) -> list[tuple[str, int, str, bool]]:
    videos = next_round(groups).videos
    return [(one.request.prompt, one.request.take, one.request.model, one.is_draft) for one in videos]


def test_equal_rows_are_one_request_with_all_their_takes() -> None:
    groups = take_groups([kite(takes=2), kite("blue"), kite(take=1, takes=2)])
    assert [(one.rows, [take.final.take for take in one.takes]) for one in groups] == [((1, 3), [0, 1, 2]), ((2,), [0])]


def test_open_requests_make_drafts_and_decided_ones_only_what_was_chosen() -> None:
    first, second, third = take_groups([kite(takes=2), kite("blue", takes=2), kite("green", takes=2)], FAST)
    dropped = decided(third, TakeDecision(what="drop", who="Ada"))
    assert made([chosen(first, 1), second, dropped]) == [
        ("a red kite", 1, "seedance_2_0", False),
        ("a blue kite", 0, "seedance_2_0_fast", True),
        ("a blue kite", 1, "seedance_2_0_fast", True),
    ]
    wanted = next_round([chosen(first, 1), second, dropped])
    assert [(one.request.prompt, one.request.model) for one in wanted.later] == [("a blue kite", "seedance_2_0")]
    assert {one.request.prompt for one in wanted.others} == {"a red kite", "a green kite"}


def test_a_draft_that_equals_the_request_is_made_once() -> None:
    groups = take_groups([kite(takes=2)], Draft(model="seedance_2_0"))
    assert made(groups) == [("a red kite", 0, "seedance_2_0", False), ("a red kite", 1, "seedance_2_0", False)]
    assert next_round(groups).later == []
    assert made([chosen(groups[0], 0)]) == [("a red kite", 0, "seedance_2_0", False)]


def test_the_draft_of_one_row_that_is_another_row_is_made_once() -> None:
    groups = take_groups([kite(), kite(model="seedance_2_0_fast")], FAST)
    assert made(groups) == [("a red kite", 0, "seedance_2_0_fast", True)]


def test_a_person_is_asked_about_open_requests_with_a_take_in_the_bucket() -> None:
    first, second, third = take_groups([kite(takes=2), kite("blue"), kite("green")])
    report = saved(first, second, third)
    missing = [one.model_copy(update={"outcome": "failed"}) if one.group == third.id else one for one in report.videos]
    assert undecided([first, chosen(second, 0), third], BatchReport(videos=tuple(missing))) == [first]


def test_the_report_says_what_was_decided_about_each_take() -> None:
    first, second, third, fourth = take_groups([kite(color, takes=2) for color in ("red", "blue", "green", "grey")])
    groups = [chosen(first, 1), second, decided(third, TakeDecision(what="drop", who="Ada")), fourth]
    report = with_choices(saved(*groups), groups, [second])
    assert [one.choice for one in report.videos] == [
        *("not chosen", "chosen"),
        *("to review", "to review"),
        *("dropped", "dropped"),
        *("", ""),
    ]
    assert report.is_complete


def test_a_take_that_a_gate_rejected_is_missing_until_another_take_or_a_person_stands_for_it() -> None:
    (plain,) = take_groups([kite()])
    verdict = TakeVerdict(key=plain.takes[0].shown.key, gate="black", what="reject", reason="all black")
    rejected = decided(plain, verdicts=(verdict,))
    report = with_choices(saved(plain), [rejected])
    assert [(one.rejected, one.is_missing) for one in report.videos] == [("black: all black", True)]

    retake = TakeDecision(what="retake", who="quality gate black", gate="black", take=1)
    again = decided(plain, retake, verdicts=(verdict,))
    report = with_choices(saved(again), [again])
    assert [(one.choice, one.is_missing) for one in report.videos] == [
        ("not chosen", False),
        ("", False),
    ]

    choice = TakeDecision(what="choose", who="Ada", take=0, key=verdict.key)
    by_person = decided(plain, choice, verdicts=(verdict,))
    report = with_choices(saved(plain), [by_person])
    assert [(one.choice, one.rejected, one.is_missing) for one in report.videos] == [("chosen", "", False)]


def test_other_signed_links_of_a_video_are_planned_with_it_because_earlier_versions_gave_them_other_keys() -> None:
    link = "https://b.s3.amazonaws.com/cat.png?AWSAccessKeyId=AKIA&Signature={}%3D&Expires=1800000000"
    asked = [VideoRequest(prompt="@image1 runs", duration=4, image_urls=(link.format(one),)) for one in ("s1", "s2")]
    assert asked[0].key == asked[1].key and asked[0].former_key != asked[1].former_key
    (group,) = take_groups(asked, Draft("seedance_2_0_fast"))
    (draft,) = next_round([group]).videos
    assert [one.former_key for one in draft.links] == [Draft("seedance_2_0_fast").of(asked[1]).former_key]
    (plain,) = next_round(take_groups(asked)).videos
    assert [one.former_key for one in plain.links] == [asked[1].former_key]
