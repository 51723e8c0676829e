"""Looks at the reference media of tasks, beside all else: in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from prefect_loova.simulator.ledger import Ledger, Task
from prefect_loova.simulator.media import (
    MAX_REDIRECTS,
    SECONDS,
    Found,
    Medium,
    Unusable,
    check_size,
    fetched,
    media_of,
    still_of,
)
from prefect_loova.simulator.render import size_of
from prefect_loova.simulator.submits import Submit

if TYPE_CHECKING:
    import httpx

_AT_A_TIME = 4


class Fetching:
    """Fetches the media of tasks; safe to use from several threads. Its own starts with the first task that has any."""

    def __init__(self, ledger: Ledger, short_side: int) -> None:
        """Keep in the books what the media show, in the size of films of `short_side` pixels."""
        self._books = ledger
        self._short_side = short_side
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decoding = threading.Lock()

    def found(self, order: Submit) -> list[Found] | None:
        """What an order's files show; None where there are neither files nor URLs to be fetched."""
        media = media_of(order.body)
        if not order.files and not any(medium.is_fetched for medium in media):
            return None
        found = []
        for medium in media:
            if medium.url is None:
                upload = order.files[int(medium.name.partition(".")[2])]
                found.append(self._found(medium, upload.content, upload.size, order.ratio))
        return found

    def begin(self, task: Task) -> None:
        """Fetch a task's media, if they are awaited, and write down in the books what came of it."""
        with self._lock:
            if task.is_fetching and not self._closed:
                asyncio.run_coroutine_threadsafe(self._fetch(task), self._loop or self._start())

    def resume(self) -> None:
        """Begin again what a former process did not end."""
        for task in self._books.unfetched():
            self.begin(task)

    def close(self) -> None:
        """Stop at once; what is under way is begun again by `resume`."""
        with self._lock:
            self._closed = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._stopping, self._turns = asyncio.Event(), asyncio.Semaphore(_AT_A_TIME)
        self._http: httpx.AsyncClient | None = None
        self._thread = threading.Thread(
            target=self._serve, args=(self._loop,), name="loova-simulator-media", daemon=True
        )
        self._thread.start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not asyncio.run: it would wait for threads that decode.
        try:
            loop.run_until_complete(self._run())
        finally:
            loop.close()

    async def _run(self) -> None:
        await self._stopping.wait()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._http:
            await self._http.aclose()

    async def _fetch(self, task: Task) -> None:
        import httpx  # noqa: PLC0415

        if self._http is None:
            self._http = httpx.AsyncClient(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=SECONDS)
        media = media_of(task.request)
        looks = [self._look(self._http, medium, task.request["ratio"]) for medium in media if medium.is_fetched]
        self._books.fetched(task, await asyncio.gather(*looks), [medium.name for medium in media])

    async def _look(self, http: httpx.AsyncClient, medium: Medium, ratio: str) -> Found:
        async with self._turns:
            try:
                content = await fetched(http, medium.url or "")
            except Exception as error:
                return Found(medium.name, problem=_problem(error))
            return await asyncio.to_thread(self._found, medium, content, len(content), ratio)

    def _found(self, medium: Medium, content: bytes, size: int, ratio: str) -> Found:
        try:
            check_size(size)
            with self._decoding:  # One at a time bounds the memory.
                return Found(medium.name, still_of(medium.kind, content, *size_of(ratio, self._short_side)))
        except Exception as error:
            return Found(medium.name, problem=_problem(error))


def _problem(error: Exception) -> str:
    # Whatever it is: a task that nothing ends would run for ever.
    return str(error) if isinstance(error, Unusable) else f"could not be used: {type(error).__name__}"
