"""LoovaClient with the simulator. `make test-live` checks the real API."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_loova.client import LoovaClient
from prefect_loova.errors import (
    AuthenticationError,
    InDoubtError,
    InputRefusedError,
    InsufficientCreditsError,
    LoovaError,
    RejectedError,
    TaskNotFoundError,
    TooManyRunningTasksError,
    UnexpectedResponseError,
)
from prefect_loova.models.request import VideoRequest
from prefect_loova.simulator import FAULTS, LoovaSimulator

CITY = VideoRequest(prompt="A futuristic city at sunset")


class Pauses(list[float]):
    """A sleep that does not sleep."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def client(loova: Any, pauses: Pauses, **settings: Any) -> LoovaClient:
    return LoovaClient(loova.api_key, loova.base_url, sleep=pauses, **settings)


# What is free.


async def test_credits_are_known(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with client(simulator, pauses) as loova:
        balance = await loova.get_credits()
    assert 0 <= balance.available <= balance.total


async def test_an_unknown_task_is_an_error_and_never_a_failed_video(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with client(simulator, pauses) as loova:
        with pytest.raises(UnexpectedResponseError) as caught:
            await loova.get_task("prefect-loova-no-such-task")
    assert caught.value.task_id == "prefect-loova-no-such-task"
    assert caught.value.trace_id


async def test_a_wrong_key_is_refused_at_once(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with LoovaClient("prefect-loova-wrong-key", simulator.base_url, sleep=pauses) as loova:
        for call in (loova.get_credits(), loova.get_task("x")):
            with pytest.raises(AuthenticationError) as caught:
                await call
            assert caught.value.trace_id
            assert "prefect-loova-wrong-key" not in str(caught.value)
    assert pauses == []


# What costs credits.


async def test_a_video_is_bought_watched_and_shown(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with client(simulator, pauses) as loova:
        bought = await loova.submit_video(CITY)
        assert (bought.state, bought.credits_cost, bought.video_url) == ("running", CITY.estimate_credits(), None)
        running = await loova.get_task(bought.task_id)
        assert (running.task_id, running.state, running.video_url) == (bought.task_id, "running", None)
        simulator.advance(61)
        made = await loova.get_task(bought.task_id)
        assert (made.state, made.model, made.credits_cost) == ("succeeded", "seedance_2_0", 75)
        assert (made.video_url or "").startswith("http")
        assert made.finished_at is not None
        balance = await loova.get_credits()
    assert (balance.available, balance.total) == (925, 1000)
    assert simulator.ledger["totals"] | {"posted": 1, "billed": 1} == simulator.ledger["totals"]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "seedance_2_0_fast", "ratio": "21:9", "duration": 15, "take": 3},
        {"function_mode": "first_last_frames", "image_urls": ["http://127.0.0.1/1.png", "http://127.0.0.1/2.png"]},
        {"video_urls": ["https://h.test/1.mp4"], "audio_urls": ["https://h.test/1.mp3"]},
    ],
)
async def test_every_field_arrives_and_costs_what_was_estimated(
    simulator: LoovaSimulator, pauses: Pauses, fields: dict[str, Any]
) -> None:
    request = VideoRequest(prompt="Füße 🐈", **fields)
    async with client(simulator, pauses) as loova:
        bought = await loova.submit_video(request)
    assert bought.credits_cost == request.estimate_credits()
    assert simulator.ledger["tasks"][0]["request"] == request.body()


async def test_a_wrong_key_buys_nothing(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with LoovaClient("wrong", simulator.base_url, sleep=pauses) as loova:
        with pytest.raises(AuthenticationError):
            await loova.submit_video(CITY)
    assert simulator.ledger["totals"]["billed"] == 0


async def test_the_seventh_running_task_is_refused_because_of_the_limit(
    simulator: LoovaSimulator, pauses: Pauses
) -> None:
    async with client(simulator, pauses) as loova:
        for _ in range(6):
            await loova.submit_video(CITY)
        with pytest.raises(TooManyRunningTasksError):
            await loova.submit_video(CITY)
        simulator.advance(61)
        await loova.submit_video(CITY)
    assert simulator.ledger["totals"]["billed"] == 7


async def test_a_video_that_costs_too_much_is_refused(pauses: Pauses) -> None:
    with LoovaSimulator(credits=74) as simulator:
        async with client(simulator, pauses) as loova:
            with pytest.raises(InsufficientCreditsError):
                await loova.submit_video(CITY)
        assert simulator.ledger["totals"]["billed"] == 0


SUBMIT_FAULTS: dict[str, tuple[type[LoovaError], int]] = {
    "lost_reply": (InDoubtError, 1),
    "reset_reply": (InDoubtError, 1),
    "cut_reply": (InDoubtError, 1),
    "slow_reply": (InDoubtError, 1),
    "bad_gateway_after_billing": (InDoubtError, 1),
    "gateway_timeout_after_billing": (InDoubtError, 1),
    "html": (InDoubtError, 1),
    "not_json": (InDoubtError, 1),
    "empty_body": (InDoubtError, 1),
    "success_code_without_data": (InDoubtError, 1),
    "delayed_by_the_limit": (InDoubtError, 1),
    "delayed_by_the_limit_with_429": (InDoubtError, 1),
    "accepted_without_data": (InDoubtError, 1),
    "accepted_in_chinese": (InDoubtError, 1),
    "task_beside_data": (InDoubtError, 1),
    "lost_request": (InDoubtError, 0),
    "bad_gateway": (InDoubtError, 0),
    "unavailable": (InDoubtError, 0),
    "internal_error": (InDoubtError, 0),
    "submit_redirect": (RejectedError, 0),
    "too_many_running_tasks": (TooManyRunningTasksError, 0),
    "too_many_running_tasks_as_success": (TooManyRunningTasksError, 0),
    "insufficient_credits": (InsufficientCreditsError, 0),
    "insufficient_credits_as_success": (InsufficientCreditsError, 0),
    "authentication_failed": (AuthenticationError, 0),
    "refused_by_code": (InputRefusedError, 0),
    "refused_as_success": (InputRefusedError, 0),
    "prompt_refused": (InputRefusedError, 0),
    "content_refused": (InputRefusedError, 0),
}


def test_every_fault_of_a_submit_is_in_the_table() -> None:
    assert set(SUBMIT_FAULTS) == {name for name, fault in FAULTS.items() if fault.on == "submit"}


@pytest.mark.parametrize("fault", SUBMIT_FAULTS)
async def test_a_submit_that_goes_wrong_is_sent_once_and_is_a_refusal_or_a_doubt(
    simulator: LoovaSimulator, pauses: Pauses, fault: str
) -> None:
    kind, billed = SUBMIT_FAULTS[fault]
    simulator.fail(fault)
    async with client(simulator, pauses, submit_timeout=0.5 if fault == "slow_reply" else 10) as loova:
        with pytest.raises(LoovaError) as caught:
            await loova.submit_video(CITY)
    assert type(caught.value) is kind
    assert caught.value.credits_spent == ("maybe" if kind is InDoubtError else "no")
    assert simulator.ledger["totals"] | {"posted": 1, "billed": billed} == simulator.ledger["totals"]
    assert pauses == []


async def test_503_is_a_refusal_if_the_user_says_so(simulator: LoovaSimulator, pauses: Pauses) -> None:
    simulator.fail("unavailable")
    async with client(simulator, pauses, unavailable_means_refused=True) as loova:
        with pytest.raises(RejectedError):
            await loova.submit_video(CITY)
    assert simulator.ledger["totals"]["posted"] == 1


async def test_a_task_id_that_comes_with_an_error_is_a_purchase(simulator: LoovaSimulator, pauses: Pauses) -> None:
    simulator.fail(on="submit", envelope={"code": 500, "message": "Internal error"})
    async with client(simulator, pauses) as loova:
        bought = await loova.submit_video(CITY)
    assert bought.task_id == simulator.ledger["tasks"][0]["task_id"]


POLL_FAULTS: dict[str, tuple[str, list[float]]] = {
    "contradiction": ("succeeded", []),
    "unknown_status": ("running", []),
    "success_without_url": ("succeeded", []),
    "generation_failed": ("failed", []),
    "content_refused_output": ("failed", []),
    "task_forgotten": ("TaskNotFoundError", []),
    "poll_without_data": ("UnexpectedResponseError", []),
    "poll_unavailable": ("succeeded", [1.0]),
    "poll_lost": ("succeeded", [0.5]),
}


def test_every_fault_of_a_poll_is_in_the_table() -> None:
    assert set(POLL_FAULTS) == {name for name, fault in FAULTS.items() if fault.on == "poll"}


@pytest.mark.parametrize("fault", POLL_FAULTS)
async def test_a_poll_that_fails_is_retried_or_raises_an_error(
    simulator: LoovaSimulator, pauses: Pauses, fault: str
) -> None:
    outcome, most = POLL_FAULTS[fault]
    simulator.fail(fault)
    async with client(simulator, pauses) as loova:
        task_id = (await loova.submit_video(CITY)).task_id
        simulator.advance(61)
        try:
            task = await loova.get_task(task_id)
        except UnexpectedResponseError as error:
            assert type(error).__name__ == outcome
            assert error.task_id == task_id
        else:
            assert task.state == outcome
            assert (task.video_url is None) == (outcome != "succeeded" or fault == "success_without_url")
            assert bool(task.error_message) == (outcome == "failed")
            assert task.content_refused == (fault == "content_refused_output")
    assert len(pauses) == len(most)
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, most, strict=True))


async def test_a_task_of_another_account_is_not_found(simulator: LoovaSimulator, pauses: Pauses) -> None:
    async with client(simulator, pauses) as loova:
        with pytest.raises(TaskNotFoundError):
            await loova.get_task("a b/c?d=é")
