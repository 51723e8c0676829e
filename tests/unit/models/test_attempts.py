"""What may be paid again, what is open and what counts: all pairs and triples of attempts, against a second opinion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.batches.pricing import plan_from_record
from prefect_loova.errors import InvalidTransitionError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.attempts import Attempt, Decision, budget_credits
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.request import VideoRequest
from prefect_loova.store.budget import Reservation, _attempt_costs

REQUEST = VideoRequest(prompt="a cat", duration=4)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = date(2026, 1, 1)
AGAIN = Decision(what="submit-again", who="ann", when=NOW, why="")


class Kind(NamedTuple):
    """One attempt as the tests think of it."""

    state: str
    is_decided: bool = False
    by_decision: bool = False


KINDS = [
    Kind("claimed"),
    Kind("submitting"),
    Kind("submitted"),
    Kind("succeeded"),
    Kind("saved"),
    Kind("failed"),
    Kind("rejected"),
    Kind("in_doubt"),
    Kind("in_doubt", is_decided=True),
    Kind("abandoned"),
    Kind("claimed", by_decision=True),
    Kind("rejected", by_decision=True),
]
HOLDS_A_VIDEO = ("submitted", "succeeded", "saved")


def combinations() -> Iterator[tuple[Kind, ...]]:
    for length in (1, 2, 3):
        yield from itertools.product(KINDS, repeat=length)


def record(kinds: tuple[Kind, ...], **facts: Any) -> JobRecord:
    attempts = tuple(
        Attempt(
            number=number,
            state=kind.state,  # type: ignore[arg-type]
            task_id=f"t{number}" if kind.state in (*HOLDS_A_VIDEO, "failed") else None,
            credits_estimate=60,
            decision=AGAIN if kind.is_decided else None,
            by_decision=kind.by_decision,
            by={"root_flow_run": "mine"},
            times={"claimed": NOW, "submitting": NOW},
            **facts,
        )
        for number, kind in enumerate(kinds, 1)
    )
    return JobRecord(
        key=REQUEST.key, api_origin="https://loova.test", request=REQUEST.as_stored(), attempts=attempts, write_id="w"
    )


def number_that_counts(kinds: tuple[Kind, ...]) -> int:
    bought = [number for number, kind in enumerate(kinds, 1) if kind.state in HOLDS_A_VIDEO]
    return bought[-1] if bought else len(kinds)


def may_be_paid(kinds: tuple[Kind, ...]) -> int:
    return sum(kind.state in (*HOLDS_A_VIDEO, "failed", "in_doubt") for kind in kinds)


def is_free(kinds: tuple[Kind, ...], most: int) -> bool:
    """The second opinion: whether a run may buy, `most` times in all."""
    last = kinds[-1]
    blocked = (*HOLDS_A_VIDEO, "submitting", "abandoned")
    if any(kind.state in blocked or (kind.state == "in_doubt" and not kind.is_decided) for kind in kinds):
        return False
    if last.state not in ("claimed", "rejected", "failed"):
        return False
    after_a_decision = len(kinds) > 1 and kinds[-2].is_decided  # as records of earlier versions have it
    if last.state != "failed" and (last.by_decision or after_a_decision):
        return True
    return may_be_paid(kinds) < most


MOVE = {"claimed": "take_over", "rejected": "claim_again", "failed": "buy_again"}


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_no_claim_leads_to_more_paid_attempts_than_are_allowed_in_any_state(most: int) -> None:
    free = 0
    for kinds in combinations():
        of = record(kinds)
        move = MOVE.get(of.current.state)
        if move is None:
            continue
        try:
            of.move(move, max_paid_attempts=most)  # type: ignore[arg-type]
            allowed = True
        except InvalidTransitionError:
            allowed = False
        assert allowed == is_free(kinds, most), f"{move} of {kinds}, {most} allowed"
        free += allowed
    assert free


def test_the_default_count_allows_one_paid_attempt_only() -> None:
    for move, kinds in (
        ("claim_again", (Kind("failed"), Kind("rejected"))),
        ("take_over", (Kind("failed"), Kind("claimed"))),
        ("buy_again", (Kind("failed"),)),
    ):
        with pytest.raises(InvalidTransitionError, match="1 attempts are paid or may be, and max_paid_attempts is 1"):
            record(kinds).move(move)  # type: ignore[arg-type]


def test_no_post_begins_beside_an_attempt_that_holds_the_video_or_may_be_paid() -> None:
    for kinds in combinations():
        of = record(kinds)
        for number, kind in enumerate(kinds, 1):
            if kind.state not in ("claimed", "submitting"):
                continue
            others = [other for at, other in enumerate(kinds, 1) if at != number]
            alone = not any(
                other.state in (*HOLDS_A_VIDEO, "submitting", "abandoned")
                or (other.state == "in_doubt" and not other.is_decided)
                for other in others
            )
            try:
                of.move("begin", number)
                allowed = True
            except InvalidTransitionError:
                allowed = False
            assert allowed == alone, f"attempt {number} of {kinds}"


def test_a_person_may_submit_again_unless_the_video_is_bought_already() -> None:
    for kinds in combinations():
        of = record(kinds)
        for number, kind in enumerate(kinds, 1):
            if kind != Kind("in_doubt"):
                continue
            if any(other.state in HOLDS_A_VIDEO for other in kinds):
                with pytest.raises(InvalidTransitionError, match="the video is bought already as task"):
                    of.move("submit_again", number, decision=AGAIN)
                continue
            again = of.move("submit_again", number, decision=AGAIN)
            assert again.current.by_decision
            if not [one for one in kinds if one.state in ("submitting", "abandoned")] and len(of.doubts) == 1:
                taken = again.move("take_over").move("begin")
                assert taken.state == "submitting"


def test_a_job_is_open_and_listed_while_any_attempt_needs_a_step_or_a_decision() -> None:
    for kinds in combinations():
        of = record(kinds)
        doubts = [number for number, kind in enumerate(kinds, 1) if kind == Kind("in_doubt")]
        assert [doubt.number for doubt in of.doubts] == doubts
        assert (of.undecided.number if of.undecided else None) == (doubts[-1] if doubts else None)
        left = bool(doubts) or any(kind.state in ("submitting", "submitted", "succeeded") for kind in kinds)
        assert of.is_open == (left or kinds[number_that_counts(kinds) - 1].state == "claimed"), kinds


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_prices_what_a_run_may_buy_and_nothing_else(most: int) -> None:
    jobs: Any = SimpleNamespace(
        by={"root_flow_run": "mine"},
        records=SimpleNamespace(uri=str, record_key=str),
        location_arguments="--bucket b",
        name=lambda record: "job",
        submission=lambda record, reused: record.current.task_id,
    )
    jobs.failed = lambda record: VideoJobs.failed(jobs, record)
    for kinds in combinations():
        of, order = record(kinds), PlannedVideo(REQUEST, (1,))
        seen = plan_from_record(jobs, order, of, most)
        if number_that_counts(kinds) and kinds[number_that_counts(kinds) - 1].state in HOLDS_A_VIDEO:
            assert (seen.price, bool(seen.submission)) == (0, True)
            counts = kinds[number_that_counts(kinds) - 1].state
            assert seen.state == counts
        elif kinds[-1].state in ("failed", "rejected"):
            on_its_way = [kind for kind in kinds if kind.state == "submitting"]
            assert bool(seen.price) == is_free(kinds, most) or on_its_way, kinds
        if not seen.submission and any(kind == Kind("in_doubt") for kind in kinds):
            assert (seen.state, seen.price) == ("in_doubt", 0)
        in_price = bool(seen.price) and kinds[-1].state == "submitting"
        paid = sum(kind.state not in ("claimed", "rejected") for kind in kinds) - in_price
        assert seen.spent == 60 * paid, kinds


@pytest.mark.parametrize(
    ("cost", "until_settled", "settled"),
    [
        (None, 60, 60),
        (0.0, 60, 0),
        (12.0, 60, 12),
        (60.0, 60, 60),
        (75.0, 75, 75),
        (-5.0, 60, 60),
        (math.nan, 60, 60),
        (math.inf, 60, 60),
        (-math.inf, 60, 60),
    ],
)
def test_the_larger_of_estimate_and_cost_counts_until_the_end_and_no_impossible_cost_ever(
    cost: float | None, until_settled: float, settled: float
) -> None:
    assert budget_credits(60, cost, settled=False) == until_settled
    assert budget_credits(60, cost, settled=True) == settled
    for kind in KINDS:
        of = record((kind,), credits_cost=cost)
        is_settled = kind.state in ("succeeded", "saved", "failed")
        assert of.current.credits_counted == (settled if is_settled else until_settled)
    early = record((Kind("saved"),), credits_cost=cost, cost_is_early=True)
    assert early.current.credits_counted == until_settled


def test_every_attempt_counts_on_the_day_that_its_claim_names_and_on_no_other() -> None:
    other = date(2026, 1, 2)
    for kinds in combinations():
        notes = [Reservation(REQUEST.key, number, 0, 60.0) for number in range(1, len(kinds) + 1)]
        for days in itertools.product((DAY, other, None), repeat=len(kinds)):
            of = record(kinds)
            of = of.model_copy(
                update={
                    "attempts": tuple(
                        one.model_copy(update={"budget_day": day}) for one, day in zip(of.attempts, days, strict=True)
                    )
                }
            )
            for day in (DAY, other):
                counts = {one.attempt for one in _attempt_costs(day, notes, of)}
                assert counts == {number for number, named in enumerate(days, 1) if named in (day, None)}


def late(kinds: tuple[Kind, ...], day: date | None) -> JobRecord:
    """A record whose last attempt is a late answer's, which no claim made."""
    of = record(kinds, budget_day=day)
    *before, last = of.attempts
    last = last.model_copy(update={"times": {"submitted": datetime(2026, 3, 1, tzinfo=UTC)}})
    return of.model_copy(update={"attempts": (*before, last)})


@pytest.mark.parametrize("day", [DAY, None])
def test_a_late_purchase_counts_on_the_day_of_its_submit_however_late_the_answer_is(day: date | None) -> None:
    of = late((Kind("saved"), Kind("saved")), day)
    notes = [Reservation(REQUEST.key, 1, 0, 60.0)]
    assert sum(one.credits for one in _attempt_costs(DAY, notes, of)) == 120


def test_a_late_purchase_is_moved_into_the_budget_day_of_the_attempt_that_it_answers() -> None:
    of = record((Kind("saved"),), budget_day=DAY).move("late_purchase", 1, task_id="t_late")
    assert of.attempt(2).budget_day == DAY
