"""One small call to S3 in a thread of its own, with an end by the clock, whatever the server does.

boto3 bounds each read from the socket and repeats calls by itself: a server that sends one byte a second would hold a
call, and a thread of the event loop's pool, for ever. A thread here is a daemon, so that a call which was given up
keeps no process from its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import ReadTimeoutError

T = TypeVar("T")

CALL_SECONDS = 60.0
"""How long a small call may take in all, boto3's own repetitions included, in seconds."""


async def call_s3(operation: Callable[..., T], /, *, seconds: float = CALL_SECONDS, **arguments: Any) -> T:
    """Call a blocking operation of boto3, and give up after a time.

    What was given up may still have been carried out, as with any lost answer.

    Args:
        operation: A method of an S3 client, or a function that calls one and reads the answer's body.
        seconds: For the whole call.
        arguments: Its arguments.

    Raises:
        ReadTimeoutError: It has not ended in time.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if not answer.done():
            answer.set_result(result) if error is None else answer.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(operation, **arguments)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="loova-s3", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        if not answer.cancelled():
            raise  # the call's own
        server = getattr(getattr(operation, "__self__", None), "meta", None)
        raise ReadTimeoutError(endpoint_url=getattr(server, "endpoint_url", "S3")) from None
