"""Somebody at work, and every place in the code that was reached so far.

A coroutine cannot be copied, but what it does next depends on its answers alone. So a `Node` is a place in the code,
found again by giving the same answers to a new run. Two runs whose suspended frames hold the same values are in one
place: that is what makes a search over all orders end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.protocol.runs import Event, Live, Work
from tests.support.protocol.world import Call, template

_KEPT_LIVE = 3000


class Role:
    """Somebody at work: what they do, and every place in it that was reached so far.

    Args:
        name: Letters; the tokens that it draws bear its name.
        work: The real code.
        fails: Whether Loova makes no video.
    """

    def __init__(self, name: str, work: Work, *, fails: bool = False) -> None:
        self.name = name
        self.work = work
        self.fails = fails
        self.nodes: dict[Any, Node] = {}
        self.runs = 0
        self.merged: list[tuple[Node, Node, Event]] = []
        """Places that were found again on another way: the place, and where that way came from."""
        self._live: dict[Node, Live] = {}
        self.root = self._node(self._started(), None, ())

    def _started(self) -> Live:
        self.runs += 1
        return Live(self.name, self.work, self.fails)

    def next(self, node: Node, event: Event) -> Node:
        """Where a run is after an answer or a step of time."""
        if event not in node.next:
            live = self._live.pop(node, None)
            if live is None:
                live = self._started()
                for earlier in node.history():
                    live.after(earlier)
            live.after(event)
            node.next[event] = self._node(live, node, event)
        return node.next[event]

    def _key(self, live: Live) -> Any:
        calls = tuple(pending.call for pending in live.pending)
        return live.place(), calls, live.told, live.drawn, live.rests

    def _node(self, live: Live, before: Node | None, event: Event) -> Node:
        key = self._key(live)
        if key in self.nodes:
            live.close()
            if before is not None:
                self.merged.append((self.nodes[key], before, event))
            return self.nodes[key]
        ended = live.outcome if live.task.done() else None
        place, calls, told, _, rests = key
        node = Node(
            self, key, before, event, calls, ended, told, rests, *template(f"{place}\n{calls}\n{told}\n{rests}")
        )
        self.nodes[key] = node
        if ended is None:
            self._live[node] = live
            if len(self._live) > _KEPT_LIVE:
                self._live.pop(next(iter(self._live))).close()
        else:
            live.close()
        return node

    def unlike(self, most: int) -> Iterator[str]:
        """What a run does otherwise than the one that was in the same place before; asked of some of them."""
        for node, before, event in self.merged[:: max(1, len(self.merged) // most)]:
            for following, after in list(node.next.items()):
                live = self._started()
                for earlier in [*before.history(), event, following]:
                    live.after(earlier)
                if self._key(live) != after.key:
                    yield f"{self.name} after {following}:\n{self._key(live)}\nand not\n{after.key}"
                live.close()

    def close(self) -> None:
        """Forget all runs."""
        for live in self._live.values():
            live.close()
        self._live.clear()


@dataclass(eq=False, repr=False)
class Node:
    """A place in the code of a role, and the answers that lead there."""

    role: Role
    key: Any
    before: Node | None
    event: Event
    calls: tuple[Call, ...]
    ended: str | None
    told: tuple[str, ...]
    rests: bool
    """Whether it waited before it sent this, so that time may pass."""
    number: int
    tokens: tuple[str, ...]
    next: dict[Event, Node] = field(default_factory=dict)

    def history(self) -> list[Event]:
        """The events that lead here."""
        events: list[Event] = []
        node: Node | None = self
        while node is not None and node.before is not None:
            events.append(node.event)
            node = node.before
        return events[::-1]
