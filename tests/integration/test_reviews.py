"""Reviews of takes: drafts first, a person chooses, and only what is chosen is made and paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefect_loova import (
    BatchError,
    BudgetError,
    GateInput,
    Verdict,
    VideoRequest,
    generate_from_manifest,
    publish_videos,
)
from prefect_loova._prefect.context import Location
from prefect_loova.batches.reviewed import decide_takes
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.reviews import find_review, open_reviews
from tests.integration.test_batches import batch, lister

__all__ = ["lister"]

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.takes, pytest.mark.one_s3_server]

FAST = "seedance_2_0_fast"


def wanted(count: int = 2, **fields: Any) -> list[VideoRequest]:
    return [VideoRequest(prompt=f"kite {number}", duration=4, takes=2, **fields) for number in range(count)]


async def made(requests: list[VideoRequest], place: Location, **options: Any):
    return await batch(requests, place, review="suspend", preview="none", **options)


async def decided(place: Location, index: int, what: Any, **options: Any) -> None:
    async with place.open() as jobs:
        review = (await open_reviews(jobs))[index]
        await decide_takes(jobs, await find_review(jobs, review.group[:10]), what, who="me", why="it is red", **options)


def submits(loova) -> list[tuple[str, str]]:
    return [(task["request"]["model"], task["request"]["prompt"]) for task in loova.ledger["tasks"]]


async def test_only_the_chosen_drafts_are_made_with_the_full_model(lister, loova, caplog):
    requests = wanted(3)
    first = await made(requests, lister, draft=FAST)
    assert (first.count("saved"), {one.is_draft for one in first.videos}) == (6, {True})
    assert "3 requests wait for a review: prefect-loova review" in caplog.text
    await decided(lister, 0, "choose", take=1)
    await decided(lister, 0, "drop")
    second = await made(requests, lister, draft=FAST)
    final = [one for one in second.videos if not one.is_draft]
    assert [(one.name, one.outcome, one.choice) for one in final] == [("kite-0 16:9 4s take 1", "saved", "chosen")]
    assert submits(loova)[6:] == [("seedance_2_0", "kite 0")]
    choices = [one.choice for one in second.videos if one.is_draft]
    assert sorted(choices) == ["chosen", "dropped", "dropped", "not chosen", "to review", "to review"]
    assert second.credits_charged == requests[0].estimate_credits()
    await made(requests, lister, draft=FAST)
    assert loova.ledger["totals"]["posted"] == 7


async def test_takes_without_drafts_are_kept_and_the_decision_is_in_the_report(lister, loova, bucket):
    requests = wanted(1)
    await made(requests, lister)
    await decided(lister, 0, "choose", take=0)
    report = await made(requests, lister)
    assert [(one.take, one.outcome, one.choice) for one in report.videos] == [
        (0, "reused", "chosen"),
        (1, "reused", "not chosen"),
    ]
    assert loova.ledger["totals"]["posted"] == 2
    stored = json.loads(
        bucket.client.get_object(Bucket=bucket, Key=f"loova/_reviews/{requests[0].group}.json")["Body"].read()
    )
    (decision,) = stored["decisions"]
    assert (decision["what"], decision["take"], decision["who"], decision["why"]) == ("choose", 0, "me", "it is red")
    assert decision["when"]


async def test_a_retake_is_made_and_reviewed_again(lister, loova):
    requests = wanted(1)
    await made(requests, lister, draft=FAST)
    await decided(lister, 0, "retake", prompt="a blue kite", duration=5)
    report = await made(requests, lister, draft=FAST)
    assert [(one.take, one.prompt) for one in report.videos] == [(0, "kite 0"), (1, "kite 0"), (2, "a blue kite")]
    await decided(lister, 0, "choose", take=2)
    report = await made(requests, lister, draft=FAST)
    (final,) = [one for one in report.videos if not one.is_draft]
    assert (final.prompt, final.name, final.outcome) == ("a blue kite", "a-blue-kite 16:9 5s take 2", "saved")
    assert submits(loova) == [
        (FAST, "kite 0"),
        (FAST, "kite 0"),
        (FAST, "a blue kite"),
        ("seedance_2_0", "a blue kite"),
    ]


@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ("choose", {"take": 7}, "take: 7 was given: the takes are 0, 1"),
        ("choose", {"take": 0, "prompt": "x"}, "only a retake has another prompt"),
        ("retake", {"take": 1}, "take: 1 was given: there is this take already"),
        ("retake", {"duration": 99}, "duration: 99 was given"),
    ],
)
async def test_a_decision_that_cannot_be_is_refused_and_not_stored(lister, loova, what, options, says):
    await made(wanted(1), lister)
    with pytest.raises(InvalidRequestError) as caught:
        await decided(lister, 0, what, **options)
    assert says in caught.value.message
    async with lister.open() as jobs:
        assert (await open_reviews(jobs))[0].decisions == ()


async def test_the_price_of_both_stages_is_in_the_dry_run_and_limits_the_run(lister, loova, tmp_path: Path):
    path = tmp_path / "list.yaml"
    path.write_text("videos: [{prompt: a kite, duration: 4, takes: 2}]")
    options = {"draft": FAST, "review": "suspend"}
    dry = await generate_from_manifest(str(path), lister.credentials, lister.bucket, dry_run=True, **options)
    fast = VideoRequest(prompt="a", duration=4, model=FAST).estimate_credits()
    assert [(one.is_draft, one.credits_estimate) for one in dry.videos] == [(True, fast), (True, fast), (False, 60)]
    with pytest.raises(BudgetError, match="3 of 3 videos are to be bought"):
        most = 2 * fast + 59
        await generate_from_manifest(str(path), lister.credentials, lister.bucket, max_credits=most, **options)
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_draft_needs_a_review_and_a_run_that_waits(lister, loova):
    with pytest.raises(InvalidRequestError, match="draft: was given without a review"):
        await batch(wanted(1), lister, draft=FAST)
    with pytest.raises(
        InvalidRequestError, match="wait: False was given: a review and quality gates need a run that waits"
    ):
        await made(wanted(1), lister, wait=False)
    with pytest.raises(InvalidRequestError, match="request 1, its draft: model: 'no_such_model' was given"):
        await made(wanted(1), lister, draft="no_such_model")
    assert loova.ledger["totals"]["posted"] == 0


async def test_a_decision_about_takes_that_the_list_no_longer_has_is_asked_again(lister, loova):
    await made(wanted(1), lister)
    await decided(lister, 0, "choose", take=1)
    fewer = [wanted(1)[0].model_copy(update={"takes": 1})]
    report = await made(fewer, lister)
    assert [(one.take, one.choice) for one in report.videos] == [(0, "to review")]
    assert loova.ledger["totals"]["posted"] == 2


def only_takes(*accepted: int) -> Any:
    """A stub of a gate that knows the takes by their number."""

    def by_number(video: GateInput) -> Verdict:
        assert len(video.posters) == 3
        judged.append(video.request["take"])
        return Verdict.accept() if video.request["take"] in accepted else Verdict.retake("there is no kite in it")

    judged: list[int] = []
    by_number.judged = judged  # type: ignore[attr-defined]
    return by_number


async def test_a_gate_asks_for_retakes_within_max_paid_attempts_and_is_asked_once(lister, loova):
    gate = only_takes(2)
    request = VideoRequest(prompt="a kite", duration=4)
    options = {"quality_gates": [gate], "preview": "none", "max_paid_attempts": 3}
    report = await batch([request], lister, **options)
    assert [(one.take, one.outcome, one.choice, one.rejected) for one in report.videos] == [
        (0, "saved", "not chosen", "by_number: there is no kite in it"),
        (1, "saved", "not chosen", "by_number: there is no kite in it"),
        (2, "saved", "", ""),
    ]
    assert report.is_complete and gate.judged == [0, 1, 2]
    again = await batch([request], lister, **options)
    assert again.count("reused") == 3 and gate.judged == [0, 1, 2]
    assert loova.ledger["totals"]["posted"] == 3


async def test_a_video_that_a_gate_rejects_is_kept_and_reported_as_missing(lister, loova):
    options = {"quality_gates": [only_takes(), "black"], "preview": "none"}
    with pytest.raises(BatchError, match=r"a quality gate rejected it: by_number: there is no kite in it") as caught:
        await batch([VideoRequest(prompt="a kite", duration=4)], lister, **options)
    (video,) = caught.value.report.videos
    assert (video.outcome, video.is_missing) == ("saved", True)
    assert loova.ledger["totals"]["posted"] == 1


async def test_retakes_of_a_gate_end_where_the_budget_ends(lister, loova):
    requests = [VideoRequest(prompt=f"kite {number}", duration=4) for number in range(2)]
    options: dict[str, Any] = {"quality_gates": [only_takes(1)], "preview": "none", "max_paid_attempts": 2}
    report = await batch(requests, lister, **options, max_credits=180, on_failure="report")
    assert [(one.take, one.outcome) for one in report.videos if one.is_missing] == [(0, "saved"), (1, "not_started")]
    assert (report.credits_charged, loova.ledger["totals"]["posted"]) == (180, 3)


async def test_a_person_sees_the_verdict_and_may_choose_the_take_all_the_same(lister, loova):
    requests = wanted(1)
    options = {"quality_gates": [only_takes(1)]}
    report = await made(requests, lister, **options)
    assert [one.rejected != "" for one in report.videos] == [True, False]
    await decided(lister, 0, "choose", take=0)
    report = await made(requests, lister, **options)
    assert [(one.choice, one.rejected) for one in report.videos] == [
        ("chosen", ""),
        ("not chosen", ""),
    ]
    assert report.is_complete and loova.ledger["totals"]["posted"] == 2


async def test_a_gate_that_breaks_rejects_nothing_and_buys_nothing(lister, loova):
    def broken(video: GateInput) -> Verdict:
        raise RuntimeError("the model is down")

    report = await batch([VideoRequest(prompt="a kite", duration=4)], lister, quality_gates=[broken], preview="none")
    assert report.is_complete and loova.ledger["totals"]["posted"] == 1


@pytest.mark.parametrize("gate", ["blakc", "no-such/deployment"])
async def test_an_unknown_gate_is_refused_before_anything_is_spent(lister, loova, gate):
    with pytest.raises(InvalidRequestError, match="gates: "):
        await batch(wanted(1), lister, quality_gates=[gate])
    assert loova.ledger["totals"]["posted"] == 0


async def test_the_report_publishes_what_was_chosen_and_no_draft(lister, loova, bucket, tmp_path: Path):
    path = tmp_path / "list.yaml"
    path.write_text("videos: [{prompt: a kite, duration: 4, takes: 2}, {prompt: a boat, duration: 4, takes: 2}]")
    options: dict[str, Any] = {"draft": FAST, "review": "suspend", "preview": "none", "poll_seconds": 0.1}
    await generate_from_manifest(str(path), lister.credentials, lister.bucket, **options)
    await decided(lister, 0, "choose", take=1)
    await decided(lister, 0, "drop")
    report = await generate_from_manifest(str(path), lister.credentials, lister.bucket, **options)
    (final,) = [one for one in report.videos if not one.is_draft]
    published = await publish_videos(
        credentials=lister.credentials, bucket=lister.bucket, report=str(tmp_path / "list.report.csv")
    )
    assert [one.key for one in published.videos] == [final.key]


async def test_a_gate_that_never_accepts_ends_at_max_paid_attempts(lister, loova):
    options: dict[str, Any] = {"quality_gates": [only_takes()], "preview": "none", "on_failure": "report"}
    report = await batch([VideoRequest(prompt="a kite", duration=4)], lister, max_paid_attempts=2, **options)
    assert [one.is_missing for one in report.videos] == [True, True]
    assert loova.ledger["totals"]["posted"] == 2
