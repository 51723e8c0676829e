"""The client of the Loova API for sync code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from prefect_loova.client import LoovaClient

P = ParamSpec("P")
T = TypeVar("T")


def _sync(
    method: Callable[Concatenate[LoovaClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncLoovaClient, P], T]:
    @wraps(method)
    def call(self: SyncLoovaClient, *args: P.args, **kwargs: P.kwargs) -> T:
        async def finish() -> T:
            return await method(self.client, *args, **kwargs)

        if self._portal is None:
            raise RuntimeError("use the client as `with credentials.get_client(sync_client=True) as loova:`")
        return self._portal.call(finish)

    return call  # type: ignore[return-value]  # `wraps` names the parameters of both


class SyncLoovaClient:
    """A client of the Loova API for sync code. Use it as a context manager.

    It has the requests of `LoovaClient`, and runs them in an event loop in a thread of its own.

    Args:
        client: The client to use.

    Example:
        ```python
        from prefect_loova import LoovaCredentials

        def main() -> float:
            with LoovaCredentials.load("loova").get_client(sync_client=True) as loova:
                return loova.get_credits().available
        ```
    """

    def __init__(self, client: LoovaClient) -> None:
        self.client = client
        self._portal: BlockingPortal | None = None
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self.client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal = None
        self._stack.__exit__(kind, error, trace)

    submit_video = _sync(LoovaClient.submit_video)
    get_task = _sync(LoovaClient.get_task)
    get_credits = _sync(LoovaClient.get_credits)
