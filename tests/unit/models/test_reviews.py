"""Takes and the decisions about them: what identifies a review, what is chosen, and what a re-take is."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova import VideoRequest
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.reviews import Draft, Review, TakeDecision, TakeGroup, TakeVerdict, retake_decision

FAST = Draft(model="seedance_2_0_fast")
KITE = VideoRequest(prompt="a kite", duration=6, takes=2)


def group(request: VideoRequest = KITE, draft: Draft | None = None, *decisions: TakeDecision) -> TakeGroup:
    """The takes of a request, after some decisions."""
    found = TakeGroup(request.all_takes, (1,), draft)
    review = Review(group=found.id, api_origin="https://loova.test", decisions=decisions)
    return found.with_review(review) if decisions else found


def decision(what: Any, **fields: Any) -> TakeDecision:
    return TakeDecision(what=what, who="Ada", **fields)


def test_the_review_of_a_request_without_drafts_has_the_key_of_take_0() -> None:
    assert group().id == KITE.group == KITE.all_takes[0].key
    assert group(KITE.model_copy(update={"take": 2, "takes": 1})).id == KITE.group


def test_each_draft_has_a_review_of_its_own() -> None:
    ids = {group(KITE, draft).id for draft in (None, FAST, Draft(duration=4), Draft("seedance_2_0_fast", 4))}
    assert len(ids) == 4


def test_the_takes_of_a_draft_are_kept_apart_from_those_of_the_cheaper_request() -> None:
    cheaper = KITE.model_copy(update={"model": "seedance_2_0_fast"})
    assert group(KITE, FAST).takes[0].shown.key == group(cheaper).takes[0].shown.key
    assert group(KITE, FAST).id != group(cheaper).id


def test_a_draft_that_equals_the_request_is_no_second_video_and_no_second_review() -> None:
    same = group(KITE, Draft(model=KITE.model, duration=KITE.duration))
    assert same.id == group().id
    assert [take.is_draft for take in same.takes] == [False, False]


def test_a_draft_that_is_not_valid_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="duration: 3 was given"):
        _ = group(KITE, Draft(duration=3)).takes


def test_the_chosen_take_is_found_by_its_key_and_not_by_its_number() -> None:
    """A re-take with another prompt may have the number of a take that there is."""
    other = decision("retake", take=1, prompt="a blue kite")
    takes = group(KITE, None, other).takes
    assert [take.final.take for take in takes] == [0, 1, 1]
    for index in (1, 2):
        chosen = group(KITE, None, other, decision("choose", take=1, key=takes[index].shown.key)).chosen
        assert chosen == takes[index]


def test_a_chosen_draft_is_made_as_the_request_asks_for_it() -> None:
    takes = group(KITE, FAST).takes
    chosen = group(KITE, FAST, decision("choose", take=1, key=takes[1].shown.key)).chosen
    assert chosen is not None and chosen.final == KITE.all_takes[1]
    assert chosen.shown.model == "seedance_2_0_fast"


def test_a_choice_that_the_list_no_longer_has_leaves_the_request_open() -> None:
    gone = group(KITE, None, decision("choose", take=7, key="f" * 64))
    assert (gone.chosen, gone.is_open, gone.is_dropped) == (None, True, False)


def test_the_last_decision_counts_and_a_retake_opens_the_request_again() -> None:
    choose = decision("choose", take=0, key=group().takes[0].shown.key)
    retake, drop = decision("retake", take=2), decision("drop")
    assert group(KITE, None, drop, choose).chosen is not None
    assert group(KITE, None, choose, drop).is_dropped
    again = group(KITE, None, choose, retake)
    assert again.is_open and [take.final.take for take in again.takes] == [0, 1, 2]


def test_a_decision_that_is_written_twice_is_there_once() -> None:
    review, once = Review(group="0" * 64, api_origin="o"), decision("retake", take=2)
    assert review.decided(once).decided(once).decisions == (once,)
    assert len(review.decided(once).decided(decision("retake", take=2)).decisions) == 2


def test_a_video_has_one_verdict() -> None:
    first = TakeVerdict(key="a" * 64, gate="black", what="reject", reason="all black")
    second = TakeVerdict(key="a" * 64, gate="black", what="accept")
    other = TakeVerdict(key="b" * 64, gate="black", what="accept")
    review = Review(group="0" * 64, api_origin="o").judged([first]).judged([second, other])
    assert review.verdicts == (first, other)


def test_a_retake_is_the_next_take_and_keeps_what_is_not_changed() -> None:
    made = retake_decision(KITE, group().reviewed_takes(), who="Ada", prompt=" a blue kite ")
    takes = group(KITE, FAST, made).takes
    assert (takes[2].final.take, takes[2].final.prompt, takes[2].final.duration) == (2, "a blue kite", 6)
    assert (takes[2].shown.model, takes[2].final.model) == ("seedance_2_0_fast", "seedance_2_0")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"take": 1}, "take: 1 was given: there is this take already"),
        ({"take": 0, "duration": 6}, "there is this take already"),
        ({"duration": 99}, "duration: 99 was given"),
        ({"take": -1}, "take: -1 was given"),
    ],
)
def test_a_retake_that_would_change_nothing_or_is_not_valid_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        retake_decision(KITE, group().reviewed_takes(), who="Ada", **changes)
    assert says in caught.value.message


def test_a_retake_with_another_prompt_may_have_the_number_of_another_take() -> None:
    made = retake_decision(KITE, group().reviewed_takes(), who="Ada", take=0, prompt="a blue kite")
    assert len({take.shown.key for take in group(KITE, None, made).takes}) == 3
