"""One small call to S3 in a thread of its own, with an end by the clock, whatever the server does.

boto3 bounds each read from the socket and repeats calls by itself: a server that sends one byte a second would hold a
call, and a thread of the event loop's pool, for ever. A thread here is a daemon, so that a call which was given up
keeps no process from its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from botocore.exceptions import ReadTimeoutError

T = TypeVar("T")

_AT_ONCE = 10  # as many connections as a client of boto3 keeps
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

CALL_SECONDS = 60.0
"""How long a small call may take in all, boto3's own repetitions included, in seconds."""


class DaemonThreads(Executor):
    """A daemon thread for each call."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start the call at once."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="loova-s3", daemon=True).start()
        return future


THREADS = DaemonThreads()


async def call_s3(
    operation: Callable[..., T], /, *, threads: Executor = THREADS, seconds: float = CALL_SECONDS, **arguments: Any
) -> T:
    """Call a blocking operation of boto3, and give up after a time.

    What was given up may still have been carried out, as with any lost answer.

    Args:
        operation: A method of an S3 client, or a function that calls one and reads the answer's body.
        threads: Where it runs.
        seconds: For the whole call.
        arguments: Its arguments.

    Raises:
        ReadTimeoutError: It has not ended in time.
    """
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE))
    call = partial(contextvars.copy_context().run, operation, **arguments)
    limit = asyncio.timeout(seconds)
    try:
        async with turns, limit:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
    except TimeoutError:
        if not limit.expired():
            raise  # the call's own
        server = getattr(getattr(operation, "__self__", None), "meta", None)
        raise ReadTimeoutError(endpoint_url=getattr(server, "endpoint_url", "S3")) from None
