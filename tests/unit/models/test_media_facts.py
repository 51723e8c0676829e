"""The limits of other hosts of Seedance 2.0, at both sides of each."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova.models.media import MediaError
from prefect_loova.models.media_facts import MediaFacts, limit_problems, refuse, request_problems
from prefect_loova.models.media_types import MediaRules

RULES = MediaRules()


@pytest.mark.parametrize(
    ("kind", "facts", "problem"),
    [
        ("image", {"size": (300, 300)}, ""),
        ("image", {"size": (299, 300)}, "it has 299 x 300 pixels, and a side is shorter than media.min_image_side"),
        ("image", {"size": (300, 299)}, "it has 300 x 299 pixels, and a side is shorter than media.min_image_side"),
        ("image", {"size": (400, 1000)}, ""),
        ("image", {"size": (399, 1000)}, "an aspect of 0.40, which is below media.min_image_aspect (0.4)"),
        ("image", {"size": (1000, 400)}, ""),
        ("image", {"size": (1003, 400)}, "an aspect of 2.51, which is above media.max_image_aspect (2.5)"),
        ("image", {}, ""),
        ("video", {"seconds": 1.8}, ""),
        ("video", {"seconds": 1.799}, "it lasts 1.80 s, less than media.min_seconds (1.8 s)"),
        ("video", {"seconds": 60.0, "size": (10, 1000)}, ""),
        ("video", {}, ""),
        ("audio", {"seconds": 1.8}, ""),
        ("audio", {"seconds": 1.5}, "it lasts 1.50 s, less than media.min_seconds (1.8 s)"),
    ],
)
def test_one_medium_breaks_a_limit_only_beyond_it(kind: Any, facts: dict[str, Any], problem: str) -> None:
    problems = limit_problems(MediaFacts(**facts), kind, RULES)
    assert len(problems) == bool(problem)
    assert problem in "".join(problems)


def test_an_image_may_break_two_limits() -> None:
    assert len(limit_problems(MediaFacts(size=(1000, 100)), "image", RULES)) == 2


@pytest.mark.parametrize(
    ("videos", "audios", "problems"),
    [
        ([1.8, 13.3], [15.1], []),
        ([1.8, 13.301], [], ["video_urls: 15.10 s in all, more than media.max_total_seconds (15.1 s)"]),
        ([10.0, None], [5.0, 5.0, 5.2], ["audio_urls: 15.20 s in all, more than media.max_total_seconds (15.1 s)"]),
        ([10.0], [10.0], []),
    ],
)
def test_videos_and_audios_are_each_added_up(
    videos: list[float | None], audios: list[float | None], problems: list[str]
) -> None:
    media, facts = dict[str, list[str]](), {}
    for name, kind, lengths in (("video_urls", "video", videos), ("audio_urls", "audio", audios)):
        media[name] = [f"s3://b11/{number}#etag={kind}{number}" for number in range(len(lengths))]
        for text, seconds in zip(media[name], lengths, strict=True):
            facts[kind, text] = MediaFacts(seconds=seconds)
    assert request_problems(media, facts, RULES) == problems  # type: ignore[arg-type]


def test_a_medium_that_is_given_twice_counts_twice() -> None:
    text = "s3://b11/a.mp4#etag=a"
    facts = MediaFacts(seconds=8)
    assert len(request_problems({"video_urls": [text, text]}, {("video", text): facts}, RULES)) == 1
    assert request_problems({"video_urls": [text]}, {("video", text): facts}, RULES) == []


def test_twelve_references_are_the_most() -> None:
    media = {"image_urls": ["https://a.b/c"] * 9, "video_urls": ["https://a.b/c"] * 3}
    assert request_problems(media, {}, RULES) == []
    media["audio_urls"] = ["https://a.b/c"]
    assert request_problems(media, {}, RULES) == ["the request has 13 references, more than media.max_references (12)"]


def test_a_broken_limit_raises_only_if_the_user_says_so() -> None:
    refuse(["it is small"], RULES)
    refuse([], MediaRules(limits="refuse"))
    with pytest.raises(
        MediaError, match=r"^it is small; it is long \(media.limits of the credentials block is refuse\)$"
    ):
        refuse(["it is small", "it is long"], MediaRules(limits="refuse"))


def test_rules_of_earlier_blocks_load_and_each_field_has_a_label_and_a_text_in_a_form() -> None:
    former = {"image_bytes": 1, "video_bytes": 2, "audio_bytes": 3, "check_urls": False, "send": "links"}
    rules = MediaRules.model_validate(former | {"link_seconds": 60})
    assert (rules.limits, rules.convert, rules.min_seconds, rules.max_references) == ("warn", False, 1.8, 12)
    for name, field in MediaRules.model_json_schema()["properties"].items():
        assert field["title"][0].isupper(), name
        assert field["description"].endswith("."), name
