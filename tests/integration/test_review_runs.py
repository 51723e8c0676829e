"""Deployed runs that wait for a review: nobody answers, a wrong answer, and an answer that is sent twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import NotPausedError
from prefect.flow_runs import resume_flow_run
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_loova import generate_videos
from prefect_loova._prefect.context import Location
from prefect_loova.jobs.reviews import open_reviews
from tests.integration.test_batches import lister
from tests.support.prefect_server import PrefectServer

__all__ = ["lister"]

pytestmark = [pytest.mark.usefixtures("served_prefect"), pytest.mark.processes, pytest.mark.one_s3_server]


@pytest.fixture
def served_prefect(killable_prefect: PrefectServer) -> Iterator[None]:
    """A server with the service that ends the time of suspended runs. The one in Prefect's test harness has none."""
    with temporary_settings({PREFECT_API_URL: killable_prefect.api_url}):
        yield


async def created(place: Location, **parameters: Any) -> UUID:
    """A run of a deployment, with two takes of one request."""
    deployment: Any = await generate_videos.ato_deployment("reviewed", entrypoint_type=EntrypointType.MODULE_PATH)
    deployed = await deployment.aapply()
    credentials = await place.credentials.save("for-reviews", overwrite=True)
    bucket = await place.bucket.save("for-reviews", overwrite=True)
    wanted = {
        "requests": [{"prompt": "a red kite", "duration": 4, "takes": 2}],
        "credentials": {"$ref": {"block_document_id": str(credentials)}},
        "bucket": {"$ref": {"block_document_id": str(bucket)}},
        "poll_seconds": 0.1,
        "draft": "seedance_2_0_fast",
        "review": "suspend",
        "preview": "none",
    }
    async with get_client() as prefect:
        return (await prefect.create_flow_run_from_deployment(deployed, parameters=wanted | parameters)).id


async def executed(run: UUID) -> State:
    """The state of a run after a process of its own, as a worker starts it, has executed it."""
    env = dict(os.environ) | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT__FLOW_RUN_ID": str(run)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "prefect.engine", env=env)
    await asyncio.wait_for(process.wait(), 120)
    return await state_of(run)


async def state_of(run: UUID) -> State:
    async with get_client() as prefect:
        state = (await prefect.read_flow_run(run)).state
    assert state is not None
    return state


async def told(run: UUID) -> str:
    """The description of the form of a suspended run."""
    keyset = (await state_of(run)).state_details.run_input_keyset
    assert keyset
    async with get_client() as prefect:
        described = json.loads(await prefect.read_flow_run_input(run, keyset["description"]))
    return str(described).replace("\\", "")


def answer(choice: str, **more: Any) -> dict[str, Any]:
    return {"who": "Ada", "request_1": {"choice": choice, **more}}


async def test_a_review_that_nobody_answers_costs_nothing_more_and_is_kept(lister, loova):
    run = await created(lister, review_seconds=1)
    await executed(run)
    async with asyncio.timeout(60):
        while not (state := await state_of(run)).is_final():
            await asyncio.sleep(0.5)
    async with get_client() as prefect:
        assert "Suspended" in [before.name for before in await prefect.read_flow_run_states(run)]
    assert state.is_failed() and "paused and never resumed" in state.message
    assert loova.ledger["totals"]["posted"] == 2
    async with lister.open() as jobs:
        (review,) = await open_reviews(jobs)
    assert [one.video is not None for one in review.takes] == [True, True]
    again = await created(lister)
    assert (await executed(again)).name == "Suspended"
    await resume_flow_run(again, run_input=answer("take 0"))
    assert (await executed(again)).is_completed()
    assert loova.ledger["totals"]["posted"] == 3


async def test_a_re_take_that_cannot_be_made_is_asked_again_with_the_problem(lister, loova):
    run = await created(lister)
    await executed(run)
    assert "was given" not in await told(run)
    await resume_flow_run(run, run_input=answer("re-take", duration=99))
    assert (await executed(run)).name == "Suspended"
    assert "1. duration: 99 was given" in await told(run)
    assert loova.ledger["totals"]["posted"] == 2
    await resume_flow_run(run, run_input=answer("re-take", duration=5))
    assert (await executed(run)).name == "Suspended"
    assert "Choose among 3 takes of 1 request" in await told(run)
    await resume_flow_run(run, run_input=answer("drop"))
    assert (await executed(run)).is_completed()
    assert [task["request"]["duration"] for task in loova.ledger["tasks"]] == [4, 4, 5]


async def test_a_form_that_is_answered_twice_decides_once(lister, loova):
    run = await created(lister)
    await executed(run)
    await resume_flow_run(run, run_input=answer("take 1"))
    with pytest.raises(NotPausedError):
        await resume_flow_run(run, run_input=answer("drop"))
    assert (await executed(run)).is_completed()
    assert loova.ledger["totals"]["posted"] == 3


async def test_an_answer_without_a_decision_or_a_name_is_refused(lister, loova):
    run = await created(lister)
    await executed(run)
    for wrong in ({"who": "Ada"}, {"who": "", "request_1": {"choice": "take 0"}}, answer("take 7")):
        with pytest.raises(RuntimeError):
            await resume_flow_run(run, run_input=wrong)
    assert (await state_of(run)).name == "Suspended"
    assert loova.ledger["totals"]["posted"] == 2
