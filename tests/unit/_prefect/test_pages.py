"""The pages in the Prefect UI: their content, and foreign text that stays text."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from markdown_it import MarkdownIt

from prefect_loova._prefect.artifacts import artifact_key
from prefect_loova._prefect.gallery import (
    MOST_GALLERY,
    MOST_POSTERS,
    gallery,
    keys_to_keep,
    outcome_rows,
    story_page,
)
from prefect_loova._prefect.pages import (
    Links,
    Picture,
    credits_page,
    doubts_page,
    duration,
    escaped,
    prices_page,
    video_page,
)
from prefect_loova.models.reports import (
    BatchReport,
    CreditsReport,
    DaySpent,
    Outcome,
    PromptPrice,
    Seam,
    StoryReport,
    VideoOutcome,
)
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

HOSTILE = [
    "**bold** _it_ `code` ~~gone~~",
    "<img src=x onerror=alert(1)> & &amp; &#42;",
    "[click](javascript:alert(1)) ![x](https://evil.test/pixel.png)",
    "| a | b |\n|---|---|\n# title\n- item\n1. item\n> quote\n```\nfence",
    "see https://evil.test/x?y and www.evil.test or me@evil.test",
    "back\\slash \\* \\\\",
]
START = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
WEBP = Picture(b"RIFF", "image/webp")


def html(page: str) -> str:
    return MarkdownIt("gfm-like").render(page)


def saved(prompt: str = "a city", **fields: object) -> SavedVideo:
    request = VideoRequest(prompt=prompt, ratio="9:16", image_urls=("https://media.test/a.png",))
    steps = {"claimed": 0, "submitted": 2, "succeeded": 202, "saved": 205.5}
    known = {
        "key": request.key,
        "request": request.as_stored(),
        "task_id": "task-1",
        "video": f"s3://bucket/loova/{request.key}/video.mp4",
        "record": f"s3://bucket/loova/{request.key}/record.json",
        "size_bytes": 1_234_567,
        "sha256": "ab" * 32,
        "duration_seconds": 5.04,
        "width": 720,
        "height": 1280,
        "credits_estimate": 75,
        "credits_cost": 80,
        "times": {state: START + timedelta(seconds=seconds) for state, seconds in steps.items()},
        "reused": False,
    }
    return SavedVideo.model_validate(known | fields)


def outcome(number: int, what: Outcome = "saved", **fields: object) -> VideoOutcome:
    known = {
        "key": f"{number:064x}",
        "name": f"video-{number} 16:9 5s",
        "rows": (number,),
        "outcome": what,
        "video": f"s3://bucket/loova/{number:064x}/video.mp4" if what in ("saved", "reused") else None,
        "credits_estimate": 75,
        "credits_charged": 75 if what == "saved" else 0,
    }
    return VideoOutcome.model_validate(known | fields)


def test_a_gallery_leads_to_the_pages_that_exist() -> None:
    report = BatchReport(videos=(outcome(1), outcome(2)))
    posters = {one.key: WEBP for one in report.videos}
    page = html(gallery(report, posters, {report.videos[1].key: "http://ui.test/2"}))
    assert re.findall(r'<a href="([^"]+)">open</a>', page) == ["http://ui.test/2"]
    assert "open" not in gallery(report, posters)


def test_the_key_of_a_page_has_the_name_before_the_digits() -> None:
    name = "nuit d'été 16:9 5s take 2"
    assert artifact_key("video", "ab" * 32, name) == "loova-video-nuit-d-t-16-9-5s-take-2-abababababababab"
    assert artifact_key("video", "ab" * 32, "夜") == "loova-video-abababababababab"


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_stays_text(text: str) -> None:
    rendered = html(escaped(text))
    assert rendered.startswith("<p>") and rendered.endswith("</p>\n")
    inside = rendered.removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in inside
    unescaped = inside.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert unescaped.replace("\u2060", "").split() == text.replace("?y", "?...").split()


def test_a_renderer_does_not_link_addresses_in_foreign_text() -> None:
    shown = escaped(HOSTILE[4]).replace("\\", "")
    assert not re.search(r"https?://|www\.|\w@\w", shown)


def test_the_page_of_a_video_has_a_moving_picture_its_facts_and_its_cost() -> None:
    page = html(video_page(saved(), WEBP))
    assert '<img src="data:image/webp;base64,UklGRg=="' in page
    for told in (
        "s3://bucket/loova/",
        "seedance_2_0, omni_reference, 9:16, 5 s",
        "720 x 1280, 5.0 s, 1,234,567 bytes",
        "80 credits ($2.56 to $6.40); estimate 75",
        "by this run",
        "waiting to submit 2.0 s, generating 3 min 20 s, saving 3.5 s",
        "2026-11-25 04:03:25 UTC",
        "task-1",
        "ab" * 32,
        "media.test/a.png",
    ):
        assert told in page.replace("\u2060", ""), told


def test_a_page_says_that_an_earlier_run_paid_and_that_the_cost_is_unknown() -> None:
    page = video_page(saved(reused=True, credits_cost=None))
    assert "| Paid | by an earlier run |" in page
    assert "Loova returned no cost; estimate 75" in page


def test_a_page_has_only_the_links_that_exist() -> None:
    assert "](" not in video_page(saved())
    links = Links("https://x.console.aws.amazon.com/x", "https://b.s3.amazonaws.com/v?X-Amz-Signature=1", START)
    page = video_page(saved(), links=links)
    assert "[Open in the S3 console](https://x.console.aws.amazon.com/x)" in page
    assert "[Play it](https://b.s3.amazonaws.com/v?X-Amz-Signature=1) (until 2026-11-25 04:00 UTC)" in page


def test_a_picture_that_is_too_large_is_left_out() -> None:
    assert "data:" not in video_page(saved(), Picture(bytes(200_000), "image/webp"))
    assert "data:" in video_page(saved(), Picture(bytes(190_000), "image/webp"))


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_in_a_page_is_neither_markup_nor_a_second_cell(text: str) -> None:
    pages = [
        video_page(saved(text), WEBP),
        gallery(BatchReport(videos=(outcome(1, "failed", reason=text, name=text),)), {}),
        gallery(BatchReport(videos=(outcome(1, name=text),)), {outcome(1).key: WEBP}),
        credits_page(credits(deployment=text)),
    ]
    for page in map(html, pages):
        tags = set(re.findall(r"<(/?\w+)", page))
        assert not tags & {"em", "s", "a", "h1", "ol", "blockquote", "script"}
        assert set(re.findall(r'src="(.{10})', page)) <= {"data:image"}
        counts = [row.count("<td") + row.count("<th") for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
        assert len(set(counts)) <= 1, counts
        assert page.count("<li>") == page.count("<strong>failed")
        assert page.count("<pre>") == page.count("video.mp4")


def credits(**fields: object) -> CreditsReport:
    day = {"day": date(2026, 11, 24), "model": "seedance_2_0", "deployment": "nightly", "videos": 2, "credits": 120}
    spent = DaySpent.model_validate(day | {"unsettled": 60} | fields)
    return CreditsReport(api_origin="https://api", available=900, low_below=1000, days=(spent,))


def test_a_gallery_shows_missing_videos_first_then_pictures_then_the_rest() -> None:
    videos = [outcome(n) for n in range(1, 7)]
    videos += [outcome(7, "reused"), outcome(8, "in_doubt", reason="lost"), outcome(9, "failed", reason="moderation")]
    page = gallery(BatchReport(videos=tuple(videos)), {outcome(n).key: WEBP for n in range(1, 6)})
    places = [
        page.index(told) for told in ("**failed** video", "**in doubt** video", "data:image/webp", "| saved | video")
    ]
    assert places == sorted(places)
    assert page.count("data:image") == 5
    assert page.splitlines()[0].startswith("**9 videos")
    assert "\\$" in page.splitlines()[0]
    assert html(page).count("<img") == 5


def test_a_gallery_has_at_most_50_pictures_and_1_mib() -> None:
    videos = tuple(outcome(n) for n in range(1, 400))
    small = gallery(BatchReport(videos=videos), {one.key: Picture(bytes(100), "image/jpeg") for one in videos})
    assert small.count("data:image") == MOST_POSTERS
    large = gallery(BatchReport(videos=videos), {one.key: Picture(bytes(30_000), "image/jpeg") for one in videos})
    assert len(large.encode()) < MOST_GALLERY
    assert 15 <= large.count("data:image") < MOST_POSTERS
    for page, pictures in ((small, 50), (large, large.count("data:image"))):
        assert page.count("| saved | video") == len(videos) - pictures


def test_the_largest_batch_still_fits() -> None:
    videos = [outcome(n, name="x" * 200) for n in range(1, 10_001)]
    videos += [outcome(n, "failed", reason="y|" * 500) for n in range(10_001, 20_001)]
    page = gallery(BatchReport(videos=tuple(videos)), {one.key: Picture(bytes(12_000), "image/jpeg") for one in videos})
    assert len(page.encode()) < MOST_GALLERY
    assert "9,500 more are not shown" in page


def test_the_most_severe_rows_of_the_table_come_first() -> None:
    report = BatchReport(videos=(outcome(1), outcome(2, "in_doubt", reason="lost"), outcome(3, "failed", reason="no")))
    assert [row["state"] for row in outcome_rows(report)] == ["failed", "in doubt", "saved"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (42.2, "42 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")],
)
def test_a_duration_is_formatted_for_a_person(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_the_credits_page_has_a_row_for_a_day() -> None:
    assert "| 2026-11-24 | `seedance_2_0` | nightly |  | 2 | 120 | 60 |" in credits_page(credits())


DIFFERS = "it plays 5.0 s, and 4 s were asked for"


def test_the_pages_of_a_video_and_its_batch_say_that_it_differs_from_its_request() -> None:
    assert DIFFERS in plain(video_page(saved(differs=DIFFERS)))
    assert "Differs" not in video_page(saved())
    report = BatchReport(videos=(outcome(0), outcome(1, differs=DIFFERS)))
    page = plain(gallery(report, {}))
    assert page.count(DIFFERS) == 1
    assert "These videos differ from their requests" in page
    assert [row["reason"] for row in outcome_rows(report)] == ["", DIFFERS]
    assert "differ from" not in gallery(BatchReport(videos=(outcome(0),)), {})


def test_the_credits_page_names_the_jobs_that_count_at_their_estimate() -> None:
    report = credits().model_copy(update={"problems": (("a" * 64, "is not a <b>job</b> record"),)})
    page = plain(credits_page(report))
    assert f"job {'a' * 64}: is not a <b>job</b> record" in page.replace("`", "")
    assert "Counted at their estimate" not in credits_page(credits())


def plain(page: str) -> str:
    """A page without the backslashes that escape."""
    return re.sub(r"\\(.)", r"\1", page)


def test_the_page_of_doubts_names_the_jobs_that_could_not_be_read() -> None:
    problems = [("ab" * 32, "s3://b/loova/x/record.json is not a job record <b>"), ("cd" * 32, "denied")]
    page = doubts_page([], problems)
    assert "No job is in doubt" not in page
    assert all(f"`{key}`" in page for key, _ in problems)
    assert "<b>" not in html(page)
    assert "300 more are not shown" in doubts_page([], [(f"{n:064}", "denied") for n in range(800)]).replace(",", "")
    assert doubts_page([]) == "No job is in doubt."


def test_a_gallery_shows_the_takes_of_a_request_together() -> None:
    takes = [outcome(n, group="g", take=n - 1, prompt="a <b>red</b> kite", label="spring") for n in (1, 2)]
    report = BatchReport(videos=(takes[0], outcome(3), takes[1]))
    page = gallery(report, {one.key: WEBP for one in report.videos})
    shown = html(page)
    assert "a &lt;b&gt;red&lt;/b&gt; kite</strong> spring, 2 takes" in shown
    assert shown.index("video-3") < shown.index("spring, 2 takes") < shown.index("take 0") < shown.index("take 1")
    assert "take" not in html(gallery(BatchReport(videos=(outcome(1), outcome(2))), {f"{1:064x}": WEBP}))


def test_the_credits_page_adds_up_each_label_at_your_price() -> None:
    days = [credits().days[0].model_copy(update={"label": label, "credits": spent}) for label, spent in LABELS]
    report = credits().model_copy(update={"days": tuple(days), "price_per_credit": 0.05})
    page = credits_page(report)
    assert page.index("| spring | 100 | 5.00 |") < page.index("| no label | 30 | 1.50 |")
    assert "At your price" not in credits_page(credits())


LABELS = [("spring", 60.0), ("", 30.0), ("spring", 40.0)]


def test_the_page_of_the_prices_has_the_prompts() -> None:
    page = prices_page("| Model |", [PromptPrice("a *kite*", "spring", 2, 120.0)])
    assert page.startswith("| Model |")
    assert "| a \\*kite\\* | spring | 2 | 120 |" in page


def test_the_page_of_a_story_shows_its_seams_and_the_lines_that_keep_its_shots() -> None:
    kept, missing = (
        VideoOutcome(key=digit * 64, name="a", rows=(row,), outcome=outcome, credits_estimate=60)
        for digit, row, outcome in (("3", 1, "reused"), ("4", 2, "failed"))
    )
    shots = BatchReport(videos=(kept, missing))
    page = html(story_page(StoryReport(title="A day", shots=shots, seams=(Seam(shot=1, distance=0.1234),)), None, {}))
    assert "<li>shot 1: 0.123</li>" in page
    assert re.search(r"<td>1</td>\s*<td><code>keep: 3{64}</code></td>", page)
    assert "keep: 4" not in page
    nothing = BatchReport(videos=(missing,))
    assert keys_to_keep(nothing) == []
    assert "Seams" not in story_page(StoryReport(title="A day", shots=nothing), None, {})
