"""Space submits out between runs, by a Prefect global concurrency limit that they share.

Loova's own refusal is the limit, and means waiting; this is courtesy, so that it is seldom met. The limit (`loova`,
made with 6 if it is missing, changed by the user in the Prefect UI) works between runs that share a served Prefect
server. A slot that nobody gives back (a leaked lease, see docs/batches.md) holds a run up for 10 minutes, not for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from weakref import WeakKeyDictionary

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from prefect_loova.errors import WaitTimeoutError, redact

LIMIT = "loova"
"""The global concurrency limit that runs share by default."""

DEFAULT_SLOTS = 6
"""How many tasks Loova runs at once for one account by default (pricing-and-limits)."""

SLOT_TIMEOUT = 600.0
"""How long to wait for a slot before submitting without one, in seconds."""

_LEASE = 60.0  # the least that Prefect allows: a killed run's slot is free again soonest


async def slot_count(limit: str) -> int:
    """How many may be generated at once: the limit's value, which is made with 6 if it is missing.

    Args:
        limit: The limit's name; without a name, or without a served Prefect server, there is none, and it is 6.
    """
    if not is_shared(limit):
        return DEFAULT_SLOTS
    try:
        async with get_client() as client:
            try:
                known = await client.read_global_concurrency_limit_by_name(limit)
            except ObjectNotFound:
                with suppress(ObjectAlreadyExists):
                    await client.create_global_concurrency_limit(
                        GlobalConcurrencyLimitCreate(name=limit, limit=DEFAULT_SLOTS)
                    )
                known = await client.read_global_concurrency_limit_by_name(limit)
            return known.limit if known.active else DEFAULT_SLOTS
    except Exception as error:
        get_run_logger().warning("the concurrency limit %s cannot be read (%s): going on with 6", limit, redact(error))
        return DEFAULT_SLOTS


def is_shared(limit: str) -> bool:
    """Whether there is a limit that runs share: it has a name, and a Prefect server is served for more than one run."""
    return bool(limit) and bool(PREFECT_API_URL.value())


@asynccontextmanager
async def slot(limit: str, timeout: float = SLOT_TIMEOUT, max_wait: float | None = None) -> AsyncIterator[None]:  # noqa: ASYNC109
    """Hold one slot of a limit; after 10 minutes without one, warn and go on without.

    Args:
        limit: The limit's name; see `places`.
        timeout: How long to wait for it, in seconds.
        max_wait: When to give up altogether, in seconds; None for never. Of use where it is less than `timeout`.

    Raises:
        WaitTimeoutError: No slot was had within `max_wait` (5 s at least); nothing was bought.
    """
    held = await _taken(limit, timeout, max_wait) if is_shared(limit) else None
    try:
        yield
    finally:
        if held is not None:
            try:
                await held.__aexit__(None, None, None)
            except Exception as error:
                get_run_logger().warning("a slot of %s was not given back (%s); its lease ends", limit, redact(error))


async def _taken(limit: str, timeout: float, max_wait: float | None) -> AbstractAsyncContextManager[None] | None:  # noqa: ASYNC109
    """A slot that is held, or None to go on without one."""
    await slot_count(limit)
    until = time.monotonic() + (float("inf") if max_wait is None else max(max_wait, 5.0))
    gate = _gate(limit)
    try:
        async with asyncio.timeout(None if max_wait is None else until - time.monotonic()):
            await gate.turn.acquire()
    except TimeoutError:
        raise _no_slot(limit, max_wait) from None
    try:
        while gate.closed_until < time.monotonic():
            seconds = min(timeout, until - time.monotonic())
            if seconds <= 0:
                raise _no_slot(limit, max_wait)
            held = _slot_of(limit, seconds)
            try:
                async with asyncio.timeout(seconds + 5):
                    await held.__aenter__()
                return held
            except TimeoutError:
                if time.monotonic() >= until:
                    continue
                if await slot_count(limit) == 0:
                    get_run_logger().info("the concurrency limit %s is 0: waiting until somebody raises it", limit)
                    continue
                gate.closed_until = time.monotonic() + timeout
                get_run_logger().warning(
                    "no slot of the concurrency limit %s came free in %.0f s: submitting without one, as Loova's own "
                    "limit is what counts. Slots that nobody gives back can be reset in the Prefect UI",
                    limit,
                    timeout,
                )
            except Exception as error:
                get_run_logger().warning("the concurrency limit %s is not used: %s", limit, redact(error))
                break
    finally:
        gate.turn.release()
    return None


def _no_slot(limit: str, max_wait: float | None) -> WaitTimeoutError:
    return WaitTimeoutError(
        f"no slot of the concurrency limit {limit} was had within max_wait ({max_wait or 0:.0f} s): none "
        "came free, or the Prefect server was too busy to give one; nothing was bought. Run it again"
    )


class _Gate:
    """Who waits for a limit in this process: one after the other, as Prefect serves them, and none where none is had.

    Prefect counts each waiter's time from its turn: without this, the sixth of six would wait for an hour.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.closed_until = 0.0


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Gate]] = WeakKeyDictionary()


def _gate(limit: str) -> _Gate:
    return _gates.setdefault(asyncio.get_running_loop(), {}).setdefault(limit, _Gate())


def _slot_of(limit: str, timeout: float) -> AbstractAsyncContextManager[None]:
    run = flow_run.id
    return concurrency(
        limit,
        timeout_seconds=timeout,
        lease_duration=_LEASE,
        holder=ConcurrencyLeaseHolder(type="flow_run", id=run) if run else None,
        raise_on_lease_renewal_failure=False,
    )
