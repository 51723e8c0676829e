"""Run one coroutine function over many items, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from prefect_loova._cancellation import task_group

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_bounded(function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], limit: int) -> list[Result]:
    """Call `function` with each item and return the results in the order of the items.

    The first error cancels the calls that still run and is raised as itself; the other items are not started.

    Args:
        function: Called once for each item.
        items: The arguments.
        limit: How many calls may run at the same time.
    """
    numbered = list(enumerate(items))
    pending = iter(numbered)
    results: dict[int, Result] = {}

    async def work() -> None:
        for number, item in pending:
            results[number] = await function(item)

    async with task_group() as group:
        for _ in range(min(limit, len(numbered))):
            group.create_task(work())
    return [results[number] for number, _ in numbered]
