"""Foreign text in what the UI shows."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from prefect_loova.artifacts import escaped

HOSTILE = [
    "**bold** _it_ `code` ~~gone~~",
    "<img src=x onerror=alert(1)> & &amp; &#42;",
    "[click](javascript:alert(1)) ![x](https://evil.test/pixel.png)",
    "| a | b |\n|---|---|\n# title\n- item\n1. item\n> quote\n```\nfence",
    "see https://evil.test/x?y and www.evil.test or me@evil.test",
    "back\\slash \\* \\\\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_stays_text(text):
    rendered = MarkdownIt("gfm-like").render(escaped(text))
    assert rendered.startswith("<p>") and rendered.endswith("</p>\n")
    inside = rendered.removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in inside
    unescaped = inside.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert unescaped.replace("\u2060", "").split() == text.replace("?y", "?...").split()


def test_an_address_in_foreign_text_is_none_to_a_renderer_that_makes_links_of_addresses():
    shown = escaped(HOSTILE[4]).replace("\\", "")
    assert not re.search(r"https?://|www\.|\w@\w", shown)
