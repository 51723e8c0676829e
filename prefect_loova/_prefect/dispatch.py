"""Flows, tasks and methods that sync code and async code call alike."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from prefect import Flow, Task
from prefect.context import FlowRunContext, TaskRunContext

from prefect_loova._sync import run_sync

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def is_called_by_sync_code() -> bool:
    """Return whether the caller needs a value instead of a coroutine.

    Without a running event loop it does. With one, it does only within a sync flow or task that async code, such as a
    Jupyter cell, has called. The call stack shows which of both is nearer.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    runs = [context.task.fn for context in [TaskRunContext.get()] if context]
    runs += [context.flow.fn for context in [FlowRunContext.get()] if context and context.flow]
    sync_code = {run.__code__ for run in runs if not inspect.iscoroutinefunction(run) and hasattr(run, "__code__")}
    frame = inspect.currentframe()
    while sync_code and frame is not None:
        if frame.f_code in sync_code:
            return True
        if frame.f_code.co_flags & inspect.CO_COROUTINE:
            return False
        frame = frame.f_back
    return False


def dispatch(work: Any) -> Any:
    """Return a coroutine to async code, and its result to sync code."""
    return run_sync(work) if inspect.iscoroutine(work) and is_called_by_sync_code() else work


class SyncOrAsyncFlow(Flow[P, T]):
    """An async flow that sync code calls without `await`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow. Return its result to sync code, and a coroutine to async code."""
        return dispatch(super().__call__(*args, **kwargs))

    def with_options(self, **options: Any) -> Self:
        """Return a copy of the flow with other options, as Prefect's flows do."""
        copy = super().with_options(**options)
        copy.__class__ = type(self)
        return copy  # type: ignore[return-value]


class SyncOrAsyncTask(Task[P, T]):
    """An async task that sync code calls without `await`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Return its result to sync code, and a coroutine to async code."""
        return dispatch(super().__call__(*args, **kwargs))

    def with_options(self, **options: Any) -> Self:
        """Return a copy of the task with other options, as Prefect's tasks do."""
        copy = super().with_options(**options)
        copy.__class__ = type(self)
        return copy  # type: ignore[return-value]


@overload
def sync_or_async(wrapped: Flow[P, T]) -> SyncOrAsyncFlow[P, T]: ...
@overload
def sync_or_async(wrapped: Task[P, T]) -> SyncOrAsyncTask[P, T]: ...
@overload
def sync_or_async(
    wrapped: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Any]: ...
def sync_or_async(wrapped: Any) -> Any:
    """Let sync code call an async flow, task or method without `await`.

    Put it above Prefect's own decorator: Prefect reads the arguments of `@flow` from the source code.
    """
    if isinstance(wrapped, Flow | Task):
        wrapped.__class__ = SyncOrAsyncFlow if isinstance(wrapped, Flow) else SyncOrAsyncTask
        return wrapped

    @wraps(wrapped)
    def method(*args: Any, **kwargs: Any) -> Any:
        return dispatch(wrapped(*args, **kwargs))

    return method
