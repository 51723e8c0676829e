"""Run a small S3 call in a thread, with a timeout for the whole call.

boto3 limits only each read from the socket, and retries calls itself. A server that sends one byte a second would block
a call, and a thread of the event loop's pool, for ever. These threads are daemons, so a call that timed out does not
keep the process from exiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from botocore.exceptions import ReadTimeoutError

T = TypeVar("T")

_CONCURRENT_CALLS = 10  # the size of a boto3 client's connection pool
_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

CALL_SECONDS = 60.0
"""The timeout of a small call in seconds, including boto3's retries."""


class DaemonThreads(Executor):
    """An executor that runs each call immediately, in a daemon thread that is idle or new.

    A call that never ends keeps its thread, and others go on in other threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self._calls = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]()
        os.register_at_fork(after_in_child=self._forget_threads)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start the call immediately."""
        future: Future[T] = Future()
        with self._lock:
            is_any_idle = self._idle > 0
            self._idle -= is_any_idle
        self._calls.put((future, partial(fn, *args, **kwargs)))
        if not is_any_idle:
            threading.Thread(target=self._work, name="loova-s3", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            self._run(*self._calls.get())

    def _run(self, future: Future[Any], call: Callable[[], Any]) -> None:
        end: Callable[[], object]
        try:
            end = partial(future.set_result, call()) if future.set_running_or_notify_cancel() else future.cancelled
        except BaseException as error:
            end = partial(future.set_exception, error)
        with self._lock:
            self._idle += 1  # before its result leads to the next call
        end()

    def _forget_threads(self) -> None:
        """A forked process has none of them."""
        self._lock, self._idle, self._calls = threading.Lock(), 0, SimpleQueue()


THREADS = DaemonThreads()


async def call_s3(
    operation: Callable[..., T], /, *, threads: Executor = THREADS, seconds: float = CALL_SECONDS, **arguments: Any
) -> T:
    """Call a blocking operation of boto3 with a timeout.

    An operation that timed out may still have taken effect.

    Args:
        operation: A method of an S3 client, or a function that calls one and reads the body of the response.
        threads: The executor for the call.
        seconds: The timeout of the whole call.
        arguments: The arguments of the operation.

    Raises:
        ReadTimeoutError: The call timed out.
    """
    limit = _limits.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_CONCURRENT_CALLS))
    call = partial(contextvars.copy_context().run, operation, **arguments)
    timeout = asyncio.timeout(seconds)
    try:
        async with limit, timeout:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
    except TimeoutError:
        if not timeout.expired():
            raise  # from the call itself
        server = getattr(getattr(operation, "__self__", None), "meta", None)
        raise ReadTimeoutError(endpoint_url=getattr(server, "endpoint_url", "S3")) from None
