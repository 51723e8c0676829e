"""Space out the submits of all runs with a shared Prefect global concurrency limit.

Loova enforces its own limit, and a refusal only means waiting. The limit `loova` makes such refusals rare. It is
created with 6 slots if it does not exist, and users change it in the Prefect UI. It works between runs that share a
Prefect server. A slot that is never released (a leaked lease, see docs/batches.md) delays a run by 10 minutes at most.
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
"""The default global concurrency limit."""

DEFAULT_SLOTS = 6
"""How many tasks Loova runs at the same time for one account by default (Loova's page pricing-and-limits)."""

SLOT_TIMEOUT = 600.0
"""How long to wait for a slot before submitting without one, in seconds."""

_LEASE_SECONDS = 60.0  # Prefect's minimum: the slot of a killed run is released soonest

# On SQLite, Prefect refuses a slot while it writes the start of the last slot's task, and its client asks again after
# 2 s (decision 0030). A pause between slots prevents that. A wait that was long for another reason is no worse for it.
_LONG_SECONDS = 1.0
_PAUSE_SECONDS = 0.2


async def slot_count(limit: str) -> int:
    """Return how many videos may be generated at the same time: the value of the limit, which is created if needed.

    Args:
        limit: The limit's name. Without a name or without a Prefect server there is no limit, and the result is 6.
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
        get_run_logger().warning("the concurrency limit %s cannot be read (%s): using 6", limit, redact(error))
        return DEFAULT_SLOTS


def is_shared(limit: str) -> bool:
    """Return whether runs share the limit: it has a name, and there is a Prefect server."""
    return bool(limit) and bool(PREFECT_API_URL.value())


@asynccontextmanager
async def slot(limit: str, timeout: float = SLOT_TIMEOUT, max_wait: float | None = None) -> AsyncIterator[None]:  # noqa: ASYNC109
    """Hold one slot of a limit. After 10 minutes without one, warn and continue without it.

    Args:
        limit: The limit's name; see `slot_count`.
        timeout: How long to wait for a slot, in seconds.
        max_wait: How long until this raises, in seconds; None for never. It matters only if it is below `timeout`.

    Raises:
        WaitTimeoutError: No slot was free within `max_wait` (at least 5 s); nothing was bought.
    """
    lease = await _acquire(limit, timeout, max_wait) if is_shared(limit) else None
    try:
        yield
    finally:
        if lease is not None:
            try:
                await lease.__aexit__(None, None, None)
            except Exception as error:
                get_run_logger().warning("a slot of %s was not released (%s); its lease expires", limit, redact(error))


async def _acquire(limit: str, timeout: float, max_wait: float | None) -> AbstractAsyncContextManager[None] | None:  # noqa: ASYNC109
    """Acquire a slot. Return its lease, or None to continue without a slot."""
    until = time.monotonic() + (float("inf") if max_wait is None else max(max_wait, 5.0))
    gate = _gates.setdefault(asyncio.get_running_loop(), {}).setdefault(limit, _Gate())
    try:
        async with asyncio.timeout(None if max_wait is None else until - time.monotonic()):
            await gate.turn.acquire()
    except TimeoutError:
        raise _no_slot(limit, max_wait) from None
    try:
        if not gate.exists:
            await slot_count(limit)
            gate.exists = True
        while gate.closed_until < time.monotonic():
            seconds = min(timeout, until - time.monotonic())
            if seconds <= 0:
                raise _no_slot(limit, max_wait)
            lease = concurrency(
                limit,
                timeout_seconds=seconds,
                lease_duration=_LEASE_SECONDS,
                holder=ConcurrencyLeaseHolder(type="flow_run", id=flow_run.id) if flow_run.id else None,
                raise_on_lease_renewal_failure=False,
            )
            try:
                await asyncio.sleep(gate.pause)
                asked = time.monotonic()
                async with asyncio.timeout(seconds + 5):
                    await lease.__aenter__()
                if time.monotonic() - asked > _LONG_SECONDS:
                    gate.pause = _PAUSE_SECONDS
                return lease
            except TimeoutError:
                if time.monotonic() >= until:
                    continue
                if await slot_count(limit) == 0:
                    get_run_logger().info("the concurrency limit %s is 0: waiting until somebody raises it", limit)
                    continue
                gate.closed_until = time.monotonic() + timeout
                get_run_logger().warning(
                    "no slot of the concurrency limit %s became free in %.0f s: submitting without one, because "
                    "Loova enforces its own limit. Reset slots that are never released in the Prefect UI",
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
        f"no slot of the concurrency limit {limit} was free within max_wait ({max_wait or 0:.0f} s), or the Prefect "
        "server was too busy to grant one; nothing was bought. Run it again"
    )


class _Gate:
    """The waiters for a limit in this process. One of them asks Prefect at a time, and none after a timeout.

    Prefect applies each waiter's timeout from its turn: without the gate, the sixth of six would wait for an hour.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.closed_until = 0.0
        self.exists = False
        self.pause = 0.0  # before a slot is asked for


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Gate]] = WeakKeyDictionary()
