"""The pages that Prefect's Artifacts show, as markdown: a video, a batch, doubts, credits. Text in, text out.

Prefect's two UIs render differently. What both show: tables, links, and pictures that are inlined as data URIs. A
`<video>` plays in the first and is stripped in the second, so that what moves is an animated picture. And foreign text
is escaped by backslashes, for the first UI shows entities as they stand.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from prefect_loova.errors import redact
from prefect_loova.models.prices import format_credits
from prefect_loova.models.reports import BatchReport, CreditsReport, Outcome, StoryReport, VideoOutcome
from prefect_loova.models.results import JobInDoubt, SavedVideo

MOST_INLINED = 256 * 1024
"""The largest data URI of one picture, in bytes of the page."""

MOST_POSTERS = 50
"""The most pictures of a gallery."""

MOST_GALLERY = 1024 * 1024
"""The largest gallery, in bytes of the page."""

_COLUMNS = 3
_CAPTION = 30  # about as wide as a picture: cells do not wrap in the first UI
_LINE = 400  # about what a video takes as a row of a table
_THERE = ("saved", "reused")
_MOST_ROWS = 500
_ADDRESS = re.compile(r"https?:(?=//)|www(?=\.)|(?<=[\w.+-])@(?=[\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A picture to be inlined, so that it never expires and nobody needs S3 to see it.

    Attributes:
        data: Its bytes.
        content_type: Such as `image/webp`.
    """

    data: bytes
    content_type: str

    def inlined(self, text: str) -> str:
        """The picture as markdown, with a text for those who do not see it."""
        encoded = base64.b64encode(self.data).decode("ascii")
        return f"![{escaped(text, 120)}](data:{self.content_type};base64,{encoded})"


@dataclass(frozen=True)
class Links:
    """Where a person finds the video, beside its `s3://` URI.

    Attributes:
        console: Its page in the AWS console, or None where the bucket is not on AWS.
        player: A presigned URL that plays it for a while, or None. Whoever has it can watch.
        player_until: When that ends.
    """

    console: str | None = None
    player: str | None = None
    player_until: datetime | None = None


def escaped(text: object, limit: int = 2000) -> str:
    """Foreign text for markdown: a backslash before every character that could mean something to markdown or HTML.

    Not entities: the first of Prefect's two UIs shows `&#42;` as it stands. And the second makes a link of whatever
    looks like an address, escaped or not, so that an address gets an invisible character in its middle.
    """
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", _ADDRESS.sub("\\g<0>\u2060", redact(text, limit)))


def video_page(saved: SavedVideo, moving: Picture | None = None, links: Links | None = None) -> str:
    """The page of one video: what it looks like, where it is, what was asked for, what it cost, how long it took."""
    links = links or Links()
    prompt = str(saved.request.get("prompt", ""))
    lines = [moving.inlined(prompt), ""] if moving and len(moving.data) * 4 / 3 < MOST_INLINED else []
    lines += [escaped(prompt), "", "```", saved.video, "```", ""]
    where = [f"[Open in the S3 console]({links.console})"] if links.console else []
    if links.player and links.player_until:
        where.append(f"[Play it]({links.player}) (until {links.player_until:%Y-%m-%d %H:%M} UTC)")
    lines += [" · ".join(where), ""] if where else []
    head, *rows = ((name, value) for name, value in _facts(saved) if value)
    return "\n".join([*lines, *_table(head, rows)])


def _facts(saved: SavedVideo) -> Iterable[tuple[str, str]]:
    asked = saved.request
    yield "Asked for", escaped(_asked(asked))
    for kind in ("image_urls", "video_urls", "audio_urls"):
        yield kind.partition("_")[0].title() + "s", ", ".join(escaped(url, 200) for url in asked.get(kind, ()))
    yield "Made", escaped(_made(saved))
    yield "Differs", f"**{escaped(saved.differs)}**" if saved.differs else ""
    yield "Cost", _cost(saved)
    yield "Paid", "by an earlier run" if saved.reused else "by this run"
    yield "Took", _took(saved.times)
    yield "Saved", f"{saved.times['saved']:%Y-%m-%d %H:%M:%S} UTC" if "saved" in saved.times else ""
    yield "Loova task", _cell(saved.task_id)
    yield "SHA-256", _cell(saved.sha256)
    yield "Request key", _cell(saved.key)
    yield "Attempt", str(saved.attempt) if saved.attempt > 1 else ""


def _asked(asked: Mapping[str, Any]) -> str:
    facts = [str(asked[name]) for name in ("model", "function_mode", "ratio") if asked.get(name)]
    facts += [f"{asked['duration']} s"] if asked.get("duration") else []
    return ", ".join([*facts, *([f"take {asked['take']}"] if asked.get("take") else [])])


def _made(saved: SavedVideo) -> str:
    size = f"{saved.width} x {saved.height}" if saved.width and saved.height else ""
    length = f"{saved.duration_seconds:.1f} s" if saved.duration_seconds else ""
    return ", ".join(filter(None, (size, length, f"{saved.size_bytes:,} bytes")))


def _cost(saved: SavedVideo) -> str:
    estimate = "" if saved.credits_estimate is None else f"estimate {saved.credits_estimate:,.10g}"
    if saved.credits_cost is None:
        return f"Loova named no cost; {estimate}" if estimate else "Loova named no cost"
    return escaped(f"{format_credits(saved.credits_cost)}{'; ' if estimate else ''}{estimate}")


def _took(times: Mapping[str, datetime]) -> str:
    """How long each step took."""
    steps = (
        ("waiting for its turn", "claimed", "submitted"),
        ("generating", "submitted", "succeeded"),
        ("saving", "succeeded", "saved"),
    )
    return ", ".join(
        f"{name} {duration((times[end] - times[start]).total_seconds())}"
        for name, start, end in steps
        if start in times and end in times
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `42 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def gallery(report: BatchReport, posters: Mapping[str, Picture]) -> str:
    """The page of a batch: what is missing and why, then the videos as pictures, then those without one.

    Args:
        report: What became of each request.
        posters: Small pictures of the videos that are there, by request key; those that fit are shown.
    """
    there = [video for video in report.videos if video.outcome in _THERE]
    missing = sorted((video for video in report.videos if video.outcome not in _THERE), key=_urgency)
    lines = [f"**{escaped(report.summary)}**"]
    if missing:
        lines += ["", *map(_missing, missing[:_MOST_ROWS]), *_left(len(missing) - _MOST_ROWS)]
    shown_rows = _LINE * min(len(there), _MOST_ROWS)
    wrong = [video for video in there if video.differs]
    if wrong:
        lines += ["", "These videos differ from what was asked for:", ""]
        lines += [f"- {escaped(v.name, 80)}: {escaped(v.differs, 200)}" for v in wrong[:_MOST_ROWS]]
        lines += _left(len(wrong) - _MOST_ROWS)
    pictured = _that_fit(there, posters, MOST_GALLERY - sum(map(len, lines)) - shown_rows)
    if pictured:
        lines += ["", *_grid(list(pictured.values()))]
    plain = [video for video in there if video.key not in pictured]
    if plain:
        rest = [
            (_state(v), escaped(v.name, 80), _cell(v.video or ""), f"{v.credits_charged:g}") for v in plain[:_MOST_ROWS]
        ]
        lines += ["", *_table(("State", "Video", "Where", "Credits"), rest, numbers=1), *_left(len(plain) - len(rest))]
    return "\n".join(lines)


def story_page(report: StoryReport, moving: Picture | None, posters: Mapping[str, Picture]) -> str:
    """The page of a story: the joined film, then its shots."""
    lines = [moving.inlined(report.title), ""] if moving and len(moving.data) * 4 / 3 < MOST_INLINED else []
    lines += [f"**{escaped(report.title, 200)}**", ""]
    if report.film:
        made = (
            f"{report.duration_seconds:.1f} s, {report.size_bytes:,} bytes"
            if report.duration_seconds
            else "length unknown"
        )
        how = "joined without encoding anew" if report.is_copy else "joined by encoding all of them once"
        lines += ["```", report.film, "```", "", f"{escaped(made)}, {how}; SHA-256 {_cell(report.sha256 or '')}", ""]
    return "\n".join([*lines, gallery(report.shots, posters)])


def _missing(video: VideoOutcome) -> str:
    """An item of a list: reasons are long, and the cells of a table do not wrap in the first UI."""
    spent = f", {video.credits_charged:g} credits" if video.credits_charged else ""
    task = f", Loova task {_cell(video.task_id)}" if video.task_id else ""
    why = f": {escaped(video.reason, 300)}" if video.reason else ""
    return f"- **{_state(video)}** {escaped(video.name, 80)}{spent}{task}{why}"


def _that_fit(
    videos: Iterable[VideoOutcome], posters: Mapping[str, Picture], room: int
) -> dict[str, tuple[str, str, str]]:
    """The cells of the videos that have a picture, as far as there is room, by request key."""
    cells: dict[str, tuple[str, str, str]] = {}
    for video in videos:
        poster = posters.get(video.key)
        if poster is None:
            continue
        cell = poster.inlined(video.name), escaped(video.name, _CAPTION), f"{_state(video)}, {_price(video)}"
        room -= sum(map(len, cell)) + _COLUMNS * len(cell)
        if room < 0 or len(cells) == MOST_POSTERS:
            break
        cells[video.key] = cell
    return cells


def _grid(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Pictures in columns, each with its text below."""
    columns = min(_COLUMNS, len(cells))
    rows: list[Sequence[str]] = []
    for start in range(0, len(cells), columns):
        row = [*cells[start : start + columns]]
        row += [("", "", "")] * (columns - len(row))
        rows += [[cell[line] for cell in row] for line in range(3)]
    return _table(rows[0], rows[1:])


def outcome_rows(report: BatchReport) -> list[dict[str, Any]]:
    """The batch as rows of a table that sorts, those that need a person first. Prefect's UI shows them as text."""
    return [
        {
            "state": video.outcome.replace("_", " "),
            "video": video.name,
            "credits": video.credits_charged,
            "estimate": video.credits_estimate,
            "where": video.video or "",
            "reason": redact(video.reason or video.differs, 300),
            "loova task": video.task_id or "",
            "key": video.key,
        }
        for video in sorted(report.videos, key=_urgency)[:_MOST_ROWS]
    ]


def doubts_page(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> str:
    """The jobs that wait for a person, each with the commands to decide, and what could not be looked at, by key."""
    page = "\n\n".join(map(_doubt, jobs))
    if not problems:
        return page or "No job is in doubt."
    rows = [f"- job {_cell(key)}: {escaped(reason, 300)}" for key, reason in problems[:_MOST_ROWS]]
    told = ["### These jobs have problems, and may wait for a person too", "", *rows, *_left(len(problems) - len(rows))]
    return "\n\n".join(filter(None, [page, "\n".join(told)]))


def _doubt(job: JobInDoubt) -> str:
    commands = "\n".join(job.next_steps[1:])
    facts = [
        f"submitted at {job.when}, attempt {job.attempt}, up to {job.credits_estimate:g} credits",
        f"the answer is lost: {escaped(job.reason)}",
        escaped(job.evidence),
    ]
    return "\n".join(
        [f"### {escaped(job.prompt, 80)}", "", *(f"- {fact}" for fact in facts), "", f"```\n{commands}\n```"]
    )


def credits_page(report: CreditsReport) -> str:
    """The account's credits, and what was spent by day, model and deployment."""
    rows = [
        (
            str(one.day),
            _cell(one.model),
            escaped(one.deployment),
            str(one.videos),
            f"{one.credits:g}",
            f"{one.unsettled:g}",
        )
        for one in report.days[:_MOST_ROWS]
    ]
    table = _table(("Day", "Model", "Deployment", "Videos", "Credits", "May change"), rows, numbers=3)
    problems = [f"- job {_cell(key)}: {escaped(reason, 300)}" for key, reason in report.problems[:_MOST_ROWS]]
    told = ["", "Counted at their estimate:", "", *problems, *_left(len(report.problems) - len(problems))]
    return "\n".join(
        [escaped(report.summary), "", *table, *_left(len(report.days) - len(rows)), *(told if problems else [])]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """A markdown table; the last columns may be numbers."""
    align = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return [f"| {' | '.join(row)} |" for row in (head, align, *rows)]


def _left(count: int) -> list[str]:
    return ["", f"{count:,} more are not shown."] if count > 0 else []


def _urgency(video: VideoOutcome) -> int:
    return get_args(Outcome).index(video.outcome)


def _state(video: VideoOutcome) -> str:
    return video.outcome.replace("_", " ")


def _price(video: VideoOutcome) -> str:
    return f"{video.credits_charged:g} credits" if video.credits_charged else "nothing paid"


def _cell(value: str) -> str:
    """A value that can be copied where it is harmless, such as a URI or a checksum."""
    return f"`{value}`" if re.fullmatch(r"[\w./:-]+", value, re.ASCII) else escaped(value)
