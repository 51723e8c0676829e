"""The options of a film: their identity, and whether cross-fades fit."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova.models.film import FilmOptions, fade_problems


def identity(**options: Any) -> str:
    return FilmOptions(**options).identity


def test_a_film_without_an_effective_option_is_plain() -> None:
    for options in (
        {},
        {"card_seconds": 5},
        {"sound_track_volume": 0.1},
        {"transition": "cross-fade"},  # of one shot
        {"transition_seconds": 2, "fades": (0.0, 0.0)},
    ):
        assert FilmOptions(**options).is_plain
        assert identity(**options) == ""
    for options in (
        {"fades": (0.0, 1.0)},
        {"sound_track": "a"},
        {"title_card": "a"},
        {"end_card": "a"},
        {"loudness": -14},
    ):
        assert not FilmOptions(**options).is_plain


def test_each_option_and_the_content_of_its_media_decide_the_film() -> None:
    def in_s3(digest: str, name: str = "a") -> str:
        return f"s3://b1/{name}#sha256={digest * 64}"

    films = [
        {"loudness": -14.0},
        {"loudness": -15.0},
        {"sound_track": in_s3("1")},
        {"sound_track": in_s3("2")},
        {"sound_track": in_s3("1"), "sound_track_volume": 0.2},
        {"title_card": in_s3("1")},
        {"end_card": in_s3("1")},
        {"end_card": in_s3("1"), "transition": "cross-fade"},
        {"title_card": in_s3("1"), "card_seconds": 4.0},
        {"fades": (0.0, 1.0)},
        {"fades": (0.0, 0.5)},
    ]
    assert len({identity(**options) for options in films}) == len(films)
    assert identity(sound_track=in_s3("1")) == identity(sound_track=in_s3("1", "elsewhere"), card_seconds=9)
    assert identity(loudness=-14) == identity(loudness=-14.0, transition="cross-fade", sound_track_volume=1)


FADING_END = {"end_card": "b", "transition": "cross-fade", "transition_seconds": 2}


@pytest.mark.parametrize(
    ("options", "seconds", "told"),
    [
        ({"fades": (0, 2, 2)}, [4, 4, 4], None),
        ({"fades": (0, 3, 2)}, [4, 4, 4], "shot 2: transition_seconds: 3 s at its begin and 2 s at its end"),
        ({"fades": (0, 3, 2)}, [4, None, 1], "shot 3: transition_seconds: 2 s at its begin and 0 s"),
        ({"fades": (3,), "title_card": "a"} | FADING_END, [4], "shot 1: transition_seconds: 3 s at its begin and 2 s"),
        ({"fades": (2.5, 0), "title_card": "a", "card_seconds": 2}, [4, 4], "card_seconds: 2 was given: title_card"),
        ({"fades": (0,), "card_seconds": 1} | FADING_END, [4], "card_seconds: 1 was given: end_card has a cross-fade"),
    ],
    ids=range(6),
)
def test_a_cross_fade_must_fit_into_what_it_joins(options: Any, seconds: Any, told: str | None) -> None:
    found = fade_problems(FilmOptions(**options), seconds)
    assert len(found) == (told is not None)
    assert not told or found[0].startswith(told)
