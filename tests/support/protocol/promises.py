"""The invariants of each state and of the end, the same as in the crash tests."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_loova.models.job_record import JobRecord
from tests.support.protocol.roles import Role
from tests.support.protocol.runs import TICK
from tests.support.protocol.scenario import Actor, Scenario, State, one_pass, person, submit
from tests.support.protocol.world import MOST_TICKS, OPEN, RECORD, World, rename_tokens

LOST = ("lost",)
_MOST_STEPS = 200


def violations(scenario: Scenario, before: State, state: State) -> Iterator[str]:
    """Yield the invariants that a step violates, in words."""
    record, earlier = state.world.record, before.world.record
    if len(state.world.billed) > allowed(record):
        yield f"{len(state.world.billed)} tasks are billed, and {allowed(record)} were allowed"
    for actor in state.actors:
        yield from _actor_violations(actor, record)
    if record is None:
        if earlier is not None:
            yield "the record is gone"
        return
    if earlier is not None and record is not earlier:
        if gone := tasks(earlier) - tasks(record):
            yield f"the record had {gone}, and lost it"
        if len(earlier.attempts) > len(record.attempts):
            yield "the record had more attempts"
        yield from _lease_violations(before.world, earlier, record)
    for attempt in record.attempts:
        if attempt.decision is not None and attempt.decision.why != f"about attempt {attempt.number}":
            yield f"attempt {attempt.number} was decided {attempt.decision.why}"
        if attempt.state == "failed" and not scenario.fails:
            yield f"attempt {attempt.number} is failed, and Loova did not say so"


def _actor_violations(actor: Actor, record: JobRecord | None) -> Iterator[str]:
    if actor.node is None:
        return
    if actor.alive and actor.node.ended is not None:
        if lost := set(actor.node.task_ids) - tasks(record) - set(actor.node.ended.split()):
            yield f"{actor.node.role.name} was told of {lost}; neither the record nor its error has it"
    elif actor.posts and actor.held is None and record and record.attempts[actor.about - 1].state == "in_doubt":
        yield f"attempt {actor.about} is in doubt, and {actor.node.role.name} still waits within its timeout"


def _lease_violations(world: World, earlier: JobRecord, record: JobRecord) -> Iterator[str]:
    """Yield each lease that another worker took over before its end."""
    stored = world.get(RECORD)
    for was, now in zip(earlier.attempts, record.attempts, strict=False):
        is_taken = was.saving and now.saving and now.saving.holder != was.saving.holder
        if stored and was.saving and is_taken and stored.age * TICK < was.saving.seconds:
            yield f"the lease of {was.saving.holder} is taken over while it holds"


def submit_violation(name: str, world: World) -> str | None:
    """Return what is wrong if this actor sends a POST now, or None."""
    record = world.record
    if record is None or record.attempts[-1].state != "submitting":
        return f"{name} submits, and the record says {record and record.attempts[-1].state}"
    return None if record.write_id.startswith(f"<{name}") else f"{name} submits under the record of {record.write_id}"


def violations_at_end(state: State) -> Iterator[str]:
    """Yield the invariants that the last state violates."""
    record = state.world.record
    if record is None or state.world.get(OPEN) is not None or any(map(_died_before_restoring, state.actors)):
        return
    if record.is_open:
        lost = [one for one in record.attempts if one.is_open and one.state != "claimed"]
        for attempt in lost[:1]:
            yield f"attempt {attempt.number} is {attempt.state}, and the index of open jobs does not know it"


def _died_before_restoring(actor: Actor) -> bool:
    """Return whether it was killed after it deleted an index entry and before it restored it (docs/decisions/0018)."""
    if actor.alive or actor.node is None:
        return False
    return any(event[-1] in (("done",), LOST) for event in actor.node.history()[-2:])


class Finish:
    """Checks that a job can be finished: by one undisturbed run, a person if it is in doubt, and a collector's pass."""

    def __init__(self) -> None:
        self._run = Role("Run", submit)
        self._again = Role("Again", submit)
        self._pass = Role("Pass", one_pass)
        self._seen: dict[World, str | None] = {}

    def broken(self, world: World) -> str | None:
        """Return why the job cannot be finished, or None."""
        world = rename_tokens(world)
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
        # Without an index entry (docs/decisions/0018) only a run with the same request finds it, not a collector.
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
        world, answer = world.apply(node.calls[0])
        node = role.next(node, ("answer", 0, answer))
    raise AssertionError(f"{role.name} does not end: {node.key}")


def allowed(record: JobRecord | None) -> int:
    """Return how many tasks may be billed: one, plus one for each "submit again" and each failed attempt."""
    if record is None:
        return 1
    again = sum(one.decision is not None and one.decision.what == "submit-again" for one in record.attempts)
    failed = sum(one.state == "failed" for one in record.attempts[:-1])
    return 1 + again + failed


def tasks(record: JobRecord | None) -> set[str]:
    """Return the task ids in a record."""
    if record is None:
        return set()
    back = {kept.task_id for one in record.attempts for kept in one.taken_back or ()}
    return back | {one.task_id for one in record.attempts if one.task_id}
