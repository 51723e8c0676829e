"""Cancelled work ends cleanly and without a busy loop, whether asyncio or anyio (as Prefect does) cancels it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from prefect_loova._cancellation import run_uncancelled, task_group

WORK = 0.6
"""Seconds for which the work continues after the cancellation."""


async def _by_anyio(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await work()


async def _by_asyncio(work: Callable[[], Awaitable[object]]) -> None:
    running = asyncio.ensure_future(work())
    for _ in range(3):
        await asyncio.sleep(0.05)
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("cancelled", [_by_anyio, _by_asyncio])
@pytest.mark.parametrize("how", ["alone", "in a group", "in a group that fails"])
async def test_cancelled_work_ends_first_and_does_not_use_the_cpu_meanwhile(how: str, cancelled) -> None:
    ended, notified = [], []

    async def work() -> None:
        await asyncio.sleep(WORK)
        ended.append(True)

    async def shielded() -> None:
        await run_uncancelled(work(), lambda: notified.append(True))

    async def fails() -> None:
        await asyncio.sleep(0.02)
        raise ValueError("one of the group")

    async def grouped() -> None:
        async with task_group() as group:
            group.create_task(shielded())
            if how == "in a group that fails":
                group.create_task(fails())

    started = time.monotonic(), time.process_time()
    if how == "in a group that fails":
        with pytest.raises(BaseException) as failed:
            with anyio.fail_after(0.05):
                await grouped()
        assert isinstance(failed.value, (ValueError, TimeoutError, asyncio.CancelledError))
    else:
        await cancelled(shielded if how == "alone" else grouped)
    took, used = time.monotonic() - started[0], time.process_time() - started[1]
    assert (ended, notified) == ([True], [True])
    assert took > WORK * 0.9
    assert used < 0.1 * took


async def test_a_group_raises_its_first_error_itself_and_cancels_the_other_tasks() -> None:
    cancelled = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("the first")

    with pytest.raises(KeyError):
        async with task_group() as group:
            group.create_task(waits())
            group.create_task(fails())
    assert cancelled == [True]


async def test_a_group_waits_for_tasks_that_its_tasks_started() -> None:
    done = []

    async def second() -> None:
        await asyncio.sleep(0.01)
        done.append("second")

    async with task_group() as group:

        async def first() -> None:
            group.create_task(second())

        group.create_task(first())
    assert done == ["second"]


async def test_the_result_or_the_error_of_the_work_is_returned_or_raised() -> None:
    async def fails() -> None:
        raise KeyError("it")

    assert await run_uncancelled(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(KeyError):
        await run_uncancelled(fails())
