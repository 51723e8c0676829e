"""The form of a review, as Prefect stores it for its UIs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from prefect_loova import VideoRequest
from prefect_loova._prefect.review import ReviewForm, _decisions, _form_of
from prefect_loova.batches.reviewed import take_groups
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.reviews import Draft

GROUPS = take_groups(
    [VideoRequest(prompt="a kite", takes=2), VideoRequest(prompt="a boat")], Draft("seedance_2_0_fast")
)
TABLE = "| ![](data:a) |\n| --- |\n| take 0 |"


def form() -> type[ReviewForm]:
    return _form_of(GROUPS, "Choose.", {GROUPS[0].id: TABLE})


def answer(first: dict[str, Any], second: dict[str, Any]) -> ReviewForm:
    return form().model_validate({"who": "Ada", "request_1": first, "request_2": second})


def test_the_first_ui_finds_text_and_pictures_in_the_fields_and_the_second_none() -> None:
    fields = form().model_json_schema()["properties"]
    assert fields["who"]["allOf"] == [{"description": "Choose."}]
    assert fields["request_1"]["allOf"][1]["description"] == TABLE.replace("\n", "\r")
    assert all("description" not in field for field in fields.values())


def test_a_decision_is_asked_about_each_request_and_none_is_preset() -> None:
    schema = form().model_json_schema()
    assert schema["required"] == ["who", "request_1", "request_2"]
    assert schema["$defs"]["Request1"]["required"] == ["choice"]
    assert schema["$defs"]["Request1"]["properties"]["choice"]["enum"] == ["take 0", "take 1", "re-take", "drop"]
    with pytest.raises(ValidationError):
        answer({"choice": "take 0"}, {})


def test_the_answer_becomes_a_decision_for_each_request() -> None:
    made = _decisions(GROUPS, answer({"choice": "take 1"}, {"choice": "drop"}))
    first, second = (made[group.id] for group in GROUPS)
    assert (first.what, first.key, first.who) == ("choose", GROUPS[0].takes[1].shown.key, "Ada")
    assert second.what == "drop"


def test_all_re_takes_that_are_not_possible_are_told_and_nothing_is_decided() -> None:
    wrong = {"choice": "re-take", "duration": 99}
    with pytest.raises(InvalidRequestError) as caught:
        _decisions(GROUPS, answer(wrong, wrong))
    assert [line[:22] for line in caught.value.message.splitlines()] == [
        "1. duration: 99 was gi",
        "2. duration: 99 was gi",
    ]
