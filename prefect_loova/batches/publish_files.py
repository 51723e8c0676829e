"""The files beside published videos: the manifest as CSV and JSON, and a gallery page in HTML."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape

from prefect_loova._redaction import hide_secrets
from prefect_loova.batches.manifest import text_cell
from prefect_loova.errors import counted, redact
from prefect_loova.models.published import PublishedVideo

COLUMNS = (
    "name",
    "prompt",
    "key",
    "take",
    "label",
    "model",
    "ratio",
    "duration",
    "credits",
    "sha256",
    "size_bytes",
    "media",
    "source",
)
"""The columns of the manifest: fields of a `PublishedVideo`."""

_MAX_CELL = 32_000  # Excel's limit is 32,767 characters
_RATIO = re.compile(r"(\d{1,2}):(\d{1,2})")


def manifest_csv(videos: Sequence[PublishedVideo]) -> bytes:
    """Return the manifest as CSV, in which no cell is a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for video in videos:
        cells = {name: getattr(video, name) for name in COLUMNS} | {"media": " ".join(video.media)}
        writer.writerow([text_cell(cells[name], _MAX_CELL) for name in COLUMNS])
    return file.getvalue().encode()


def manifest_json(videos: Sequence[PublishedVideo]) -> bytes:
    """Return the manifest as JSON."""
    rows = [video.model_dump(mode="json", include={*COLUMNS}) for video in videos]
    listed = [{name: row[name] for name in COLUMNS} | {"prompt": hide_secrets(row["prompt"])} for row in rows]
    return json.dumps({"schema_version": 1, "videos": listed}, ensure_ascii=False, indent=1).encode()


def gallery_page(
    title: str,
    videos: Sequence[PublishedVideo],
    link: Callable[[str], str],
    *,
    manifest: str,
    until: datetime | None = None,
) -> bytes:
    """Return a page in HTML that plays the videos. It has no script, and loads nothing but videos and pictures.

    Args:
        title: Its title.
        videos: The videos. Those with the same label stand together.
        link: Returns the URL of a name.
        manifest: The URL of the manifest.
        until: When the URLs expire; None if they do not.
    """
    labels = sorted(dict.fromkeys(video.label for video in videos), key=bool)  # without a label first
    groups = "\n".join(_group(label, [one for one in videos if one.label == label], link) for label in labels)
    facts = f"{counted(len(videos), 'video')} · {_size(sum(video.size_bytes for video in videos))}"
    expiry = f'<p class="until">The links expire on {until:%Y-%m-%d at %H:%M} UTC.</p>' if until else ""
    body = _PAGE.format(
        title=_text(title, 200), style=_STYLE, facts=facts, manifest=escape(manifest), expiry=expiry, groups=groups
    )
    return body.encode("utf-8", "replace")


def _group(label: str, videos: Sequence[PublishedVideo], link: Callable[[str], str]) -> str:
    head = f"<h2>{_text(label, 200)}</h2>\n" if label else ""
    cards = "\n".join(_card(video, link) for video in videos)
    return f'<section>\n{head}<div class="row">\n{cards}\n</div>\n</section>'


def _card(video: PublishedVideo, link: Callable[[str], str]) -> str:
    ratio = _RATIO.fullmatch(video.ratio)
    width, height = (max(1, int(side)) for side in ratio.groups()) if ratio else (16, 9)
    poster = f' poster="{escape(link(video.poster))}"' if video.poster else ""
    take = f"take {video.take}" if video.take else ""
    facts = " · ".join(filter(None, (video.ratio, f"{video.duration} s", take, video.model)))
    return _CARD.format(
        width=width,
        height=height,
        source=escape(link(video.name)),
        poster=poster,
        prompt=_text(video.prompt),
        facts=_text(facts, 200),
        name=_text(video.name, 1024),
    )


def _text(text: str, limit: int = 20_000) -> str:
    """Return foreign text for HTML, also for an attribute in double quotes."""
    return escape(redact(text, limit))


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'; object-src 'none'; base-uri 'none'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{facts} · <a href="{manifest}">manifest</a></p>
{expiry}
</header>
<main>
{groups}
</main>
</body>
</html>
"""

_CARD = """<figure style="--w:{width};--h:{height}">
<video controls playsinline preload="metadata" src="{source}"{poster}></video>
<figcaption>
<details><summary>{prompt}</summary><p class="name">{name}</p></details>
<p class="facts">{facts}</p>
</figcaption>
</figure>"""

# The cards of a row have the same height, and fill its width. The last one of a group keeps its own width.
_STYLE = """:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1b1f27; --soft: #616b7a;
  --line: #e1e5ea; --link: #3550c4; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #101318; --card: #1a1e25; --text: #e8ebf0; --soft: #98a2b3; --line: #2a303a; --link: #9db0ff;
    --warn: #3a3014; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 110rem; padding: 2.5rem clamp(1rem, 4vw, 3.5rem) 4rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.02em; overflow-wrap: anywhere; }
section { margin-top: 2rem; }
h2 { margin: 0 0 0.9rem; font-size: 1.15rem; overflow-wrap: anywhere; }
header p { margin: 0.4rem 0 0; color: var(--soft); }
header .until { display: inline-block; padding: 0.25rem 0.7rem; border-radius: 0.5rem; background: var(--warn);
  color: var(--text); }
a { color: var(--link); }
.row { display: flex; flex-wrap: wrap; gap: 1.1rem; }
.row::after { content: ""; flex: 1000 1 0; margin-left: -1.1rem; }
figure { flex: calc(var(--w) / var(--h)) 1 calc(20rem * var(--w) / var(--h)); min-width: min(9rem, 100%); margin: 0;
  max-width: 100%; display: flex; flex-direction: column; overflow: hidden; border: 1px solid var(--line);
  border-radius: 0.75rem; background: var(--card); }
video { display: block; width: 100%; aspect-ratio: var(--w) / var(--h); background: #000; object-fit: contain; }
figcaption { padding: 0.75rem 0.9rem 0.8rem; font-size: 0.92rem; }
summary { cursor: pointer; list-style: none; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box;
  -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
summary::-webkit-details-marker { display: none; }
details[open] summary { display: block; }
.name { margin: 0.5rem 0 0; font: 0.8rem/1.4 ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; }
.facts { margin: 0.35rem 0 0; color: var(--soft); font-size: 0.82rem; }
"""
