"""Who is at work on the one request, what may go wrong, and the state that all of it is in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from prefect_loova.jobs.collect import collect
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.decide import decide
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.job_record import Decision, DecisionName
from tests.support.protocol.roles import Node, Role
from tests.support.protocol.runs import FOR_EVER, POST_TICKS, Work
from tests.support.protocol.world import REQUEST, Answer, Call, World


async def submit(jobs: VideoJobs) -> str:
    """What a worker does."""
    submission = await submit_video(jobs, REQUEST, max_wait=FOR_EVER)
    return f"{submission.state} {submission.task_id}"


async def submit_twice_at_most(jobs: VideoJobs) -> str:
    """What a worker does that buys once more when Loova fails."""
    submission = await submit_video(jobs, REQUEST, max_wait=FOR_EVER, max_paid_attempts=2)
    return f"{submission.state} {submission.task_id}"


async def one_pass(jobs: VideoJobs) -> str:
    """What a collector does in one pass. The video's host is refused, so that it takes the lease and gives it back."""
    await collect(jobs)
    return "passed"


@cache
def person(name: str, what: DecisionName, attempt: int, task_id: str | None) -> Role:
    """A person who has looked at an attempt in doubt, and decides about it."""

    async def work(jobs: VideoJobs) -> str:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        decision = Decision(what=what, who="a person", when=now, why=f"about attempt {attempt}")
        record = await decide(jobs, REQUEST.key, decision, task_id, attempt=attempt)
        return f"decided: {record.state}"

    return Role(name, work)


@dataclass(frozen=True)
class Scenario:
    """Who is at work, and what may go wrong.

    Attributes:
        name: What the counts are shown under.
        workers: How many ask for the video; they are alike.
        collectors: How many passes of a collector there are.
        persons: What persons decide, each about the first attempt in doubt that they see.
        work: What a worker does.
        faults: How many things go wrong at most.
        refusals: How many submits Loova refuses at most.
        kinds: What may go wrong: a `crash`, a `lost` request or reply, a `late` answer or a slow process.
        fails: Whether Loova makes no video of any task.
        paid_attempts: How often a worker may buy.
        most_depth: How many steps at most, or None for all.
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
    most_depth: int | None = None


class Actor(NamedTuple):
    """One of those at work, somewhere."""

    node: Node | None
    """Where in the code; None before it begins."""
    alive: bool = True
    held: Answer | None = None
    """An answer that was sent, while the process is stopped or the network slow."""
    ticks: int = 0
    """How long the POST waits."""
    slow: bool = False
    """Whether time may pass while it is at something: it was stopped, or what it sends is on its way for long."""
    about: int = 0
    """The attempt that the POST is of."""

    @property
    def is_over(self) -> bool:
        """Whether nothing comes from it any more."""
        return not self.alive or (self.node is not None and self.node.ended is not None)

    @property
    def posts(self) -> bool:
        """Whether it waits for the answer to a submit."""
        return self.alive and self.node is not None and any(call.name == "post" for call in self.node.calls)

    @property
    def may_wait(self) -> bool:
        """Whether time may pass here."""
        if self.node is None or self.is_over or self.held is not None:
            return True
        if self.posts:
            return self.ticks < POST_TICKS
        return self.slow or self.node.rests


class State(NamedTuple):
    """Everything that decides what may happen next."""

    world: World
    actors: tuple[Actor, ...]
    floating: tuple[Call, ...]
    """What was sent and may arrive yet, or never; nobody waits for its answer."""
    faults: int
    refusals: int
