"""Cells of a list: several media, and numbers as a spreadsheet saves them."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova.batches.cells import parse_whole_number, split_media

SCREENSHOT = "Screenshot 2026-01-01 at 10.00.00\u202fAM.png"


@pytest.mark.parametrize(
    ("cell", "media"),
    [
        ("", []),
        (" , ", []),
        (" a.png ", ["a.png"]),
        ("a.png b.png", ["a.png", "b.png"]),
        ("a.png, b.png", ["a.png", "b.png"]),
        ("a.png,b.jpeg, c.mp4", ["a.png", "b.jpeg", "c.mp4"]),
        ("a.png,", ["a.png"]),
        ("a.png\nb.png", ["a.png", "b.png"]),
        ('"pics/my cat.png"', ["pics/my cat.png"]),
        ('"pics/my cat.png" b.png', ["pics/my cat.png", "b.png"]),
        ('"a b.png","c, d.png"', ["a b.png", "c, d.png"]),
        ("'a b.png', 'c.png'", ["a b.png", "c.png"]),
        (f"“{SCREENSHOT}”", [SCREENSHOT]),
        (f'"{SCREENSHOT}"', [SCREENSHOT]),
        ("„a b.png“ «c d.png»", ["a b.png", "c d.png"]),
        ('"my walk.mp4"#last-frame a.png', ["my walk.mp4#last-frame", "a.png"]),
        ('"my walk.mp4#last-frame"', ["my walk.mp4#last-frame"]),
        ("bob's.png 'tis.png", ["bob's.png", "'tis.png"]),
        (r"pics\cat.png C:\pics\dog.png", [r"pics\cat.png", r"C:\pics\dog.png"]),
        (r'"C:\my pics\cat.png"', [r"C:\my pics\cat.png"]),
        ("https://x.test/1.png, https://x.test/2.png", ["https://x.test/1.png", "https://x.test/2.png"]),
        ("https://x.test/1.png,https://x.test/2.png", ["https://x.test/1.png", "https://x.test/2.png"]),
        ("https://x.test/w_1,h_2/a.png", ["https://x.test/w_1,h_2/a.png"]),
        ("https://x.test/a.png,v=1?b=c.png,d", ["https://x.test/a.png,v=1?b=c.png,d"]),
        ("s3://b/a,b.png s3://b/c", ["s3://b/a,b.png", "s3://b/c"]),
    ],
)
def test_media_in_a_cell_are_read_as_people_write_them(cell: str, media: list[str]) -> None:
    assert split_media(cell) == media


@pytest.mark.parametrize("cell", ['"my cat.png', '"my cat.png"b.png', "“a b.png"])
def test_an_unclosed_quote_is_refused_with_a_hint(cell: str) -> None:
    with pytest.raises(ValueError, match=r"quotes within the cell .* JSON lines"):
        split_media(cell)


URL = r"https?://[a-z]{1,5}\.test/[a-zA-Z0-9.,;_%/-]{0,12}[a-z](\?[a-z=&,0-9]{0,8}[a-z])?"
URLS = st.from_regex(URL, fullmatch=True)


@given(st.lists(URLS, max_size=9), st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u202f"]))
def test_white_space_separates_urls(urls: list[str], space: str) -> None:
    assert split_media(space.join(urls)) == space.join(urls).split() == urls


@given(st.lists(st.text("ab ,;.'\u202f\\猫", min_size=1, max_size=9).filter(str.strip), max_size=5))
def test_any_name_without_the_quote_can_be_written_in_quotes(names: list[str]) -> None:
    for between in (" ", ",", ", "):
        assert split_media(between.join(f'"{name}"' for name in names)) == names


@given(st.text("ab ,\"'“”.#/:\n", max_size=40))
def test_every_cell_is_read_or_refused(cell: str) -> None:
    try:
        assert all(one for one in split_media(cell))
    except ValueError as error:
        assert "quote" in str(error)


@pytest.mark.parametrize("part", ["a ", '"a"', "a.png,", "'", '"a" ', ","])
def test_a_huge_cell_is_read_quickly(part: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):
        split_media(part * 200_000)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("cell", "number"),
    [("5", 5), ("5.0", 5), ("5,0", 5), ("-1", -1), ("5.00", 5)]
    + [(cell, cell) for cell in ("5.5", "1,000", "1.000", "five", "5.", "")],
)
def test_a_whole_number_is_read_as_a_spreadsheet_saves_it(cell: str, number: object) -> None:
    assert parse_whole_number(cell) == number
