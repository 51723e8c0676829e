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
from typing import Any, TypeVar

from prefect_loova.errors import redact
from prefect_loova.models.prices import cost_difference, format_credits, format_difference
from prefect_loova.models.published import PublishedVideos
from prefect_loova.models.reports import CreditsReport, PromptPrice
from prefect_loova.models.results import JobInDoubt, SavedVideo

T = TypeVar("T")

MOST_INLINED = 256 * 1024
"""The largest data URI of a picture, in bytes."""

MAX_ROWS = 500
"""The most rows of a table."""

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
    lines = [*embedded(moving, prompt), escaped(prompt), "", "```", saved.video, "```", ""]
    link_texts = [f"[Open in the S3 console]({links.console})"] if links.console else []
    if links.player and links.player_until:
        link_texts.append(f"[Play it]({links.player}) (until {links.player_until:%Y-%m-%d %H:%M} UTC)")
    lines += [" · ".join(link_texts), ""] if link_texts else []
    return "\n".join([*lines, *table(("About", "this video"), [row for row in _facts(saved) if row[1]])])


def embedded(picture: Picture | None, text: str) -> list[str]:
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
    yield "Loova task", cell(saved.task_id)
    yield "SHA-256", cell(saved.sha256)
    yield "Request key", cell(saved.key)
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


def doubts_page(jobs: Sequence[JobInDoubt], problems: Sequence[tuple[str, str]] = ()) -> str:
    """Render the jobs in doubt with the commands to decide, and the jobs that could not be read, by key."""
    page = "\n\n".join(map(_doubt, jobs))
    if not problems:
        return page or "No job is in doubt."
    lines = ["### These jobs have problems, and may be in doubt too", "", *items(problems, _problem_item)]
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
            cell(one.model),
            escaped(one.deployment),
            escaped(one.label),
            str(one.videos),
            f"{one.credits:g}",
            f"{one.unsettled:g}",
            f"{one.cost_difference:+g}" if one.cost_difference else "",
        )
        for one in report.days[:MAX_ROWS]
    ]
    days = table(
        ("Day", "Model", "Deployment", "Label", "Videos", "Credits", "May change", "Against estimate"), rows, numbers=4
    )
    lines = [escaped(report.summary), "", *_labels(report), *days, *more(len(report.days) - len(rows))]
    if report.problems:
        lines += ["", "Counted at their estimate:", "", *items(report.problems, _problem_item)]
    return "\n".join(lines)


def published_page(published: PublishedVideos) -> str:
    """Render a published collection as a table. It has no link of the gallery page, which may be signed."""
    rows = [
        (
            escaped(video.name, 200),
            "copied" if video.is_new else "was there",
            "" if video.credits is None else f"{video.credits:g}",
            escaped(video.label, 80),
            escaped(video.prompt, 80),
        )
        for video in published.videos[:MAX_ROWS]
    ]
    shown = table(("Name", "State", "Credits", "Label", "Prompt"), rows)
    head = ["```", published.page, "```", "", escaped(published.counts), ""]
    return "\n".join([*head, *shown, *more(len(published.videos) - len(rows))])


def prices_page(prices: str, prompts: Sequence[PromptPrice]) -> str:
    """Render the price of a batch: the table by model and duration, then the prompts."""
    rows = [(escaped(one.prompt, 200), escaped(one.label), str(one.takes), f"{one.credits:g}") for one in prompts]
    if not rows:
        return prices
    shown = table(("Prompt", "Label", "Takes", "Credits"), rows[:MAX_ROWS], numbers=2)
    return "\n".join([prices, "", *shown, *more(len(rows) - MAX_ROWS)])


def _labels(report: CreditsReport) -> list[str]:
    """Return the credits of each label, if requests have labels or a credit has a price."""
    spent = report.by_label()
    if report.price_per_credit is None and not any(spent):
        return []
    rows = [
        (escaped(label) or "no label", f"{credits:,.10g}", report.money(credits))
        for label, credits in [*spent.items()][:MAX_ROWS]
    ]
    return [*table(("Label", "Credits", "At your price"), rows, numbers=2), *more(len(spent) - len(rows)), ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """Return a markdown table whose last columns hold numbers."""
    align = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return [f"| {' | '.join(row)} |" for row in (head, align, *rows)]


def items(values: Sequence[T], item: Callable[[T], str]) -> list[str]:
    return [*map(item, values[:MAX_ROWS]), *more(len(values) - MAX_ROWS)]


def _problem_item(problem: tuple[str, str]) -> str:
    key, reason = problem
    return f"- job {cell(key)}: {escaped(reason, 300)}"


def more(count: int) -> list[str]:
    return ["", f"{count:,} more are not shown."] if count > 0 else []


def cell(value: str) -> str:
    """Return a harmless value, such as a URI or a checksum, as code that people can copy."""
    return f"`{value}`" if re.fullmatch(r"[\w./:-]+", value, re.ASCII) else escaped(value)
