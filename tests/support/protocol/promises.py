"""What must hold in each state, and at the end: the invariants of the crash tests."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_loova.models.job_record import JobRecord
from tests.support.protocol.roles import Role
from tests.support.protocol.runs import TICK
from tests.support.protocol.scenario import Actor, Scenario, State, one_pass, person, submit
from tests.support.protocol.world import MOST_TICKS, OPEN, RECORD, World, renamed

LOST = ("lost",)
_MOST_STEPS = 200


def broken(scenario: Scenario, before: State, state: State) -> Iterator[str]:
    """What does not hold after a step, in words."""
    record, earlier = state.world.record, before.world.record
    if len(state.world.billed) > allowed(record):
        yield f"{len(state.world.billed)} tasks are billed, and {allowed(record)} were allowed"
    for actor in state.actors:
        yield from _broken_for(actor, record)
    if record is None:
        if earlier is not None:
            yield "the record is gone"
        return
    if earlier is not None and record is not earlier:
        if gone := tasks(earlier) - tasks(record):
            yield f"the record had {gone}, and lost it"
        if len(earlier.attempts) > len(record.attempts):
            yield "the record had more attempts"
        yield from _broken_leases(before.world, earlier, record)
    for attempt in record.attempts:
        if attempt.decision is not None and attempt.decision.why != f"about attempt {attempt.number}":
            yield f"attempt {attempt.number} was decided {attempt.decision.why}"
        if attempt.state == "failed" and not scenario.fails:
            yield f"attempt {attempt.number} is failed, and Loova did not say so"


def _broken_for(actor: Actor, record: JobRecord | None) -> Iterator[str]:
    if actor.node is None:
        return
    if actor.alive and actor.node.ended is not None:
        if lost := set(actor.node.told) - tasks(record) - set(actor.node.ended.split()):
            yield f"{actor.node.role.name} was told of {lost}; neither the record nor its error has it"
    elif actor.posts and actor.held is None and record and record.attempts[actor.about - 1].state == "in_doubt":
        yield f"attempt {actor.about} is in doubt, and {actor.node.role.name} still waits within its timeout"


def _broken_leases(world: World, earlier: JobRecord, record: JobRecord) -> Iterator[str]:
    """A lease that another one's took over before its time."""
    stored = world.get(RECORD)
    for was, now in zip(earlier.attempts, record.attempts, strict=False):
        is_taken = was.saving and now.saving and now.saving.holder != was.saving.holder
        if stored and was.saving and is_taken and stored.age * TICK < was.saving.seconds:
            yield f"the lease of {was.saving.holder} is taken over while it holds"


def broken_submit(name: str, world: World) -> str | None:
    """What is wrong when somebody sends a POST, at this moment."""
    record = world.record
    if record is None or record.attempts[-1].state != "submitting":
        return f"{name} submits, and the record says {record and record.attempts[-1].state}"
    return None if record.write_id.startswith(f"<{name}") else f"{name} submits under the record of {record.write_id}"


def broken_at_the_end(state: State) -> Iterator[str]:
    """What does not hold when nobody is at work any more."""
    record = state.world.record
    if record is None or state.world.get(OPEN) is not None or any(map(_died_before_restoring, state.actors)):
        return
    if record.is_open:
        lost = [one for one in record.attempts if one.is_open and one.state != "claimed"]
        for attempt in lost[:1]:
            yield f"attempt {attempt.number} is {attempt.state}, and the index of open jobs does not know it"


def _died_before_restoring(actor: Actor) -> bool:
    """Whether it was killed between the deletion of an entry and its return (docs/decisions/0018)."""
    if actor.alive or actor.node is None:
        return False
    return any(event[-1] in (("done",), LOST) for event in actor.node.history()[-2:])


class Finish:
    """One more run that nothing disturbs, a person where there is a doubt, and a collector's pass: it has to end."""

    def __init__(self) -> None:
        self._run = Role("Run", submit)
        self._again = Role("Again", submit)
        self._pass = Role("Pass", one_pass)
        self._seen: dict[World, str | None] = {}

    def broken(self, world: World) -> str | None:
        """Why a job cannot be finished, or None."""
        world = renamed(world)
        if world not in self._seen:
            self._seen[world] = self._broken(world)
        return self._seen[world]

    def _broken(self, world: World) -> str | None:
        most = allowed(world.record)
        world = _alone(self._run, _much_later(world))
        doubt = world.record.undecided if world.record else None
        if world.record and doubt and world.record.state == "in_doubt":
            unknown = [task for task in world.billed if task not in tasks(world.record)]
            most += not unknown
            name = f"Decision{'a' if unknown else 'b'}"
            decided = person(name, "adopt" if unknown else "submit-again", doubt.number, next(iter(unknown), None))
            world = _alone(decided, world)
            world = _alone(self._again, _much_later(world))
        world = _alone(self._pass, _much_later(world))
        record = world.record
        # Without an entry (docs/decisions/0018) no collector finds it; whoever asks for the same request does.
        ended = ("succeeded", "failed", "abandoned") if world.get(OPEN) else ("submitted", "failed", "abandoned")
        if record is None or record.state not in ended:
            return f"one more run and a person do not finish it: it is {record and record.state}"
        return None if len(world.billed) <= most else f"one more run pays again: {world.billed}"


def _much_later(world: World) -> World:
    for _ in range(MOST_TICKS):
        world = world.older()
    return world


def _alone(role: Role, world: World) -> World:
    node = role.root
    for _ in range(_MOST_STEPS):
        if node.ended is not None:
            return world
        if node.rests:
            node, world = role.next(node, ("tick",)), world.older()
        world, answer = world.applied(node.calls[0])
        node = role.next(node, ("answer", 0, answer))
    raise AssertionError(f"{role.name} does not end: {node.key}")


def allowed(record: JobRecord | None) -> int:
    """How many tasks may be billed: one, and one for each time that a person risked it or a second was allowed."""
    if record is None:
        return 1
    again = sum(one.decision is not None and one.decision.what == "submit-again" for one in record.attempts)
    failed = sum(one.state == "failed" for one in record.attempts[:-1])
    return 1 + again + failed


def tasks(record: JobRecord | None) -> set[str]:
    """The tasks that a record holds."""
    if record is None:
        return set()
    back = {kept.task_id for one in record.attempts for kept in one.taken_back or ()}
    return back | {one.task_id for one in record.attempts if one.task_id}
