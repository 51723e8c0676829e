"""The actors that work on one request, the faults that may happen, and the state of a search."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from prefect_loova.errors import TransferError, WaitTimeoutError
from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.decisions import decide
from prefect_loova.jobs.former_keys import find_record
from prefect_loova.jobs.handover import HANDOVER, Handover
from prefect_loova.jobs.save import save_video
from prefect_loova.jobs.submit import submit_video
from prefect_loova.jobs.wait import wait_for_video
from prefect_loova.models.attempts import Decision, DecisionName
from tests.support.protocol.roles import Node, Role
from tests.support.protocol.runs import FOR_EVER, POST_TICKS, Work
from tests.support.protocol.world import REQUEST, Answer, Call, World


async def submit(jobs: VideoJobs) -> str:
    """Submit the request, as a worker does."""
    submission = await submit_video(jobs, REQUEST, max_wait=FOR_EVER)
    return f"{submission.state} {submission.task_id}"


async def submit_twice_at_most(jobs: VideoJobs) -> str:
    """Submit the request, and once more if Loova fails to make the video."""
    submission = await submit_video(jobs, REQUEST, max_wait=FOR_EVER, max_paid_attempts=2)
    return f"{submission.state} {submission.task_id}"


async def make(jobs: VideoJobs) -> str:
    """Look, submit, wait and save, and hand the record from step to step. The host of the video is refused."""
    handover = Handover(stored=await find_record(jobs.records, REQUEST))
    handover.is_new = handover.stored is None
    HANDOVER.set(handover)
    submission = await submit_video(jobs, REQUEST, max_wait=FOR_EVER)
    if submission.state == "submitted":
        await wait_for_video(jobs, submission, max_wait=FOR_EVER)
    with suppress(TransferError, WaitTimeoutError):
        await save_video(jobs, submission, max_wait=0)
    return f"made {submission.task_id} {handover.made}"


async def one_pass(jobs: VideoJobs) -> str:
    """Run one pass of a collector. The host of the video is refused, so it takes the lease and releases it."""
    await collect(jobs)
    return "passed"


@cache
def person(name: str, what: DecisionName, attempt: int, task_id: str | None) -> Role:
    """Return a person who decides about one attempt in doubt."""

    async def work(jobs: VideoJobs) -> str:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        decision = Decision(what=what, who="a person", when=now, why=f"about attempt {attempt}")
        record = await decide(jobs, REQUEST.key, decision, task_id, attempt=attempt)
        return f"decided: {record.state}"

    return Role(name, work)


@dataclass(frozen=True)
class Scenario:
    """The actors and the faults of a search.

    Attributes:
        name: The name in the output.
        workers: The number of workers that ask for the video. They are interchangeable.
        collectors: The number of passes of a collector.
        persons: The decision of each person, about the first attempt in doubt that the person sees.
        work: The code of a worker.
        faults: The largest number of faults.
        refusals: The largest number of submits that Loova refuses.
        kinds: The kinds of faults: a `crash`, a `lost` request or reply, a `late` answer or a slow process.
        fails: Whether Loova fails to make any video.
        paid_attempts: How often a worker may buy.
        claimed: Whether a dead worker has left a claim.
        most_depth: The largest number of steps, or None for all.
    """

    name: str
    workers: int = 2
    collectors: int = 0
    persons: tuple[DecisionName, ...] = ()
    work: Work = submit
    faults: int = 1
    refusals: int = 0
    kinds: frozenset[str] = frozenset({"crash", "lost", "late"})
    fails: bool = False
    paid_attempts: int = 1
    claimed: bool = False
    most_depth: int | None = None


class Actor(NamedTuple):
    """An actor at a node of its code."""

    node: Node | None
    """The position in the code; None before the start."""
    alive: bool = True
    held: Answer | None = None
    """An answer that was sent but has not arrived: the process is stopped, or the network is slow."""
    ticks: int = 0
    """The ticks that the POST has waited."""
    slow: bool = False
    """Whether time may pass during a call: the process was stopped, or the network is slow."""
    about: int = 0
    """The number of the attempt of the POST."""

    @property
    def is_over(self) -> bool:
        """Whether the actor has ended or was killed."""
        return not self.alive or (self.node is not None and self.node.ended is not None)

    @property
    def posts(self) -> bool:
        """Whether the actor waits for the answer to a submit."""
        return self.alive and self.node is not None and any(call.name == "post" for call in self.node.calls)

    @property
    def may_wait(self) -> bool:
        """Whether time may pass before the next step of this actor."""
        if self.node is None or self.is_over or self.held is not None:
            return True
        if self.posts:
            return self.ticks < POST_TICKS
        return self.slow or self.node.rests


class State(NamedTuple):
    """Everything that the next steps depend on."""

    world: World
    actors: tuple[Actor, ...]
    floating: tuple[Call, ...]
    """Calls that were sent and may still arrive, or never. Nobody waits for their answers."""
    faults: int
    refusals: int
