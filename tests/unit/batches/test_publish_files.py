"""The manifest and the gallery page of published videos, as text: what foreign text cannot do."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from prefect_loova import PublishedVideo
from prefect_loova.batches.publish_files import COLUMNS, gallery_page, manifest_csv, manifest_json

HOSTILE = """</p><script>alert(1)</script><img src=x onerror="alert(2)">"' onload='alert(3) {style} {0} &lt;b&gt;"""


def video(**fields: object) -> PublishedVideo:
    known = {
        "name": "boats/a-boat.mp4",
        "video": "s3://b/p/boats/a-boat.mp4",
        "prompt": "a boat",
        "key": "a" * 64,
        "model": "seedance_2_0",
        "ratio": "16:9",
        "duration": 4,
        "credits": 60.0,
        "sha256": "b" * 64,
        "size_bytes": 2_500_000,
        "source": "s3://b/loova/video.mp4",
    }
    return PublishedVideo.model_validate(known | fields)


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(*videos: PublishedVideo, until: datetime | None = None, title: str = "boats") -> bytes:
    return gallery_page(title, videos, quote, manifest="manifest.csv", until=until)


def test_a_page_plays_the_videos_from_relative_links():
    parsed = Parsed(page(video(poster="boats/a-boat.jpg"), video(name="50% off?.mp4")))
    first, second = parsed.named("video")
    assert first == {
        "controls": None,
        "playsinline": None,
        "preload": "metadata",
        "src": "boats/a-boat.mp4",
        "poster": "boats/a-boat.jpg",
    }
    assert (second["src"], "poster" in second) == ("50%25%20off%3F.mp4", False)
    assert parsed.named("a") == [{"href": "manifest.csv"}]
    assert "2 videos · 5.0 MB" in parsed.text


@pytest.mark.parametrize("field", ["prompt", "label", "model", "ratio", "name", "poster"])
def test_foreign_text_is_shown_and_does_nothing(field: str):
    plain, hostile = Parsed(page(video())), Parsed(page(video(**{field: HOSTILE})))
    names = [tag for tag, _ in hostile.tags if tag != "h2"]
    assert names == [tag for tag, _ in plain.tags]
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    if field != "poster":
        assert "<script>alert(1)</script>" in hostile.text


def test_a_title_is_text():
    assert [tag for tag, _ in Parsed(page(video(), title=HOSTILE)).tags] == [
        tag for tag, _ in Parsed(page(video())).tags
    ]


def test_a_page_loads_nothing_else_and_runs_no_script():
    raw = page(video(poster="a.jpg"), video(label="x"))
    parsed = Parsed(raw)
    assert not {"script", "link", "iframe", "img", "base"} & {tag for tag, _ in parsed.tags}
    assert b"http" not in raw.replace(b"http-equiv", b"") and b"@import" not in raw and b"url(" not in raw
    assert "script-src 'none'" in str(parsed.named("meta"))


def test_videos_of_one_label_stand_together_and_those_without_one_come_first():
    parsed = Parsed(page(video(label="Spring"), video(), video(label="Winter"), video(label="Spring")))
    assert (len(parsed.named("section")), len(parsed.named("h2"))) == (3, 2)
    assert parsed.text.index("Spring") < parsed.text.index("Winter")
    assert [tag for tag, _ in parsed.tags if tag in ("h2", "video")] == ["video", "h2", "video", "video", "h2", "video"]


def test_only_links_that_expire_say_when():
    assert "expire" not in Parsed(page(video())).text
    shown = Parsed(page(video(), until=datetime(2026, 3, 1, 12, 0, tzinfo=UTC)))
    assert "The links expire on 2026-03-01 at 12:00 UTC." in shown.text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r="])
def test_no_cell_of_the_manifest_is_a_formula(start: str):
    text = f'{start}cmd|"/c calc"!A1'
    raw = manifest_csv([video(prompt=text, label=text)])
    header, row = csv.reader(io.StringIO(raw.decode(), newline=""))
    assert tuple(header) == COLUMNS
    cells = dict(zip(header, row, strict=True))
    for name in ("prompt", "label"):
        assert not cells[name].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert 'cmd|"/c calc"!A1' in cells[name]


def test_the_manifest_keeps_a_long_prompt_and_hides_the_signature_of_a_url_in_it():
    prompt = "a boat " * 1000 + "https://m.example.com/a.png?X-Amz-Signature=secret"
    rows = [*csv.DictReader(io.StringIO(manifest_csv([video(prompt=prompt)]).decode(), newline=""))]
    (listed,) = json.loads(manifest_json([video(prompt=prompt)]))["videos"]
    for shown in (rows[0]["prompt"], listed["prompt"]):
        assert len(shown) > 7000
        assert "secret" not in shown
