"""The names of published videos: fields, cleaned values, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_loova import SavedVideo, VideoRequest
from prefect_loova.batches.publish_names import FIELDS, NAME, check_template, published_names
from prefect_loova.errors import InvalidRequestError


def saved(label: str = "", **fields: Any) -> SavedVideo:
    request = VideoRequest(**{"prompt": "A boat at sunset", "duration": 4} | fields)
    return SavedVideo(
        key=request.key,
        request=request.as_stored(),
        task_id="task",
        video=f"s3://b/loova/{request.key}/video.mp4",
        record=f"s3://b/loova/{request.key}/record.json",
        size_bytes=1,
        sha256="0" * 64,
        credits_cost=60,
        times={"saved": datetime(2026, 3, 1, 23, 30, tzinfo=UTC)},
        reused=True,
        label=label,
    )


def name(template: str, label: str = "", **fields: Any) -> str:
    return published_names([saved(label, **fields)], template)[0]


def test_each_field_has_its_value():
    template = "/".join(f"{{{field}}}" for field in FIELDS) + ".mp4"
    key = saved("Spring", take=2).key[:8]
    assert name(template, "Spring", take=2) == f"Spring/a-boat-at-sunset/16x9/4/seedance_2_0/2/{key}/2026-03-01.mp4"


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Spring 2026", "Spring-2026/a-boat-at-sunset-16x9.mp4"),
        ("", "a-boat-at-sunset-16x9.mp4"),
        (" / ", "a-boat-at-sunset-16x9.mp4"),
        ("..", "a-boat-at-sunset-16x9.mp4"),
        ("../../etc", "etc/a-boat-at-sunset-16x9.mp4"),
        ("a/b\\c", "a-b-c/a-boat-at-sunset-16x9.mp4"),
        ("a\r\nb\x00", "a-b/a-boat-at-sunset-16x9.mp4"),
        ('<b>"x"</b>?#%', "b-x-b/a-boat-at-sunset-16x9.mp4"),
        ("v1.2_final", "v1.2_final/a-boat-at-sunset-16x9.mp4"),
        ("{key}", "key/a-boat-at-sunset-16x9.mp4"),
        ("Frühling", "Frühling/a-boat-at-sunset-16x9.mp4"),
        ("हिन्दी", "हिन्दी/a-boat-at-sunset-16x9.mp4"),
    ],
)
def test_a_label_becomes_one_safe_segment_or_none(label: str, expected: str):
    assert name(NAME, label) == expected


def test_an_empty_field_leaves_no_separator_behind():
    assert name("{label}-{slug}.mp4") == "a-boat-at-sunset.mp4"
    assert name("{slug}-{label}.mp4") == "a-boat-at-sunset.mp4"
    assert name("{slug}-{label}-{take}.mp4") == "a-boat-at-sunset-0.mp4"


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("{prompt}.mp4", r"'prompt' is no field; fields are \{label\}, \{slug\}, \{ratio\}"),
        ("{}.mp4", "'' is no field"),
        ("{0}.mp4", "'0' is no field"),
        ("{slug.__class__}.mp4", "'slug.__class__' is no field"),
        ("{slug[0]}.mp4", r"'slug\[0\]' is no field"),
        ("{slug!r}.mp4", "'slug' must stand alone in its braces"),
        ("{slug:>100000000}.mp4", "'slug' must stand alone in its braces"),
        ("{slug:{key}}.mp4", "'slug' must stand alone in its braces"),
        ("{slug.mp4", "its braces do not match"),
        ("slug}.mp4", "its braces do not match"),
        ("/{slug}.mp4", "must not start with /"),
        ("{label}//{slug}.mp4", "must not have empty, . or .. segments"),
        ("../{slug}.mp4", "must not have empty, . or .. segments"),
        ("./{slug}.mp4", "must not have empty, . or .. segments"),
        ("a\n{slug}.mp4", "must not have control characters"),
        ("a\\{slug}.mp4", "must not have control characters or backslashes"),
        ("{slug}", "must end with .mp4"),
        ("{slug}.mov", "must end with .mp4"),
        ("{slug}.mp4/", "must not have empty, . or .. segments"),
        ("", "must not have empty, . or .. segments"),
        ("x" * 2000 + ".mp4", "must not be longer than 1,024 bytes"),
    ],
)
def test_a_template_that_breaks_a_rule_is_refused(template: str, rule: str):
    with pytest.raises(InvalidRequestError, match=f"^name: .* was given: .*{rule}"):
        check_template(template)


def test_a_name_without_a_file_is_refused_by_key():
    with pytest.raises(InvalidRequestError, match=r"1 problem; nothing was copied\n.*the file has no name"):
        name("x/{label}.mp4")


def test_long_names_are_refused():
    with pytest.raises(InvalidRequestError, match="a segment has over 255 bytes"):
        name(NAME, "ü" * 128)
    assert name(NAME, "ü" * 127).startswith("ü" * 127)
    with pytest.raises(InvalidRequestError, match=r"its key must not be longer than 1,024 bytes"):
        published_names([saved("ü" * 125)], "{label}/{label}/{label}/{label}/{slug}.mp4", "prefix")


def test_all_names_that_several_videos_would_get_are_listed():
    videos = [saved("Spring"), saved("spring", take=1), saved("a", prompt="A train"), saved("a", prompt="a TRAIN")]
    with pytest.raises(InvalidRequestError) as refused:
        published_names([*videos, saved("b")], NAME)
    head, first, second = str(refused.value).splitlines()
    assert "gives 2 problems; nothing was copied" in head
    assert first.startswith(f"Spring/a-boat-at-sunset-16x9.mp4 would be 2 videos, {videos[0].key[:8]} (take 0), ")
    assert second.startswith("a/a-train-16x9.mp4 would be 2 videos")
    assert first.endswith("add {take} or {key}")
