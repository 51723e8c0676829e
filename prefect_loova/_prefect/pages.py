"""Render the pages of Prefect's artifacts as markdown: a video, a batch, jobs in doubt, credits.

Prefect has two UIs. Both show tables, links, and pictures in data URIs. The second one strips `<video>`, so an animated
picture replaces it. The first one does not decode HTML entities, so backslashes escape foreign text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, get_args

from prefect_loova.errors import redact
from prefect_loova.models.prices import cost_difference, format_credits, format_difference
from prefect_loova.models.reports import BatchReport, CreditsReport, Outcome, PromptPrice, StoryReport, VideoOutcome
from prefect_loova.models.results import JobInDoubt, SavedVideo

T = TypeVar("T")

MOST_INLINED = 256 * 1024
"""The largest data URI of a picture, in bytes."""

MOST_POSTERS = 50
"""The most pictures in a gallery."""

MOST_GALLERY = 1024 * 1024
"""The largest page of a gallery, in bytes."""

_COLUMNS = 3
_CAPTION = 30  # about as wide as a picture, because cells do not wrap in the first UI
_ROW_SIZE = 400  # about the bytes of a table row
_IN_BUCKET = ("saved", "reused")
_MAX_ROWS = 500
_ADDRESS = re.compile(r"https?:(?=//)|www(?=\.)|(?<=[\w.+-])@(?=[\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A picture to embed in a page. It never expires, and people need no access to S3.

    Attributes:
        data: Its bytes.
        content_type: Its media type, such as `image/webp`.
    """

    data: bytes
    content_type: str

    def embed(self, text: str) -> str:
        """Return the picture as markdown with an alternative text."""
        encoded = base64.b64encode(self.data).decode("ascii")
        return f"![{escaped(text, 120)}](data:{self.content_type};base64,{encoded})"


@dataclass(frozen=True)
class Links:
    """Links to a video besides its `s3://` URI.

    Attributes:
        console: Its page in the AWS console, or None if the bucket is not on AWS.
        player: A presigned URL that plays it, or None. Anyone who has the URL can watch.
        player_until: When the URL expires.
    """

    console: str | None = None
    player: str | None = None
    player_until: datetime | None = None


_NO_PAGES: Mapping[str, str] = {}


def escaped(text: object, limit: int = 2000) -> str:
    """Escape foreign text for markdown, with a backslash before each character that markdown or HTML could interpret.

    The first UI does not decode entities such as `&#42;`. The second UI links everything that looks like an address,
    escaped or not, so an invisible character splits each address.
    """
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", _ADDRESS.sub("\\g<0>\u2060", redact(text, limit)))


def video_page(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> str:
    """Render the page of one video: a picture, its location, the request, the cost and the times."""
    links = links or Links()
    prompt = str(saved.request.get("prompt", ""))
    lines = [*_embedded(moving, prompt), escaped(prompt), "", "```", saved.video, "```", ""]
    link_texts = [f"[Open in the S3 console]({links.console})"] if links.console else []
    if links.player and links.player_until:
        link_texts.append(f"[Play it]({links.player}) (until {links.player_until:%Y-%m-%d %H:%M} UTC)")
    lines += [" · ".join(link_texts), ""] if link_texts else []
    return "\n".join([*lines, *_table(("About", "this video"), [row for row in _facts(saved) if row[1]])])


def _embedded(picture: Picture | None, text: str) -> list[str]:
    return [picture.embed(text), ""] if picture and len(picture.data) * 4 / 3 < MOST_INLINED else []


def _facts(saved: SavedVideo) -> Iterable[tuple[str, str]]:
    request = saved.request
    yield "Request", escaped(_request_facts(request))
    for kind in ("image_urls", "video_urls", "audio_urls"):
        yield kind.partition("_")[0].title() + "s", ", ".join(escaped(url, 200) for url in request.get(kind, ()))
    yield "Video", escaped(_video_facts(saved))
    yield "Differs", f"**{escaped(saved.differs)}**" if saved.differs else ""
    yield "Cost", _cost(saved)
    difference = format_difference(cost_difference(saved.credits_estimate, saved.credits_cost))
    yield "Cost differs", f"**{escaped(difference)}**" if difference else ""
    yield "Paid", "by an earlier run" if saved.reused else "by this run"
    yield "Times", _times(saved.times)
    yield "Saved", f"{saved.times['saved']:%Y-%m-%d %H:%M:%S} UTC" if "saved" in saved.times else ""
    yield "Loova task", _cell(saved.task_id)
    yield "SHA-256", _cell(saved.sha256)
    yield "Request key", _cell(saved.key)
    yield "Attempt", str(saved.attempt) if saved.attempt > 1 else ""


def _request_facts(request: Mapping[str, Any]) -> str:
    facts = [str(request[name]) for name in ("model", "function_mode", "ratio") if request.get(name)]
    facts += [f"{request['duration']} s"] if request.get("duration") else []
    facts += [f"take {request['take']}"] if request.get("take") else []
    return ", ".join(facts)


def _video_facts(saved: SavedVideo) -> str:
    size = f"{saved.width} x {saved.height}" if saved.width and saved.height else ""
    length = f"{saved.duration_seconds:.1f} s" if saved.duration_seconds else ""
    return ", ".join(filter(None, (size, length, f"{saved.size_bytes:,} bytes")))


def _cost(saved: SavedVideo) -> str:
    estimate = "" if saved.credits_estimate is None else f"estimate {saved.credits_estimate:,.10g}"
    if saved.credits_cost is None:
        return f"Loova returned no cost; {estimate}" if estimate else "Loova returned no cost"
    return escaped(f"{format_credits(saved.credits_cost)}{'; ' if estimate else ''}{estimate}")


def _times(times: Mapping[str, datetime]) -> str:
    """Return the duration of each step."""
    steps = (
        ("waiting to submit", "claimed", "submitted"),
        ("generating", "submitted", "succeeded"),
        ("saving", "succeeded", "saved"),
    )
    return ", ".join(
        f"{name} {duration((times[end] - times[start]).total_seconds())}"
        for name, start, end in steps
        if start in times and end in times
    )


def duration(seconds: float) -> str:
    """Format seconds for a person: `0.4 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def gallery(report: BatchReport, posters: Mapping[str, Picture], pages: Mapping[str, str] = _NO_PAGES) -> str:
    """Render the page of a batch: the missing videos with reasons, then pictures, then videos without a picture.

    Args:
        report: The outcomes of the batch.
        posters: Small pictures of the saved videos, by request key. The page shows those that fit.
        pages: The URLs of the videos' own pages, by request key.
    """
    saved = [video for video in report.videos if video.outcome in _IN_BUCKET]
    missing = sorted((video for video in report.videos if video.outcome not in _IN_BUCKET), key=_severity)
    lines = [f"**{escaped(report.summary)}**"]
    if missing:
        lines += ["", *_items(missing, _missing_item)]
    differing = [video for video in saved if video.differs]
    if differing:
        lines += ["", "These videos differ from their requests:", ""]
        lines += _items(differing, lambda video: f"- {escaped(video.name, 80)}: {escaped(video.differs, 200)}")
    costing = [video for video in saved if video.cost_difference]
    if costing:
        lines += ["", "These videos cost another amount than the estimate:", ""]
        lines += _items(costing, lambda v: f"- {escaped(v.name, 80)}: {escaped(format_difference(v.cost_difference))}")
    table_size = _ROW_SIZE * min(len(saved), _MAX_ROWS)
    groups = _groups(saved)
    pictured = _picture_cells(groups, posters, MOST_GALLERY - sum(map(len, lines)) - table_size, pages)
    lines += _grids(groups, pictured)
    plain = [video for video in saved if video.key not in pictured]
    if plain:
        rows = [
            (_state(v), escaped(v.name, 80), _cell(v.video or ""), f"{v.credits_charged:g}") for v in plain[:_MAX_ROWS]
        ]
        lines += ["", *_table(("State", "Video", "Where", "Credits"), rows, numbers=1), *_more(len(plain) - len(rows))]
    return "\n".join(lines)


def story_page(
    report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture], pages: Mapping[str, str] = _NO_PAGES
) -> str:
    """Render the page of a story: the joined film, then its shots."""
    lines = [*_embedded(moving, report.title), f"**{escaped(report.title, 200)}**", ""]
    if report.film:
        size = (
            f"{report.duration_seconds:.1f} s, {report.size_bytes:,} bytes"
            if report.duration_seconds
            else "length unknown"
        )
        how = "joined without re-encoding" if report.is_copy else "joined by encoding all shots once"
        lines += ["```", report.film, "```", "", f"{escaped(size)}, {how}; SHA-256 {_cell(report.sha256 or '')}", ""]
    if report.seams:
        lines += ["Seams before kept shots (0: equal frames, 1: black against white):", ""]
        lines += [*_items(report.seams, lambda seam: f"- shot {seam.shot}: {seam.distance:.3f}"), ""]
    return "\n".join([*lines, gallery(report.shots, posters, pages), "", *keys_to_keep(report.shots)])


def keys_to_keep(shots: BatchReport) -> list[str]:
    """Render the keys of the shots that are in the bucket, as lines to copy into a storyboard."""
    saved = [(str(shot.rows[0]), f"`keep: {shot.key}`") for shot in shots.videos if shot.outcome in _IN_BUCKET]
    intro = "To keep a shot whatever the others become, copy its line into the storyboard:"
    return [intro, "", *_table(("Shot", "Line"), saved)] if saved else []


def _missing_item(video: VideoOutcome) -> str:
    """Return a list item. Reasons are long, and table cells do not wrap in the first UI."""
    spent = f", {video.credits_charged:g} credits" if video.credits_charged else ""
    task = f", Loova task {_cell(video.task_id)}" if video.task_id else ""
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
    for video, is_alone in ((video, len(group) == 1) for group in groups for video in group):
        poster = posters.get(video.key)
        if poster is None:
            continue
        # In a link, the first UI shows neither a picture nor escaped text.
        page = f", [open]({pages[video.key]})" if video.key in pages else ""
        caption = escaped(video.name, _CAPTION) if is_alone else f"take {video.take}"
        cell = poster.embed(video.name), caption, f"{_state(video)}, {_price(video)}{page}"
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
        elif pictures:
            title = f"**{escaped(group[0].prompt or group[0].name, 160)}** {escaped(group[0].label)}".rstrip()
            lines += ["", f"{title}, {len(group)} takes", "", *_grid(pictures)]
    return (["", *_grid(alone)] if alone else []) + lines


def _grid(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a table of pictures, each with its text below."""
    columns = min(_COLUMNS, len(cells))
    rows: list[Sequence[str]] = []
    for start in range(0, len(cells), columns):
        row = [*cells[start : start + columns]]
        row += [("", "", "")] * (columns - len(row))
        rows += [[cell[line] for cell in row] for line in range(3)]
    return _table(rows[0], rows[1:])


def outcome_rows(report: BatchReport) -> list[dict[str, Any]]:
    """Return the batch as the rows of a table artifact, most severe first. Prefect's UI shows the cells as text."""
    return [
        {
            "state": _state(video),
            "video": video.name,
            "label": redact(video.label),
            "credits": video.credits_charged,
            "estimate": video.credits_estimate,
            "difference": video.cost_difference,
            "where": video.video or "",
            "reason": redact(video.reason or video.differs, 300),
            "loova task": video.task_id or "",
            "key": video.key,
        }
        for video in sorted(report.videos, key=_severity)[:_MAX_ROWS]
    ]


def doubts_page(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> str:
    """Render the jobs in doubt with the commands to decide, and the jobs that could not be read, by key."""
    page = "\n\n".join(map(_doubt, jobs))
    if not problems:
        return page or "No job is in doubt."
    lines = ["### These jobs have problems, and may be in doubt too", "", *_items(problems, _problem_item)]
    return "\n\n".join(filter(None, [page, "\n".join(lines)]))


def _doubt(job: JobInDoubt) -> str:
    commands = "\n".join(job.next_steps[1:])
    lines = [
        f"### {escaped(job.prompt, 80)}\n",
        f"- submitted at {job.when}, attempt {job.attempt}, up to {job.credits_estimate:g} credits",
        f"- the answer is lost: {escaped(job.reason)}",
        f"- {escaped(job.evidence)}",
        f"\n```\n{commands}\n```",
    ]
    return "\n".join(lines)


def credits_page(report: CreditsReport) -> str:
    """Render the account's credits, and the spending by label, and by day, model, deployment and label."""
    rows = [
        (
            str(one.day),
            _cell(one.model),
            escaped(one.deployment),
            escaped(one.label),
            str(one.videos),
            f"{one.credits:g}",
            f"{one.unsettled:g}",
            f"{one.cost_difference:+g}" if one.cost_difference else "",
        )
        for one in report.days[:_MAX_ROWS]
    ]
    table = _table(
        ("Day", "Model", "Deployment", "Label", "Videos", "Credits", "May change", "Against estimate"), rows, numbers=4
    )
    lines = [escaped(report.summary), "", *_labels(report), *table, *_more(len(report.days) - len(rows))]
    if report.problems:
        lines += ["", "Counted at their estimate:", "", *_items(report.problems, _problem_item)]
    return "\n".join(lines)


def prices_page(table: str, prompts: Sequence[PromptPrice]) -> str:
    """Render the price of a batch: the table by model and duration, then the prompts."""
    rows = [(escaped(one.prompt, 200), escaped(one.label), str(one.takes), f"{one.credits:g}") for one in prompts]
    if not rows:
        return table
    shown = _table(("Prompt", "Label", "Takes", "Credits"), rows[:_MAX_ROWS], numbers=2)
    return "\n".join([table, "", *shown, *_more(len(rows) - _MAX_ROWS)])


def _labels(report: CreditsReport) -> list[str]:
    """Return the credits of each label, if requests have labels or a credit has a price."""
    spent = report.by_label()
    if report.price_per_credit is None and not any(spent):
        return []
    rows = [
        (escaped(label) or "no label", f"{credits:,.10g}", report.money(credits))
        for label, credits in [*spent.items()][:_MAX_ROWS]
    ]
    return [*_table(("Label", "Credits", "At your price"), rows, numbers=2), *_more(len(spent) - len(rows)), ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """Return a markdown table whose last columns hold numbers."""
    align = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return [f"| {' | '.join(row)} |" for row in (head, align, *rows)]


def _items(values: Sequence[T], item: Callable[[T], str]) -> list[str]:
    return [*map(item, values[:_MAX_ROWS]), *_more(len(values) - _MAX_ROWS)]


def _problem_item(problem: tuple[str, str]) -> str:
    key, reason = problem
    return f"- job {_cell(key)}: {escaped(reason, 300)}"


def _more(count: int) -> list[str]:
    return ["", f"{count:,} more are not shown."] if count > 0 else []


def _severity(video: VideoOutcome) -> int:
    return get_args(Outcome).index(video.outcome)


def _state(video: VideoOutcome) -> str:
    return video.outcome.replace("_", " ")


def _price(video: VideoOutcome) -> str:
    return f"{video.credits_charged:g} credits" if video.credits_charged else "nothing paid"


def _cell(value: str) -> str:
    """Return a harmless value, such as a URI or a checksum, as code that people can copy."""
    return f"`{value}`" if re.fullmatch(r"[\w./:-]+", value, re.ASCII) else escaped(value)
