"""Fetches the reference media of tasks in a thread with its own event loop, so that requests do not wait for them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from prefect_loova.simulator.ledger import Ledger, Task
from prefect_loova.simulator.media import (
    MAX_REDIRECTS,
    SECONDS,
    CheckedMedium,
    Medium,
    UnusableMediumError,
    check_size,
    fetch,
    media_of,
    still_of,
)
from prefect_loova.simulator.render import size_of
from prefect_loova.simulator.submit_request import SubmitRequest

if TYPE_CHECKING:
    import httpx

_CONCURRENT_FETCHES = 4


class MediaFetcher:
    """Fetches the media of tasks. It is thread-safe; its own thread starts with the first task that needs it."""

    def __init__(self, ledger: Ledger, short_side: int) -> None:
        """Write stills to the ledger, in the size of videos whose shorter side has `short_side` pixels."""
        self._ledger = ledger
        self._short_side = short_side
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decoding = threading.Lock()

    def read_files(self, submitted: SubmitRequest) -> list[CheckedMedium] | None:
        """Check the files of a request. Return None if it has neither files nor URLs to fetch."""
        media = media_of(submitted.body)
        if not submitted.files and not any(medium.is_fetched for medium in media):
            return None
        checked = []
        for medium in media:
            if medium.url is None:
                upload = submitted.files[int(medium.name.partition(".")[2])]
                checked.append(self._check(medium, upload.content, upload.size, submitted.ratio))
        return checked

    def start(self, task: Task) -> None:
        """Fetch the media of a task in the background, if it waits for any, and write the result to the ledger."""
        with self._lock:
            if task.is_fetching and not self._closed:
                asyncio.run_coroutine_threadsafe(self._fetch_all(task), self._loop or self._start_thread())

    def resume(self) -> None:
        """Start again what a former process did not finish."""
        for task in self._ledger.fetching_tasks():
            self.start(task)

    def close(self) -> None:
        """Stop at once. `resume` restarts unfinished fetches."""
        with self._lock:
            self._closed = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _start_thread(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._stopping, self._slots = asyncio.Event(), asyncio.Semaphore(_CONCURRENT_FETCHES)
        self._http: httpx.AsyncClient | None = None
        self._thread = threading.Thread(
            target=self._serve, args=(self._loop,), name="loova-simulator-media", daemon=True
        )
        self._thread.start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        # asyncio.run would wait for threads that still decode.
        try:
            loop.run_until_complete(self._run())
        finally:
            loop.close()

    async def _run(self) -> None:
        await self._stopping.wait()
        fetches = asyncio.all_tasks() - {asyncio.current_task()}
        for fetching in fetches:
            fetching.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        if self._http:
            await self._http.aclose()

    async def _fetch_all(self, task: Task) -> None:
        import httpx  # noqa: PLC0415

        if self._http is None:
            self._http = httpx.AsyncClient(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=SECONDS)
        media = media_of(task.request)
        fetches = [self._fetch(self._http, medium, task.request["ratio"]) for medium in media if medium.is_fetched]
        self._ledger.end_fetch(task, await asyncio.gather(*fetches), [medium.name for medium in media])

    async def _fetch(self, http: httpx.AsyncClient, medium: Medium, ratio: str) -> CheckedMedium:
        async with self._slots:
            try:
                content = await fetch(http, medium.url or "")
            except Exception as error:
                return CheckedMedium(medium.name, problem=_problem(error))
            return await asyncio.to_thread(self._check, medium, content, len(content), ratio)

    def _check(self, medium: Medium, content: bytes, size: int, ratio: str) -> CheckedMedium:
        try:
            check_size(size)
            with self._decoding:  # One at a time, to bound the memory.
                return CheckedMedium(medium.name, still_of(medium.kind, content, *size_of(ratio, self._short_side)))
        except Exception as error:
            return CheckedMedium(medium.name, problem=_problem(error))


def _problem(error: Exception) -> str:
    # Any error ends the task: without a result it would run forever.
    return str(error) if isinstance(error, UnusableMediumError) else f"could not be used: {type(error).__name__}"
