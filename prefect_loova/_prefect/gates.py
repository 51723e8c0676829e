"""Quality gates by name, and gates that are deployed flows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from prefect_loova._cancellation import run_uncancelled
from prefect_loova.errors import InvalidRequestError, LoovaError, redact
from prefect_loova.gates import SHIPPED
from prefect_loova.models.gates import GateInput, QualityGate, Verdict

PARAMETER = "video"
"""The parameter of a deployed gate: a `GateInput`."""

_POLL_SECONDS = 2.0
_CANCEL_SECONDS = 10.0
_HOW = 'end it with `return Completed(name="Reject", message="why")`, or "Retake", or "Accept"'


@dataclass(frozen=True)
class DeployedGate:
    """A gate that is a deployed flow. It answers by the name and the message of its final state.

    The state reaches every caller. A flow's result does not: it needs a result storage that worker and caller share.

    Args:
        name: The deployment, as `flow-name/deployment-name`.
    """

    name: str

    async def __call__(self, video: GateInput) -> Verdict:
        """Run the flow and return its verdict. If this is cancelled, the run is cancelled too.

        Raises:
            LoovaError: The flow failed, or ended without a verdict.
        """
        parameters = {PARAMETER: video.model_dump(mode="json")}
        run = await arun_deployment(self.name, parameters=parameters, timeout=0, flow_run_name=video.saved.name)
        try:
            return _verdict_of(await _ended(run.id))
        except asyncio.CancelledError:
            await run_uncancelled(_cancel(run.id))
            raise


def parse_gate(given: str | QualityGate) -> QualityGate:
    """Return a gate by its name, or the given gate.

    Args:
        given: A gate, the name of a shipped one, or a deployment as `flow-name/deployment-name`.

    Raises:
        InvalidRequestError: It is none of these. The message lists the names.
    """
    names = ", ".join(map(repr, SHIPPED))
    rule = (
        f"give {names}, a deployment as 'flow-name/deployment-name', or a function that takes a GateInput and returns "
        "a Verdict"
    )
    if isinstance(given, str):
        if given in SHIPPED:
            return SHIPPED[given]
        flow, slash, deployment = given.partition("/")
        if slash and flow.strip() and deployment.strip() and "/" not in deployment:
            return DeployedGate(given)
        raise InvalidRequestError(f"gates: {redact(given, 80)!r} is no gate; {rule}")
    if isinstance(given, type):
        raise InvalidRequestError(
            f"gates: {given.__name__} is a class; give an object of it, such as {given.__name__}()"
        )
    if not callable(given):
        raise InvalidRequestError(f"gates: a {type(given).__name__} is no gate; {rule}")
    return given


async def check_deployed(gates: Iterable[QualityGate]) -> None:
    """Check, before anything is paid, that the deployments of gates exist and take a video.

    Raises:
        InvalidRequestError: Names the deployment.
    """
    async with get_client() as client:
        for name in {gate.name: None for gate in gates if isinstance(gate, DeployedGate)}:
            try:
                deployment = await client.read_deployment_by_name(name)
            except ObjectNotFound:
                raise InvalidRequestError(f"gates: there is no deployment {redact(name, 120)!r}") from None
            if PARAMETER not in (deployment.parameter_openapi_schema or {}).get("properties", {}):
                raise InvalidRequestError(
                    f"gates: the flow of {redact(name, 120)!r} has no parameter {PARAMETER!r}; it must take a GateInput"
                )


async def _ended(run_id: UUID) -> FlowRun:
    async with get_client() as client:
        while True:
            run = await client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                return run
            await asyncio.sleep(_POLL_SECONDS)


async def _cancel(run_id: UUID) -> None:
    async with asyncio.timeout(_CANCEL_SECONDS), get_client() as client:
        await client.set_flow_run_state(run_id, Cancelling(message="its caller does not wait for the verdict any more"))


def _verdict_of(run: FlowRun) -> Verdict:
    state = run.state
    assert state is not None  # noqa: S101
    name, message = str(state.name), (state.message or "").strip()
    if not state.is_completed():
        raise LoovaError(f"its flow run {run.name!r} ended as {name}: {redact(message)}")
    match name.strip().lower():
        case "accept":
            return Verdict.accept()
        case "reject" | "retake" as what:
            return Verdict(what=what, reason=message or "its flow gave no reason")
    raise LoovaError(f"its flow run {run.name!r} ended as {name}, which is no verdict: {_HOW}")
