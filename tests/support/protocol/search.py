"""Search all orders of the requests of several workers, with a bounded number of faults. Each state is visited once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.support.protocol.promises import LOST, Finish, submit_violation, tasks, violations, violations_at_end
from tests.support.protocol.roles import Role
from tests.support.protocol.runs import ORIGIN, named_tokens
from tests.support.protocol.scenario import Actor, Scenario, State, one_pass, person
from tests.support.protocol.world import OPEN, RECORD, Answer, Call, World, left_after_a_claim, parse_record, template

REFUSALS: tuple[Answer, ...] = (("rejected",), ("not sent",), ("no place",))


class BrokenPromiseError(AssertionError):
    """A state that violates an invariant, and the steps that lead to it."""


@dataclass
class SearchResult:
    """The counts and the outcomes of a search."""

    scenario: Scenario
    states: int = 0
    transitions: int = 0
    terminal: int = 0
    nodes: int = 0
    runs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    divergences: list[str] = field(default_factory=list)
    """Runs that continued differently than others at the same node."""

    def __str__(self) -> str:
        counts = f"{self.states:,} states, {self.transitions:,} transitions, {self.terminal:,} ends"
        nodes = f"{self.nodes:,} positions in the code from {self.runs:,} runs"
        ends = "".join(f"\n    {count:7,} {name}" for name, count in self.outcomes.most_common())
        return f"{self.scenario.name}: {counts}; {nodes}{ends}"


class Search:
    """A search over all states that a scenario can reach."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.roles = [Role("ABCDEFG"[n], scenario.work, fails=scenario.fails) for n in range(scenario.workers)]
        self.roles += [Role(f"Pass{'ABC'[n]}", one_pass, fails=scenario.fails) for n in range(scenario.collectors)]
        self.result = SearchResult(scenario)
        self._parents: dict[Any, tuple[Any, str]] = {}
        with named_tokens():
            self._finish = Finish()

    def run(self) -> SearchResult:
        """Visit each state once.

        Raises:
            BrokenPromiseError: A state violates an invariant.
        """
        with named_tokens():
            self._run()
            for role in self.roles:
                self.result.nodes += len(role.nodes)
                self.result.runs += role.runs
                self.result.divergences += list(role.divergences(most=200))
                role.close()
        return self.result

    def _run(self) -> None:
        actors = [Actor(role.root) for role in self.roles] + [Actor(None) for _ in self.scenario.persons]
        world = left_after_a_claim(ORIGIN) if self.scenario.claimed else World()
        first = State(world, tuple(actors), (), self.scenario.faults, self.scenario.refusals)
        key = self._key(first)
        self._parents[key] = (None, "")
        level = [(first, key)]
        depth = 0
        while level and (self.scenario.most_depth is None or depth < self.scenario.most_depth):
            after, depth = [], depth + 1
            for state, key in level:
                self.result.states += 1
                for label, following in self._explain_failures(self._steps(state), key):
                    self.result.transitions += 1
                    at = self._key(following)
                    if at in self._parents:
                        continue
                    self._parents[at] = (key, label)
                    self._check(state, following, at)
                    after.append((following, at))
            level = after

    def _explain_failures(self, steps: Iterator[tuple[str, State]], key: Any) -> Iterator[tuple[str, State]]:
        try:
            yield from steps
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{self.scenario.name}: {error}, after\n{self._way(key)}") from None

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        for n, actor in enumerate(state.actors):
            if actor.is_over:
                continue
            if actor.node is None:
                yield from self._begin(state, n)
            elif actor.held is not None:
                yield (
                    f"{self._name(n)} has its late answer, {actor.held[0]}",
                    self._answered(state, n, 0, actor.held, state.world),
                )
            else:
                yield from self._calls(state, n, actor)
        for n, call in enumerate(state.floating):
            world, _ = state.world.apply(call)
            left = state.floating[:n] + state.floating[n + 1 :]
            yield f"arrives late: {_shown(call)}", state._replace(world=world, floating=left)
        if all(actor.may_wait for actor in state.actors):
            actors = tuple(self._older(actor) for actor in state.actors)
            yield "time passes", state._replace(world=state.world.older(), actors=actors)

    def _calls(self, state: State, n: int, actor: Actor) -> Iterator[tuple[str, State]]:
        assert actor.node is not None
        name, kinds = self._name(n), self.scenario.kinds
        for at, call in enumerate(actor.node.calls):
            world, answer = state.world.apply(call)
            yield f"{name}: {_shown(call)}: {answer[0]}", self._answered(state, n, at, answer, world)
            if call.name == "post" and state.refusals:
                for refusal in REFUSALS:
                    refused = state._replace(refusals=state.refusals - 1)
                    yield f"{name}: {refusal[0]}", self._answered(refused, n, at, refusal, state.world)
            if not state.faults:
                continue
            disturbed = state._replace(faults=state.faults - 1)
            # A DELETE has no condition, so a late one cannot be refused.
            floating = (*state.floating, call) if call.name != "delete" else state.floating
            if "lost" in kinds and call.writes:
                for what, there in ((f"lost: {_shown(call)}", state.world), (f"{_shown(call)}: reply lost", world)):
                    if there is state.world or call.name == "delete":
                        lost = disturbed._replace(floating=floating if there is state.world else state.floating)
                        yield f"{name}: {what}", self._answered(lost, n, at, LOST, there)
            if "late" in kinds and (call.name == "post" or call.key == RECORD):
                held = actor._replace(held=answer, slow=True)
                yield f"{name}: {_shown(call)}: the answer takes long", _with(disturbed._replace(world=world), n, held)
        if state.faults and "late" in kinds and not actor.node.rests and not actor.posts:
            yield f"{name} is slow", _with(state._replace(faults=state.faults - 1), n, actor._replace(slow=True))
        if state.faults and "crash" in kinds:
            floating = state.floating + tuple(c for c in actor.node.calls if c.writes and c.name != "delete")
            dead = state._replace(faults=state.faults - 1, floating=floating)
            yield f"{name} is killed", _with(dead, n, Actor(actor.node, alive=False))

    def _begin(self, state: State, n: int) -> Iterator[tuple[str, State]]:
        what = self.scenario.persons[n - len(self.roles)]
        record = state.world.record
        doubt = record.undecided if record else None
        if record is None or doubt is None:
            return
        unknown = [task for task in state.world.billed if task not in tasks(record)]
        if what == "adopt" and not unknown:
            return
        role = person(self._name(n), what, doubt.number, unknown[0] if what == "adopt" else None)
        yield f"{self._name(n)}: {what} attempt {doubt.number}", _with(state, n, Actor(role.root))

    def _answered(self, state: State, n: int, at: int, answer: Answer, world: World) -> State:
        before = state.actors[n]
        assert before.node is not None
        node = before.node.role.next(before.node, ("answer", at, answer))
        actor = Actor(node, slow=before.slow)
        if actor.posts:
            if problem := submit_violation(self._name(n), world):
                raise BrokenPromiseError(problem)
            assert world.record is not None
            actor = actor._replace(about=len(world.record.attempts))
        return _with(state._replace(world=world), n, actor)

    def _older(self, actor: Actor) -> Actor:
        if actor.node is None or actor.is_over:
            return actor
        node = actor.node.role.next(actor.node, ("tick",))
        return actor._replace(node=node, ticks=actor.ticks + 1 if actor.posts and actor.held is None else 0)

    def _check(self, before: State, state: State, key: Any) -> None:
        try:
            for problem in violations(self.scenario, before, state):
                raise BrokenPromiseError(problem)
            if all(actor.is_over or actor.node is None for actor in state.actors):
                self.result.terminal += 1
                for problem in violations_at_end(state):
                    raise BrokenPromiseError(problem)
                if not self.scenario.fails and (problem := self._finish.broken(state.world)):
                    raise BrokenPromiseError(problem)
                self.result.outcomes[self._outcome(state)] += 1
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"{self.scenario.name}: {error}\n{self._way(key)}") from None

    def _outcome(self, state: State) -> str:
        record = state.world.record
        ends = sorted(
            "not begun" if actor.node is None else "killed" if not actor.alive else str(actor.node.ended)
            for actor in state.actors
        )
        stands = " ".join(f"{one.state}" for one in record.attempts) if record else "no record"
        return f"{stands}, {len(state.world.billed)} billed: {'; '.join(ends)}"

    def _way(self, key: Any) -> str:
        steps = []
        while key is not None:
            key, label = self._parents[key]
            steps.append(label)
        return "\n".join(f"  {n}. {step}" for n, step in enumerate(steps[-2::-1], 1))

    def _name(self, n: int) -> str:
        if n < len(self.roles):
            return self.roles[n].name
        return "Person" + "ABC"[n - len(self.roles)]

    def _key(self, state: State) -> Any:
        """Return the state without the names of tokens and of interchangeable workers."""
        parts = [_actor_parts(actor) for actor in state.actors]
        world = _world_parts(state.world)
        floating = [template(repr(call)) for call in state.floating]
        count = self.scenario.workers
        order = sorted(range(count), key=lambda n: parts[n][0])
        orders: list[Any] = [order]
        if len({parts[n][0] for n in order}) < count:
            orders = [
                list(some)
                for some in itertools.permutations(range(count))
                if [parts[n][0] for n in some] == [parts[n][0] for n in order]
            ]
        rest = parts[count:]
        return min(
            _rename([*(parts[n] for n in some), *rest, *world, *floating], (state.faults, state.refusals))
            for some in orders
        )


def _actor_parts(actor: Actor) -> tuple[Any, tuple[str, ...]]:
    if actor.node is None:
        return (-1,), ()
    if not actor.alive:
        return (-2,), ()
    held, tokens = template(repr(actor.held))
    return (actor.node.number, actor.ticks, actor.slow, actor.about, held), (*actor.node.tokens, *tokens)


@cache
def _world_parts(world: World) -> list[tuple[Any, tuple[str, ...]]]:
    found: list[tuple[Any, tuple[str, ...]]] = []
    for name, stored in world.objects:
        number, tokens = template(stored.body)
        found.append(((name, number, stored.age), tokens))
    found += [((key,), (token,)) for token, key in world.uploads]
    return [*found, ((len(world.billed),), ())]


def _rename(parts: list[tuple[Any, tuple[str, ...]]], left: tuple[int, int]) -> tuple[Any, ...]:
    names: dict[str, int] = {}
    flat: list[Any] = [*left]
    for number, tokens in parts:
        flat.append(str(number))
        flat += [str(names.setdefault(token, len(names))) for token in tokens]
    return tuple(map(str, flat))


def _with(state: State, n: int, actor: Actor) -> State:
    return state._replace(actors=(*state.actors[:n], actor, *state.actors[n + 1 :]))


def _shown(call: Call) -> str:
    names = {RECORD: "record", OPEN: "_open"}
    what = f"{call.name} {names.get(call.key, call.key)}".strip()
    if call.key == RECORD and call.body:
        what += f" {'/'.join(one.state for one in parse_record(call.body).attempts)}"
    return what
