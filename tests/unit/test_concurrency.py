"""`map_bounded`: the limit, the order of the results, and what an error or a cancellation does to the other calls."""

from __future__ import annotations

import asyncio

import pytest

from prefect_loova._concurrency import map_bounded


async def test_results_keep_the_order_of_the_items():
    async def double(number: int) -> int:
        await asyncio.sleep(0.01 / (number + 1))
        return 2 * number

    assert await map_bounded(double, range(5), 5) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("items", "limit", "most"), [(10, 3, 3), (2, 3, 2), (4, 1, 1), (0, 3, 0)])
async def test_no_more_calls_run_at_a_time_than_the_limit(items, limit, most):
    running, peak, started = 0, 0, []

    async def call(number: int) -> None:
        nonlocal running, peak
        started.append(number)
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001)
        running -= 1

    assert await map_bounded(call, range(items), limit) == [None] * items
    assert (peak, started) == (most, list(range(items)))


async def test_the_first_error_is_raised_as_itself_cancels_running_calls_and_starts_no_other():
    started, cancelled = [], []

    async def call(number: int) -> None:
        started.append(number)
        if number == 1:
            await asyncio.sleep(0)
            raise KeyError("the first")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(KeyError, match="the first"):
        await map_bounded(call, range(5), 2)
    assert (started, cancelled) == ([0, 1], [0])


async def test_a_cancellation_ends_all_calls():
    cancelled = []

    async def call(number: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    running = asyncio.ensure_future(map_bounded(call, range(5), 2))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(cancelled) == [0, 1]
