"""Gates by name, and gates that are deployed flows: served by a process of their own, at a real Prefect server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from prefect_loova import GateInput, QualityGate, Verdict, VideoRequest, generate_video
from prefect_loova._prefect.gates import DeployedGate, check_deployed, parse_gate
from prefect_loova.batches.gates import judge, name_of
from prefect_loova.errors import InvalidRequestError
from prefect_loova.gates import SHIPPED, BlackFrames
from prefect_loova.models.results import SavedVideo
from tests.integration.test_deployment import serve
from tests.support.docs_blocks import GUIDES, example, to_run
from tests.unit.models.test_gates import VIDEO

pytestmark = [pytest.mark.takes, pytest.mark.one_s3_server]

SERVE = """
import time

from prefect import flow, serve
from prefect.states import Completed, State
from prefect_loova import GateInput


@flow
def small(video: GateInput) -> State:
    if video.facts.width > 1000:
        return Completed(name="Accept")
    return Completed(name="Reject", message=f"{video.request['prompt']}: {video.facts.width} pixels are too few")


@flow
def poster(video: GateInput) -> State:
    is_jpeg = all(one.startswith(b"\\xff\\xd8") for one in video.posters)
    return Completed(name="Retake", message=f"{len(video.posters)} posters") if is_jpeg else Completed(name="Accept")


@flow
def silent(video: GateInput) -> str:
    return "reject"


@flow
def fails(video: GateInput) -> State:
    raise ValueError("no model at https://models.example.com/v1?key=secret")


@flow
def sleeps(video: GateInput) -> State:
    time.sleep(300)


@flow
def deaf(film: str) -> None: ...


if __name__ == "__main__":
    serve(*(one.to_deployment("gate") for one in (small, poster, silent, fails, sleeps, deaf)))
"""


@pytest.fixture(scope="module")
def served(prefect_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from serve(SERVE, tmp_path_factory.mktemp("gates"))


async def until_deployed(name: str) -> QualityGate:
    async with asyncio.timeout(60), get_client() as client:
        while True:
            try:
                await client.read_deployment_by_name(name)
                return parse_gate(name)
            except ObjectNotFound:
                await asyncio.sleep(0.5)


@pytest.fixture
async def deployed(served: None) -> None:
    for name in ("small", "poster", "silent", "fails", "sleeps", "deaf"):
        await until_deployed(f"{name}/gate")


async def last_run_of(deployment: str) -> FlowRun:
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        (run,) = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])),
            sort="EXPECTED_START_TIME_DESC",
            limit=1,
        )
        return run


@pytest.fixture
async def saved(prefect_server, place) -> SavedVideo:
    request = VideoRequest(prompt="a red kite", duration=4)
    return await generate_video(request, place.credentials, place.bucket, poll_seconds=0.1, preview="none")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        ("small/gate", Verdict(what="reject", reason="a red kite: 128 pixels are too few", gate="small/gate")),
        ("poster/gate", Verdict(what="retake", reason="3 posters", gate="poster/gate")),
    ],
)
async def test_a_deployed_flow_answers_by_its_final_state(deployed, place, saved, gate: str, verdict: Verdict) -> None:
    gates = [parse_gate("black"), parse_gate(gate)]
    await check_deployed(gates)
    async with place.open() as jobs:
        assert await judge(jobs, saved, gates, max_seconds=90) == verdict
    run = await last_run_of(gate)
    assert run.name == saved.name
    assert run.state is not None and (run.state.name, run.state.is_completed()) == (verdict.what.title(), True)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("gate", "why"),
    [
        ("silent/gate", 'ended as Completed, which is no verdict: end it with `return Completed(name="Reject"'),
        ("fails/gate", "ended as Failed: Flow run encountered an exception: ValueError: no model at"),
    ],
)
async def test_a_deployed_flow_without_a_verdict_rejects_nothing(deployed, place, saved, gate: str, why: str) -> None:
    async with place.open() as jobs:
        verdict = await judge(jobs, saved, [parse_gate(gate)], max_seconds=90)
    assert verdict.what == "accept"
    assert verdict.reason.startswith(f"not judged by gate {gate} (") and why in verdict.reason
    assert "secret" not in verdict.reason


@pytest.mark.processes
async def test_a_deployed_flow_that_takes_too_long_is_cancelled(deployed, place, saved) -> None:
    async with place.open() as jobs:
        verdict = await judge(jobs, saved, [parse_gate("sleeps/gate")], max_seconds=12)
    assert verdict == Verdict(what="accept", reason="not judged by gate sleeps/gate (it took longer than 12 s)")
    async with asyncio.timeout(60):
        while not (state := (await last_run_of("sleeps/gate")).state) or not state.is_cancelled():
            await asyncio.sleep(0.5)


@pytest.mark.processes
async def test_a_deployed_gate_in_a_flow_is_its_subflow(deployed) -> None:
    @flow
    async def judging() -> Verdict:
        return await DeployedGate("small/gate")(VIDEO)

    assert await judging() == Verdict.accept()
    assert (await last_run_of("small/gate")).parent_task_run_id is not None


@pytest.mark.processes
async def test_a_deployment_that_is_missing_or_takes_no_video_is_refused_before_anything_is_paid(deployed) -> None:
    await check_deployed([DeployedGate("small/gate"), BlackFrames()])
    with pytest.raises(InvalidRequestError, match="there is no deployment 'small/nothing'"):
        await check_deployed([DeployedGate("small/nothing")])
    with pytest.raises(InvalidRequestError, match="'deaf/gate' has no parameter 'video'"):
        await check_deployed([DeployedGate("deaf/gate")])


@pytest.fixture
def served_as_shown(prefect_server, tmp_path: Path) -> Iterator[None]:
    yield from serve(to_run("quality-gates.md", "python")[3], tmp_path)


@pytest.mark.processes
async def test_a_flow_is_served_as_a_gate_as_shown(served_as_shown) -> None:
    gate = await until_deployed("looks-right/gate")
    assert await gate(VIDEO) == Verdict.accept()
    still = VIDEO.model_copy(update={"facts": VIDEO.facts.model_copy(update={"frozen_seconds": 2})})
    assert await gate(still) == Verdict.reject("the picture does not move")


def test_the_guides_list_of_gates_is_taken() -> None:
    gates = [parse_gate(gate) for gate in example("quality-gates.md", 0)["gates"]]
    assert [name_of(gate) for gate in gates] == ["frozen", "duration", "black", "silent"]


def test_the_guides_own_gate_judges_by_loudness() -> None:
    loud_enough = example("quality-gates.md", 1)["loud_enough"]
    for loudness, what in ((None, "retake"), (-30.0, "retake"), (-20.0, "accept")):
        facts = VIDEO.facts.model_copy(update={"loudness": loudness})
        assert loud_enough(VIDEO.model_copy(update={"facts": facts})).what == what


def test_the_guides_stub_of_a_model_says_that_it_is_one_and_is_asked() -> None:
    names = example("quality-gates.md", 2)
    assert names["stub_model"].__doc__.startswith("A stub")
    assert names["shows_what_was_asked_for"](VIDEO) == Verdict.accept()
    saved = VIDEO.saved.model_copy(update={"request": {"prompt": "a zebra"}})
    assert names["shows_what_was_asked_for"](VIDEO.model_copy(update={"saved": saved})).what == "reject"


def test_the_guide_names_the_shipped_gates_and_their_limits() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| `(\w+)` \| .* `(\w+)`.* \| ([\d.]+)( s|%) \|$", GUIDES["quality-gates.md"])
    told = {name: (kind, float(limit) / (100 if unit == "%" else 1), field) for name, kind, field, limit, unit in rows}
    assert told == {
        name: (type(gate).__name__, pytest.approx(getattr(gate, told[name][2])), told[name][2])
        for name, gate in SHIPPED.items()
    }


async def test_a_prefect_flow_in_this_process_is_a_gate_as_any_function(prefect_server, place, saved) -> None:
    @flow
    async def looks(video: GateInput) -> Verdict:
        return Verdict.retake(f"{video.request['prompt']} is blue")

    @flow
    def looks_in_sync_code(video: GateInput) -> Verdict:
        return Verdict.reject(f"{video.request['prompt']} is green")

    async with place.open() as jobs:
        verdicts = [await judge(jobs, saved, [parse_gate(gate)]) for gate in (looks, looks_in_sync_code)]
    assert [(one.what, one.reason, one.gate) for one in verdicts] == [
        ("retake", "a red kite is blue", "looks"),
        ("reject", "a red kite is green", "looks-in-sync-code"),
    ]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_gate_is_found_by_its_name(name: str) -> None:
    assert parse_gate(name) is SHIPPED[name]


def test_other_gates_are_taken_as_they_are() -> None:
    def mine(video: GateInput) -> Verdict:
        return Verdict.accept()

    gates: list[QualityGate] = [mine, BlackFrames(seconds=3)]
    assert [parse_gate(gate) for gate in gates] == gates
    assert parse_gate("looks-right/gate") == DeployedGate("looks-right/gate")


@pytest.mark.parametrize("given", ["blakc", "", "a/", "/b", "a/b/c", 5, None, BlackFrames])
def test_what_is_no_gate_is_refused_with_the_names(given: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^gates: ") as refused:
        parse_gate(given)  # type: ignore[arg-type]
    names = "BlackFrames()" if given is BlackFrames else "'black', 'frozen', 'silent', 'duration', 'ratio'"
    assert names in str(refused.value)
