"""Reading a storyboard, and the report of its problems."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova.batches.storyboard import MAX_SHOTS, Storyboard, film_id, read_storyboard
from prefect_loova.errors import InvalidRequestError
from prefect_loova.models.film import FilmOptions
from prefect_loova.models.results import SavedVideo
from tests.support.docs_blocks import BLOCKS

STORY = """
title: A day
ratio: 9:16
duration: 4
shots:
  - prompt: "@image1 leaves"
    image_urls: [boat.png]
  - prompt: the fog
    continue: true
    duration: 6
  - prompt: on the shore
    model: seedance_2_0_fast
  - prompt: a child
    continue: yes
    image_urls: [child.png, "s3://b1/dog.png"]
"""


def read(text: str, name: str = "stories/day.yaml") -> Storyboard:
    return read_storyboard(text.encode(), name)


def problems(text: str, name: str = "day.yaml") -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read(text, name)
    return str(caught.value)


def saved(sha256: str = "ab" * 32) -> SavedVideo:
    return SavedVideo(
        key="1" * 64,
        task_id="t",
        video="s3://b1/v.mp4",
        record="s3://b1/r",
        size_bytes=1,
        sha256=sha256,
        credits_cost=1,
        reused=False,
    )


def test_shots_inherit_the_fields_of_the_story() -> None:
    board = read(STORY)
    requests = [shot.request for shot in board.shots]
    assert board.title == "A day"
    assert [request.ratio for request in requests] == ["9:16"] * 4
    assert [request.duration for request in requests] == [4, 6, 4, 4]
    assert [request.model for request in requests] == ["seedance_2_0"] * 2 + ["seedance_2_0_fast", "seedance_2_0"]
    assert [[shot.number for shot in chain] for chain in board.chains()] == [[1, 2], [3, 4]]


def test_yaml_and_json_give_the_same_story() -> None:
    shots = [{"prompt": "a", "ratio": "9:16"}, {"prompt": "b", "continue": True}]
    as_yaml = read("shots: [{prompt: a, ratio: 9:16}, {prompt: b, continue: true}]")
    assert read(json.dumps({"shots": shots}), "day.json") == as_yaml == read(json.dumps(shots), "s3://b1/day.json")
    assert as_yaml.title == "day"


def test_a_shot_that_continues_starts_with_the_last_frame_of_the_shot_before() -> None:
    _, fog, _, child = read(STORY).shots
    frame = saved().last_frame
    assert fog.after(saved()).image_urls == (frame,)
    assert fog.after(saved()).function_mode == "first_last_frames"
    assert child.after(saved()).image_urls == (frame, "child.png", "s3://b1/dog.png")
    assert child.after(saved()).function_mode == "omni_reference"
    assert child.own_media.image_urls == ("child.png", "s3://b1/dog.png")
    assert fog.own_media.image_urls == ()


def test_a_mode_that_is_given_is_kept() -> None:
    (_, shot) = read("[{prompt: a}, {prompt: b, continue: true, function_mode: omni_reference}]").shots
    assert shot.after(saved()).function_mode == "omni_reference"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shots: []", "must have a list of shots"),
        ("shots: {prompt: a}", "must have a list of shots"),
        ("a text", "must have a list of shots"),
        ("", "must have a list of shots"),
        ("shots: [a]", "shot 1: 'a' was given: must be the fields of a shot"),
        ("shots: [{prompt: a, continue: true}]", "shot 1: continue: there is no shot before the first one"),
        ("shots: [{prompt: a}, {prompt: b, continue: 1}]", "shot 2: continue: 1 was given: must be true or false"),
        ("shots: [{prompt: a, duration: 20}]", "shot 1: duration: 20 was given"),
        ("shots: [{prompt: a, promt: b}]", "shot 1: unknown field 'promt' (is it prompt?)"),
        ("shots: [{duration: 5}]", "shot 1: prompt: is missing"),
        ("rato: 16:9\nshots: [{prompt: a}]", "unknown field 'rato' (is it ratio?)"),
        ("prompt: x\nshots: [{prompt: a}]", "unknown field 'prompt'"),
        ("title: 5\nshots: [{prompt: a}]", "title: must be text"),
        ("shots: [{prompt: a,\n prompt: b}]", "the field 'prompt' is given twice (line 2, column 2)"),
        ("shots: [{prompt: &a x}, {prompt: *a}]", "aliases (*name) are not allowed"),
        ("shots: [{prompt: !!python/object/apply:os.system [true]}]", "cannot be read"),
        ("shots: [{prompt: a", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ("shots: [{prompt: {{ prompt }}}]", "cannot be read"),
        ("shots: [{prompt: !!timestamp foo}]", "cannot be read"),
        ("shots: [{duration: !!int ''}]", "cannot be read"),
        ("shots: [{continue: !!bool q}]", "cannot be read"),
        ("password=hunter2: [", "cannot be read: expected the node content, but found '<stream end>' (line 1, column"),
        ("shots: [" + "{prompt: a}," * (MAX_SHOTS + 1) + "]", f"the limit is {MAX_SHOTS}"),
        (
            "shots: [{prompt: a}, {prompt: b, continue: true, function_mode: first_last_frames, image_urls: [a, b]}]",
            "3 images",
        ),
    ],
    ids=range(25),
)
def test_a_problem_of_a_story_is_reported(text: str, told: str) -> None:
    assert told in problems(text)


def test_all_problems_are_reported_together() -> None:
    told = problems("shots: [{prompt: ' ', duration: 1}, {prompt: a, ratio: 5:5}]")
    assert "has 3 problems; nothing was started" in told
    assert told.count("shot 1: ") == 2
    assert "shot 2: ratio: '5:5' was given" in told


def test_a_kept_shot_begins_a_chain_and_its_other_fields_are_ignored() -> None:
    key = "3fa1c09b" * 8
    board = read(
        f"[{{prompt: a}}, {{duration: 99, continue: true, keep: {key.upper()}}}, {{prompt: c, continue: true}}]"
    )
    assert [shot.keep for shot in board.shots] == ["", key, ""]
    assert [[shot.number for shot in chain] for chain in board.chains()] == [[1], [2, 3]]
    assert board.shots[1].continues


@pytest.mark.parametrize(
    ("keep", "given"),
    [
        ("12345678", "12345678"),
        ("3fa1", "'3fa1'"),
        ("3fa1c09z", "'3fa1c09z'"),
        (f"'{'a' * 65}'", "'aaa"),
        ("yes", "True"),
    ],
)
def test_what_is_no_key_cannot_be_kept(keep: str, given: str) -> None:
    told = problems(f"[{{prompt: a, keep: {keep}}}, {{keep: '', promt: b}}]")
    assert f"shot 1: keep: {given}" in told
    assert "was given: must be the key of a saved video" in told
    assert "shot 2: keep: '' was given" in told
    assert "shot 2: unknown field 'promt'" in told


@pytest.mark.parametrize("name", ["day.txt", "day", "day.yaml.exe"])
def test_the_ending_decides_the_format(name: str) -> None:
    assert "must end with .yaml, .yml or .json" in problems("[]", name)


def test_another_encoding_and_a_large_file_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="is not UTF-8 at byte 0"):
        read_storyboard(b"\xff\xfea", "a.yaml")
    with pytest.raises(InvalidRequestError, match="over 1,048,576 bytes"):
        read_storyboard(b" " * 1_048_577, "a.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["shots", "prompt", "continue", "image_urls", "title", "x"]), inner)
        ),
    )
)
def test_no_json_crashes_the_reader(found: Any) -> None:
    with suppress(InvalidRequestError):
        read(json.dumps(found), "a.json")


@given(st.text(alphabet="shotprm: []{}-!\"'&*|>#?,%@`~0123456789ยน\n\t", max_size=60))
def test_no_yaml_crashes_the_reader(text: str) -> None:
    with suppress(InvalidRequestError):
        read(text)


def test_defaults_apply_to_what_the_file_does_not_set_or_sets_to_null() -> None:
    story = b"shots: [{prompt: a}, {prompt: b, model: null}, {prompt: c, model: seedance_2_0}]"
    shots = read_storyboard(story, "a.yaml", {"model": "seedance_2_0_fast"}).shots
    assert [shot.request.model for shot in shots] == ["seedance_2_0_fast", "seedance_2_0_fast", "seedance_2_0"]
    assert (
        read_storyboard(b"{ratio: 1:1, shots: [{prompt: a}]}", "a.yaml", {"ratio": "9:16"}).shots[0].request.ratio
        == "1:1"
    )


def test_a_number_with_a_leading_zero_is_decimal() -> None:
    assert read("shots: [{prompt: a, duration: 010}]").shots[0].fields["duration"] == 10


def test_a_film_is_identified_by_its_shots_in_order() -> None:
    one, two = saved("ab" * 32), saved("cd" * 32)
    assert film_id([one, two]) == film_id([one, two])
    assert len({film_id([one, two]), film_id([two, one]), film_id([one]), film_id([one, one])}) == 4


def test_the_films_of_earlier_versions_keep_their_identity() -> None:
    shots = [saved("ab" * 32), saved("cd" * 32)]
    known = "9dfffcf8e89b7edc69d9d4e2756861950aab08516f5d965952824ce509fe0c01"
    board = read("card_seconds: 4\ntransition: cut\nshots: [{prompt: a}, {prompt: b}]")
    assert film_id(shots) == film_id(shots, read(STORY).film) == film_id(shots, board.film) == known
    assert film_id(shots, board.film.model_copy(update={"loudness": -14.0})) != known


FILM = """
transition: cross-fade
transition_seconds: 0.5
sound_track: harbour.mp3
sound_track_volume: 0.3
title_card: s3://b1/title.png
end_card: end.png
card_seconds: 2
loudness: -16
shots:
  - {prompt: a, transition: cut}
  - {prompt: b}
  - {prompt: c, transition_seconds: 1.5}
"""


def test_a_story_has_the_options_of_its_film() -> None:
    board = read(FILM)
    assert board.film == FilmOptions(
        transition="cross-fade",
        transition_seconds=0.5,
        sound_track="harbour.mp3",
        sound_track_volume=0.3,
        title_card="s3://b1/title.png",
        end_card="end.png",
        card_seconds=2.0,
        loudness=-16.0,
        fades=(0.0, 0.5, 1.5),
    )
    assert read("transition: cross-fade\nshots: [{prompt: a}, {prompt: b}]").film.fades == (0.0, 1.0)
    assert read("loudness: null\nshots: [{prompt: a, transition: null}]").film.is_plain
    assert read(STORY).film.is_plain


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("transition: wipe", "transition: 'wipe' was given: must be cut or cross-fade"),
        ("transition_seconds: 4", "transition_seconds: 4 was given: must be a number from 0.1 to 3"),
        ("transition_seconds: yes", "transition_seconds: True was given: must be a number"),
        ("sound_track_volume: 1.5", "sound_track_volume: 1.5 was given: must be a number from 0 to 1"),
        ("sound_track_volume: '1'", "sound_track_volume: '1' was given: must be a number from 0 to 1"),
        ("card_seconds: 0", "card_seconds: 0 was given: must be a number from 1 to 15"),
        ("loudness: -5", "loudness: -5 was given: must be a number from -30 to -10, in LUFS"),
        ("loudness: .nan", "loudness: '.nan' was given: must be a number"),
        ("sound_track: 5", "sound_track: 5 was given: must be a local file or an s3:// URI"),
        ("title_card: ftp://a/b.png", "title_card: 'ftp://a/b.png' was given: must be a local file or an s3:// URI"),
        ("end_card: s3://b/v.mp4#last-frame", "no frame is taken of a video"),
        ("fades: [1]", "unknown field 'fades'"),
        ("loudnes: -14", "unknown field 'loudnes' (is it loudness?)"),
    ],
)
def test_an_option_of_a_film_is_checked_by_its_name(option: str, told: str) -> None:
    assert told in problems(f"{option}\nshots: [{{prompt: a}}]")


def test_a_url_is_no_medium_of_a_film_and_its_query_is_not_shown() -> None:
    told = problems("sound_track: https://b.example/a.mp3?X-Amz-Signature=5ecret\nshots: [{prompt: a}]")
    assert "sound_track: 'https://b.example/a.mp3" in told
    assert "nothing is loaded from the web" in told
    assert "5ecret" not in told


def test_transitions_of_shots_are_checked_with_the_other_problems() -> None:
    told = problems("shots: [{prompt: a, transition: cross-fade}, {prompt: b, transition_seconds: 9, ratio: 1:2}]")
    assert "has 3 problems" in told
    assert "shot 1: transition: 'cross-fade' was given: there is no title_card before the first shot" in told
    assert "shot 2: transition_seconds: 9 was given: must be a number from 0.1 to 3" in told
    told = problems("{transition: cross-fade, transition_seconds: 3, shots: [{prompt: a}, {prompt: b}, {prompt: c}]}")
    assert "shot 2: transition_seconds: 3 s at its begin and 3 s at its end do not fit into its 5 s" in told


def test_the_examples_of_the_guide_can_be_read() -> None:
    examples = [block.code for block in BLOCKS["storyboards.md"] if block.language == "yaml"]
    joined, with_options, kept, with_takes = (read(text) for text in examples)
    assert joined.film.is_plain
    assert with_options.film.fades == (0.5, 0.5, 0.0)
    assert [shot.keep for shot in kept.shots] == ["", "3fa1c09b2d748be6"]
    assert [shot.fields["takes"] for shot in with_takes.shots] == [2, 2]
