"""An actor of a scenario, and all positions in its code that the search has reached.

A coroutine cannot be copied, but its next step depends only on the answers that it got. So a `Node` is a position
in the code that a new run reaches with the same answers. Two runs whose suspended frames have the same values are at
the same node, which makes a search over all orders finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.protocol.runs import Event, Live, Work
from tests.support.protocol.world import Call, template

_KEPT_LIVE = 3000


class Role:
    """An actor's code, and all nodes in it that the search has reached.

    Args:
        name: Letters. The random tokens of the actor have this name.
        work: The real code.
        fails: Whether Loova fails to make the video.
    """

    def __init__(self, name: str, work: Work, *, fails: bool = False) -> None:
        self.name = name
        self.work = work
        self.fails = fails
        self.nodes: dict[Any, Node] = {}
        self.runs = 0
        self.merged: list[tuple[Node, Node, Event]] = []
        """Nodes that were reached again on another path, with the last node and event of that path."""
        self._live: dict[Node, Live] = {}
        self.root = self._node(self._started(), None, ())

    def _started(self) -> Live:
        self.runs += 1
        return Live(self.name, self.work, self.fails)

    def next(self, node: Node, event: Event) -> Node:
        """Return the node after an answer or a time step."""
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
        return live.position(), calls, live.task_ids, live.drawn, live.rests

    def _node(self, live: Live, before: Node | None, event: Event) -> Node:
        key = self._key(live)
        if key in self.nodes:
            live.close()
            if before is not None:
                self.merged.append((self.nodes[key], before, event))
            return self.nodes[key]
        ended = live.outcome if live.task.done() else None
        position, calls, task_ids, _, rests = key
        node = Node(
            self,
            key,
            before,
            event,
            calls,
            ended,
            task_ids,
            rests,
            *template(f"{position}\n{calls}\n{task_ids}\n{rests}"),
        )
        self.nodes[key] = node
        if ended is None:
            self._live[node] = live
            if len(self._live) > _KEPT_LIVE:
                self._live.pop(next(iter(self._live))).close()
        else:
            live.close()
        return node

    def divergences(self, most: int) -> Iterator[str]:
        """Replay some of the merged paths, and yield where one continues differently than its node."""
        for node, before, event in self.merged[:: max(1, len(self.merged) // most)]:
            for following, after in list(node.next.items()):
                live = self._started()
                for earlier in [*before.history(), event, following]:
                    live.after(earlier)
                if self._key(live) != after.key:
                    yield f"{self.name} after {following}:\n{self._key(live)}\nand not\n{after.key}"
                live.close()

    def close(self) -> None:
        """Close all runs."""
        for live in self._live.values():
            live.close()
        self._live.clear()


@dataclass(eq=False, repr=False)
class Node:
    """A position in the code of a role, and the answers that lead there."""

    role: Role
    key: Any
    before: Node | None
    event: Event
    calls: tuple[Call, ...]
    ended: str | None
    task_ids: tuple[str, ...]
    rests: bool
    """Whether it slept before it sent this call, so time may pass."""
    number: int
    tokens: tuple[str, ...]
    next: dict[Event, Node] = field(default_factory=dict)

    def history(self) -> list[Event]:
        """Return the events that lead here."""
        events: list[Event] = []
        node: Node | None = self
        while node is not None and node.before is not None:
            events.append(node.event)
            node = node.before
        return events[::-1]
