"""Render the pages of batches and stories: pictures of the videos, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from prefect_loova._prefect.pages import MAX_ROWS, Picture, cell, embedded, escaped, items, more, table
from prefect_loova.errors import counted, redact
from prefect_loova.models.prices import format_difference
from prefect_loova.models.reports import BatchReport, Outcome, StoryReport, VideoOutcome

MOST_POSTERS = 50
"""The most pictures in a gallery."""

MOST_GALLERY = 1024 * 1024
"""The largest page of a gallery, in bytes."""

_COLUMNS = 3
_CAPTION = 30  # about as wide as a picture, because cells do not wrap in the first UI
_ROW_SIZE = 400  # about the bytes of a table row
_NO_PAGES: Mapping[str, str] = {}


def gallery(report: BatchReport, posters: Mapping[str, Picture], pages: Mapping[str, str] = _NO_PAGES) -> str:
    """Render the page of a batch: the missing videos with reasons, then pictures, then videos without a picture.

    The pictures of drafts come after those of the other videos.

    Args:
        report: The outcomes of the batch.
        posters: Small pictures of the saved videos, by request key. The page shows those that fit.
        pages: The URLs of the videos' own pages, by request key.
    """
    saved = [video for video in report.videos if video.is_in_bucket]
    missing = sorted((video for video in report.videos if not video.is_in_bucket), key=_severity)
    lines = [f"**{escaped(report.summary)}**"]
    if missing:
        lines += ["", *items(missing, _missing_item)]
    rejected = [video for video in saved if video.rejected]
    if rejected:
        lines += ["", "Quality gates rejected these videos:", ""]
        lines += items(rejected, lambda video: f"- {escaped(video.name, 80)}: {escaped(video.rejected, 200)}")
    differing = [video for video in saved if video.differs]
    if differing:
        lines += ["", "These videos differ from their requests:", ""]
        lines += items(differing, lambda video: f"- {escaped(video.name, 80)}: {escaped(video.differs, 200)}")
    costing = [video for video in saved if video.cost_difference]
    if costing:
        lines += ["", "These videos cost another amount than the estimate:", ""]
        lines += items(costing, lambda v: f"- {escaped(v.name, 80)}: {escaped(format_difference(v.cost_difference))}")
    table_size = _ROW_SIZE * min(len(saved), MAX_ROWS)
    finals = _groups(video for video in saved if not video.is_draft)
    drafts = _groups(video for video in saved if video.is_draft)
    room = MOST_GALLERY - sum(map(len, lines)) - table_size
    pictured = _picture_cells([*finals, *drafts], posters, room, pages)
    lines += _grids(finals, pictured)
    if drafts:
        lines += ["", "## Drafts", *_grids(drafts, pictured)]
    plain = [video for video in saved if video.key not in pictured]
    if plain:
        rows = [
            (_state(v), escaped(v.name, 80), cell(v.video or ""), f"{v.credits_charged:g}") for v in plain[:MAX_ROWS]
        ]
        lines += ["", *table(("State", "Video", "Where", "Credits"), rows, numbers=1), *more(len(plain) - len(rows))]
    return "\n".join(lines)


def story_page(
    report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture], pages: Mapping[str, str] = _NO_PAGES
) -> str:
    """Render the page of a story: the joined film, then its shots."""
    lines = [*embedded(moving, report.title), f"**{escaped(report.title, 200)}**", ""]
    if report.film:
        size = (
            f"{report.duration_seconds:.1f} s, {report.size_bytes:,} bytes"
            if report.duration_seconds
            else "length unknown"
        )
        how = "joined without re-encoding" if report.is_copy else "joined by encoding all shots once"
        lines += ["```", report.film, "```", "", f"{escaped(size)}, {how}; SHA-256 {cell(report.sha256 or '')}", ""]
    if report.seams:
        lines += ["Seams before kept shots (0: equal frames, 1: black against white):", ""]
        lines += [*items(report.seams, lambda seam: f"- shot {seam.shot}: {seam.distance:.3f}"), ""]
    takes = ["", "**Takes**", "", gallery(report.takes, posters)] if report.takes is not None else []
    return "\n".join([*lines, gallery(report.shots, posters, pages), "", *keys_to_keep(report.shots), *takes])


def take_pictures(videos: Iterable[VideoOutcome], posters: Mapping[str, Picture]) -> dict[str, str]:
    """Render the takes that wait for a person as pictures, for a form: a table for each request, by its group."""
    groups = _groups(video for video in videos if video.choice == "to review")
    cells = _picture_cells(groups, posters, MOST_GALLERY // 2, _NO_PAGES)
    tables = {group[0].group: _grid([cells[video.key] for video in group if video.key in cells]) for group in groups}
    return {group: "\n".join(lines) for group, lines in tables.items()}


def _group_table(group: Sequence[VideoOutcome], cells: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Return the pictures of all takes of a request, below its prompt."""
    pictures = [cells[video.key] for video in group if video.key in cells]
    title = f"**{escaped(group[0].prompt or group[0].name, 160)}** {escaped(group[0].label)}".rstrip()
    return ["", f"{title}, {counted(len(group), 'take')}", "", *_grid(pictures)] if pictures else []


def _missing_item(video: VideoOutcome) -> str:
    """Return a list item. Reasons are long, and table cells do not wrap in the first UI."""
    spent = f", {video.credits_charged:g} credits" if video.credits_charged else ""
    task = f", Loova task {cell(video.task_id)}" if video.task_id else ""
    why = f": {escaped(video.reason, 300)}" if video.reason else ""
    return f"- **{_state(video)}** {escaped(video.name, 80)}{spent}{task}{why}"


def _groups(videos: Iterable[VideoOutcome]) -> list[list[VideoOutcome]]:
    """Return the videos by request, with all takes of a request together."""
    groups: dict[str, list[VideoOutcome]] = {}
    for video in videos:
        groups.setdefault(video.group or video.key, []).append(video)
    return [*groups.values()]


def _picture_cells(
    groups: Iterable[Sequence[VideoOutcome]], posters: Mapping[str, Picture], room: int, pages: Mapping[str, str]
) -> dict[str, tuple[str, str, str]]:
    """Return the cells of the pictures that fit into `room` bytes, by request key."""
    cells: dict[str, tuple[str, str, str]] = {}
    for video, first, is_alone in ((video, group[0], len(group) == 1) for group in groups for video in group):
        poster = posters.get(video.key)
        if poster is None:
            continue
        # In a link, the first UI shows neither a picture nor escaped text.
        page = f", [open]({pages[video.key]})" if video.key in pages else ""
        other = f": {escaped(video.prompt, _CAPTION)}" if video.prompt != first.prompt else ""
        caption = escaped(video.name, _CAPTION) if is_alone else f"take {video.take}{other}"
        state = _rejected(video) if video.rejected else f"{_decided(video)}, {_price(video)}"
        cell = poster.embed(video.name), caption, f"{state}{page}"
        room -= sum(map(len, cell)) + _COLUMNS * len(cell)
        if room < 0 or len(cells) == MOST_POSTERS:
            break
        cells[video.key] = cell
    return cells


def _grids(groups: Iterable[Sequence[VideoOutcome]], cells: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Return the pictures as tables: one of the requests with one take, and one for each request with several."""
    alone, lines = list[tuple[str, str, str]](), list[str]()
    for group in groups:
        pictures = [cells[video.key] for video in group if video.key in cells]
        if len(group) == 1:
            alone += pictures
        else:
            lines += _group_table(group, cells)
    return (["", *_grid(alone)] if alone else []) + lines


def _grid(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a table of pictures, each with its text below."""
    if not cells:
        return []
    columns = min(_COLUMNS, len(cells))
    rows: list[Sequence[str]] = []
    for start in range(0, len(cells), columns):
        row = [*cells[start : start + columns]]
        row += [("", "", "")] * (columns - len(row))
        rows += [[cell[line] for cell in row] for line in range(3)]
    return table(rows[0], rows[1:])


def outcome_rows(report: BatchReport) -> list[dict[str, Any]]:
    """Return the batch as the rows of a table artifact, most severe first. Prefect's UI shows the cells as text."""
    return [
        {
            "state": _state(video),
            "choice": ", ".join(filter(None, ("draft" if video.is_draft else "", video.choice))),
            "video": video.name,
            "label": redact(video.label),
            "credits": video.credits_charged,
            "estimate": video.credits_estimate,
            "difference": video.cost_difference,
            "where": video.video or "",
            "reason": redact(video.reason or video.rejected or video.differs, 300),
            "loova task": video.task_id or "",
            "key": video.key,
        }
        for video in sorted(report.videos, key=_severity)[:MAX_ROWS]
    ]


def _severity(video: VideoOutcome) -> int:
    return get_args(Outcome).index(video.outcome)


def _rejected(video: VideoOutcome) -> str:
    return f"rejected by {escaped(video.rejected, _CAPTION)}"


def _decided(video: VideoOutcome) -> str:
    return "**chosen**" if video.choice == "chosen" else video.choice or _state(video)


def _state(video: VideoOutcome) -> str:
    return video.outcome.replace("_", " ")


def _price(video: VideoOutcome) -> str:
    return f"{video.credits_charged:g} credits" if video.credits_charged else "nothing paid"


def keys_to_keep(shots: BatchReport) -> list[str]:
    """Render the keys of the shots that are in the bucket, as lines to copy into a storyboard."""
    saved = [(str(shot.rows[0]), f"`keep: {shot.key}`") for shot in shots.videos if shot.is_in_bucket]
    intro = "To keep a shot whatever the others become, copy its line into the storyboard:"
    return [intro, "", *table(("Shot", "Line"), saved)] if saved else []
