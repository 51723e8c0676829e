"""The table of moves: what may follow what, and that no purchase is ever lost from a record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_loova.errors import InvalidTransitionError
from prefect_loova.models.attempts import OPEN, PURCHASED, Attempt, Decision, Lease, StoredVideo
from prefect_loova.models.job_record import JobRecord, with_purchase
from prefect_loova.models.job_states import MOVES, JobState, MoveName
from prefect_loova.models.request import VideoRequest

# Others share this machine: slow is not wrong.

REQUEST = VideoRequest(prompt="a cat", image_urls=["https://h.test/a?X-Amz-Signature=SECRET"])
STATES: tuple[JobState, ...] = get_args(JobState)
NAMES: tuple[MoveName, ...] = get_args(MoveName)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DECISION = Decision(what="adopt", who="ann", when=NOW, why="seen in the dashboard")
VIDEO = StoredVideo(object_key="k/video.mp4", size_bytes=5, sha256="0" * 64)

FACTS: dict[str, dict[str, Any]] = {
    "bought": {"task_id": "t_bought", "trace_id": "trace_1", "credits_cost": 75.0},
    "late_purchase": {"task_id": "t_late"},
    "buy_again": {"max_paid_attempts": 2},
    "adopt": {"task_id": "t_adopted", "decision": DECISION},
    "submit_again": {"decision": DECISION.model_copy(update={"what": "submit-again"})},
    "give_up": {"decision": DECISION.model_copy(update={"what": "give-up"})},
    "take_back": {"decision": DECISION.model_copy(update={"what": "take-back"})},
    "lease": {"saving": Lease(holder="w", seconds=60)},
    "save": {"video": VIDEO, "saving": None},
    "refused": {"reason": "no", "refusals": 1},
}


def claimed() -> JobRecord:
    return JobRecord.claimed(REQUEST, "https://api.loova.ai", {"run": "r1"}, NOW)


def moved(*names: MoveName) -> JobRecord:
    record = claimed()
    for name in names:
        record = record.move(name, **FACTS.get(name, {}))
    return record


WAYS: dict[JobState, tuple[MoveName, ...]] = {
    "claimed": (),
    "submitting": ("begin",),
    "submitted": ("begin", "bought"),
    "succeeded": ("begin", "bought", "succeed"),
    "saved": ("begin", "bought", "succeed", "save"),
    "failed": ("begin", "bought", "fail"),
    "rejected": ("begin", "refused"),
    "in_doubt": ("begin", "doubt"),
    "abandoned": ("begin", "doubt", "give_up"),
}

ADOPTED: dict[JobState, tuple[MoveName, ...]] = {
    state: tuple(move for name in way for move in (("doubt", "adopt") if name == "bought" else (name,)))  # type: ignore[misc]
    for state, way in WAYS.items()
}
"""The same ways, where a person adopted the task."""

TABLE = {
    ("claimed", "take_over"): "claimed",
    ("claimed", "begin"): "submitting",
    ("submitting", "begin"): "submitting",
    ("submitting", "bought"): "submitted",
    ("submitting", "refused"): "rejected",
    ("submitting", "doubt"): "in_doubt",
    ("submitted", "succeed"): "succeeded",
    ("submitted", "fail"): "failed",
    ("succeeded", "lease"): "succeeded",
    ("succeeded", "save"): "saved",
    ("saved", "save_again"): "succeeded",
    ("failed", "buy_again"): "claimed",
    ("rejected", "claim_again"): "claimed",
    ("in_doubt", "bought"): "submitted",
    ("in_doubt", "refused"): "rejected",
    ("in_doubt", "adopt"): "submitted",
    ("in_doubt", "submit_again"): "claimed",
    ("in_doubt", "give_up"): "abandoned",
    ("abandoned", "bought"): "submitted",
    ("submitted", "take_back"): "in_doubt",
    ("succeeded", "take_back"): "in_doubt",
    ("saved", "take_back"): "in_doubt",
    ("failed", "take_back"): "in_doubt",
} | {(state, "late_purchase"): "submitted" for state in STATES}
"""The drawing of the design, written down a second time."""

APPENDS = {"claim", "buy_again", "late_purchase", "submit_again"}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NAMES)
def test_a_move_leads_where_the_table_says_and_all_others_are_refused(state: JobState, name: MoveName) -> None:
    record = moved(*(ADOPTED if name == "take_back" else WAYS)[state])
    assert record.state == state
    before = record.model_dump_json()
    if (state, name) not in TABLE:
        with pytest.raises(InvalidTransitionError, match=f"attempt 1 is {state}: it cannot {name.replace('_', ' ')}"):
            record.move(name, **FACTS.get(name, {}))
    else:
        after = record.move(name, **FACTS.get(name, {}))
        assert after.attempts[-1].state == TABLE[state, name]
        assert len(after.attempts) == 1 + (name in APPENDS)
        if name in APPENDS:
            assert after.attempts[0].state == state
    assert record.model_dump_json() == before


@pytest.mark.parametrize("decision", ["submit_again", "give_up"])
def test_only_an_adopted_task_can_be_taken_back(decision: MoveName) -> None:
    record = moved("begin", "doubt", decision).move("bought", 1, task_id="t_late")
    assert record.attempt(1).decision is not None
    with pytest.raises(InvalidTransitionError, match="adopted"):
        record.move("take_back", 1, **FACTS["take_back"])


def test_every_move_has_a_reason_and_is_named() -> None:
    assert set(MOVES) == set(NAMES)
    assert all(move.when.endswith(".") for move in MOVES.values())
    assert {name for name, move in MOVES.items() if move.appends} == APPENDS


def test_only_loova_can_end_a_paid_attempt_as_failed() -> None:
    assert [name for name, move in MOVES.items() if move.after == "failed"] == ["fail"]
    assert MOVES["fail"].before == {"submitted"}


def test_a_doubt_is_resolved_by_an_answer_or_a_person_only() -> None:
    leaving = {name for name, move in MOVES.items() if "in_doubt" in move.before}
    assert leaving == {"bought", "late_purchase", "refused", "adopt", "submit_again", "give_up"}


# Random sequences.

TASK_IDS = st.sampled_from(["t1", "t2", "t3"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(1, 4) | st.none(),
        st.fixed_dictionaries({}, optional={"task_id": TASK_IDS | st.none(), "reason": st.text(max_size=5)}),
    ),
    max_size=25,
)


@given(STEPS)
def test_no_sequence_of_moves_shortens_the_record_or_loses_a_task(steps: list[Any]) -> None:
    record = claimed()
    for name, number, facts in steps:
        before = record.model_dump_json()
        if number is not None and number > len(record.attempts):
            continue
        target = record.current if number is None else record.attempt(number)
        facts_of_move = FACTS.get(name, {}) | facts
        try:
            after = record.move(name, number, **facts_of_move)
        except InvalidTransitionError:
            assert record.model_dump_json() == before
            continue
        assert record.model_dump_json() == before
        assert target.state in MOVES[name].before
        assert len(after.attempts) == len(record.attempts) + MOVES[name].appends
        assert [attempt.number for attempt in after.attempts] == [*range(1, len(after.attempts) + 1)]
        for old, new in zip(record.attempts, after.attempts, strict=False):
            assert set(old.times) <= set(new.times)
            if name == "take_back" and old.number == target.number:
                *before_it, kept = new.taken_back or ()
                assert (kept.task_id, kept.adopted, kept.state) == (old.task_id, old.decision, old.state)
                assert (kept.saving, kept.video, tuple(before_it)) == (old.saving, old.video, old.taken_back or ())
                continue
            assert new.taken_back == old.taken_back
            assert old.task_id in (None, new.task_id)
            assert old.decision is None or new.decision is not None
            if old.number != target.number:
                assert new == old
        assert all(attempt.task_id for attempt in after.attempts if attempt.state in PURCHASED | {"failed"})
        assert after.paid_attempts >= record.paid_attempts - (name == "take_back")
        assert (after.key, after.api_origin, after.request) == (record.key, record.api_origin, record.request)
        assert JobRecord.model_validate_json(after.model_dump_json()) == after
        record = after


ATTEMPTS = st.lists(
    st.builds(
        lambda state, task_id, decided: {
            "state": state,
            "task_id": task_id,
            "credits_estimate": 75.0,
            "decision": DECISION if decided else None,
        },
        st.sampled_from(STATES),
        TASK_IDS | st.none(),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(ATTEMPTS, st.data())
def test_a_purchase_is_never_dropped_in_any_state(attempts: list[Any], data: st.DataObject) -> None:
    numbered = tuple(Attempt(number=number, **fields) for number, fields in enumerate(attempts, 1))
    record = claimed().model_copy(update={"attempts": numbered})
    number = data.draw(st.integers(1, len(numbered)))
    task_id = data.draw(TASK_IDS | st.just("t_new"))
    after = with_purchase(record, number, task_id, trace_id="trace_1", credits_cost=75.0)
    known, still = ({attempt.task_id for attempt in one.attempts} - {None} for one in (record, after))
    assert still == known | {task_id}
    if task_id in known:
        assert after == record
    else:
        bought = next(attempt for attempt in after.attempts if attempt.task_id == task_id)
        assert (bought.state, bought.trace_id, bought.credits_cost) == ("submitted", "trace_1", 75.0)
    assert with_purchase(after, number, task_id) == after
    assert after.is_open or task_id in known


@pytest.mark.parametrize("state", STATES)
def test_a_late_answer_with_another_task_is_kept_in_every_state(state: JobState) -> None:
    record = moved(*WAYS[state])
    known = {attempt.task_id for attempt in record.attempts} - {None}
    after = with_purchase(record, 1, "t_other", reason="seen late")
    assert {attempt.task_id for attempt in after.attempts} - {None} == known | {"t_other"}
    assert after.paid_attempts == record.paid_attempts + 1
    assert len(after.attempts) == (1 if state in ("submitting", "in_doubt", "abandoned") else 2)


def test_a_late_answer_after_a_person_bought_again_keeps_both_tasks() -> None:
    record = moved("begin", "doubt", "submit_again", "begin", "bought")
    after = with_purchase(record, 1, "t_late")
    assert [(attempt.task_id, attempt.state) for attempt in after.attempts] == [
        ("t_late", "submitted"),
        ("t_bought", "submitted"),
    ]
    assert after.attempt(1).decision is not None
    assert after.current.task_id == "t_bought"
    assert after.paid_attempts == 2


@pytest.mark.parametrize("name", ["bought", "adopt", "late_purchase"])
@pytest.mark.parametrize("task_id", [None, ""])
def test_no_attempt_is_submitted_without_a_task(name: MoveName, task_id: str | None) -> None:
    record = moved("begin", "doubt")
    with pytest.raises(InvalidTransitionError, match="task id"):
        record.move(name, task_id=task_id)
    with pytest.raises(InvalidTransitionError, match="task id"):
        record.move(name)


@pytest.mark.parametrize("task_id", [None, "", "t_other"])
def test_the_task_of_an_attempt_is_never_changed(task_id: str | None) -> None:
    record = moved("begin", "bought")
    with pytest.raises(InvalidTransitionError, match="never changed"):
        record.move("succeed", task_id=task_id)
    assert record.move("succeed", task_id="t_bought").state == "succeeded"


# What a record tells.


def test_a_new_record_holds_the_request_without_signatures_and_its_price() -> None:
    record = claimed()
    assert record.key == REQUEST.key
    assert "SECRET" not in record.model_dump_json()
    assert (record.state, record.current.number, record.current.credits_estimate) == ("claimed", 1, 75)
    assert record.current.by == {"run": "r1"}
    assert record.current.times == {"claimed": NOW}
    again = {name: value for name, value in record.request.items() if name != "version"}
    assert VideoRequest(**again).key == record.key


@pytest.mark.parametrize("state", STATES)
def test_a_job_is_open_while_it_needs_a_step_or_a_decision(state: JobState) -> None:
    left = state in ("claimed", "submitting", "submitted", "succeeded", "in_doubt")
    assert moved(*WAYS[state]).is_open == left
    assert (state in OPEN) == left


def test_a_doubt_that_was_resolved_by_buying_again_does_not_keep_a_job_open() -> None:
    record = moved("begin", "doubt", "submit_again", "begin", "bought")
    assert record.is_open
    assert not record.attempt(1).is_open
    assert not record.move("fail").is_open
    assert not record.move("succeed").move("save", **FACTS["save"]).is_open


def test_a_second_purchase_keeps_a_saved_job_open_until_it_is_saved_too() -> None:
    record = with_purchase(moved(*WAYS["saved"]), 1, "t_second")
    assert record.is_open
    assert record.current.task_id == "t_second"
    done = record.move("succeed").move("save", **FACTS["save"])
    assert not done.is_open
    assert done.attempt(1).task_id == "t_bought"


def test_the_attempt_that_counts_is_the_last_one_unless_only_an_earlier_one_holds_a_purchase() -> None:
    record = moved("begin", "doubt", "submit_again")
    assert record.current.number == 2
    late = with_purchase(record, 1, "t_late")
    assert (late.current.number, late.state) == (1, "submitted")
    assert late.move("fail").current.number == 2
    assert moved("begin", "bought", "fail", "buy_again").current.number == 2


def test_paid_attempts_are_those_with_a_loova_task_in_any_state() -> None:
    assert moved("begin", "doubt").paid_attempts == 0
    assert moved("begin", "refused").paid_attempts == 0
    assert moved("begin", "bought", "fail").paid_attempts == 1
    assert moved("begin", "bought", "fail", "buy_again").paid_attempts == 1
    assert moved("begin", "bought", "fail", "buy_again", "begin", "bought").paid_attempts == 2


def test_times_and_decisions_are_kept() -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    record = claimed().move("begin", now=NOW).move("doubt", now=NOW).move("adopt", now=later, **FACTS["adopt"])
    assert record.current.times == {"claimed": NOW, "submitting": NOW, "in_doubt": NOW, "submitted": later}
    assert record.move("succeed", now=later).current.decision == DECISION
    again = moved("begin", "doubt", "submit_again")
    assert (again.attempt(1).decision or DECISION).what == "submit-again"
    assert again.attempt(2).decision is None
    assert moved("begin", "doubt", "give_up").current.decision is not None


def test_a_renewed_lease_does_not_touch_the_times() -> None:
    record = moved("begin", "bought", "succeed")
    renewed = record.move("lease", saving=Lease(holder="w", seconds=60, upload_id="u"), now=NOW)
    assert renewed.current.times == record.current.times
    assert renewed.current.saving is not None


def test_a_new_attempt_keeps_only_the_price_and_the_worker() -> None:
    record = moved("begin", "bought", "fail").move("buy_again", by={"run": "r2"}, max_paid_attempts=2)
    attempt = record.current
    assert (attempt.task_id, attempt.trace_id, attempt.credits_cost, attempt.video) == (None, None, None, None)
    assert (attempt.credits_estimate, attempt.by) == (75, {"run": "r2"})
    assert record.attempt(1).by == {"run": "r1"}


def test_a_foreign_reason_is_stored_as_one_redacted_line() -> None:
    record = moved("begin").move("refused", reason="no\n\x1b[31mhttps://h.test/a?X-Amz-Signature=SECRET")
    assert record.current.reason == "no [31mhttps://h.test/a?..."


def test_fields_of_a_newer_version_are_kept_through_json_and_moves() -> None:
    data = json.loads(moved(*WAYS["succeeded"]).model_dump_json())
    data["colour"] = "red"
    data["attempts"][0]["mood"] = {"deep": [1]}
    data["attempts"][0]["saving"] = {"holder": "w", "seconds": 5, "part": 7}
    record = JobRecord.model_validate(data).move("lease")
    again = json.loads(JobRecord.model_validate_json(record.model_dump_json()).model_dump_json())
    assert again["colour"] == "red"
    assert again["attempts"][0]["mood"] == {"deep": [1]}
    assert again["attempts"][0]["saving"]["part"] == 7
    appended = json.loads(record.move("late_purchase", task_id="t2").model_dump_json())
    assert (appended["attempts"][0]["mood"], appended["colour"]) == ({"deep": [1]}, "red")


def test_a_record_and_its_attempts_change_only_by_moves() -> None:
    record = claimed()
    for change in (lambda: setattr(record, "key", "x"), lambda: setattr(record.current, "state", "saved")):
        with pytest.raises(ValueError, match="frozen"):
            change()


@pytest.mark.parametrize("state", ["submitted", "succeeded", "saved", "failed"])
def test_only_a_task_that_a_person_adopted_can_be_taken_back(state: JobState) -> None:
    with pytest.raises(InvalidTransitionError, match="no task that a person adopted"):
        moved(*WAYS[state]).move("take_back", **FACTS["take_back"])
    with pytest.raises(InvalidTransitionError, match="a person's decision"):
        moved(*ADOPTED[state]).move("take_back")
    record = moved(*ADOPTED[state]).move("take_back", **FACTS["take_back"])
    attempt = record.current
    assert (attempt.state, attempt.task_id, attempt.video, attempt.saving) == ("in_doubt", None, None, None)
    assert record.is_open
    assert record.undecided is not None
    assert [(kept.task_id, kept.state) for kept in attempt.taken_back or ()] == [("t_adopted", state)]
    again = record.move("adopt", task_id="t_right", decision=DECISION)
    assert (again.current.task_id, again.current.taken_back) == ("t_right", attempt.taken_back)


def test_a_late_answer_may_name_a_task_that_was_taken_back() -> None:
    record = moved(*ADOPTED["saved"]).move("take_back", **FACTS["take_back"])
    assert with_purchase(record, 1, "t_adopted").current.task_id == "t_adopted"


@pytest.mark.parametrize("name", ["succeed", "fail", "lease", "save", "save_again"])
def test_a_step_for_a_task_that_was_taken_back_does_not_change_the_next_task(name: MoveName) -> None:
    state = {"succeed": "submitted", "fail": "submitted", "save_again": "saved"}.get(name, "succeeded")
    for record in (
        moved(*ADOPTED[state]),  # type: ignore[index]
        moved(*ADOPTED["submitted"]).move("take_back", **FACTS["take_back"]),
    ):
        with pytest.raises(InvalidTransitionError):
            record.move(name, **FACTS.get(name, {}), task_id="t_of_before")
