"""Run the real code step by step: each call of S3 or Loova waits until the search gives an answer.

Each run has its own time, which passes in `TICK`s. Sleeps are shorter than a tick, so they end immediately. Random
tokens have the name of the run that drew them, so the search can compare states without these names.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from unittest import mock

from botocore.exceptions import ClientError, ReadTimeoutError

from prefect_loova._timing import Deadline
from prefect_loova.client import FormFile
from prefect_loova.errors import InDoubtError, LoovaError, NotSentError, RejectedError, TooManyRunningTasksError
from prefect_loova.jobs.context import JobTimes, VideoJobs
from prefect_loova.models.prices import MODELS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import CreditBalance, VideoTask
from prefect_loova.store.bucket_check import mark_checked
from prefect_loova.store.prefix import PROBES
from prefect_loova.store.records import JobRecords, StoredRecord
from tests.support.protocol.suspension import describe_coroutine, describe_value
from tests.support.protocol.world import MOST_TICKS, Answer, Call, World, normalise

ORIGIN = "https://loova.test"
TICK = 31.0
"""Seconds of a time step: one passes `take_over_after`, two the timeout of the POST and a lease, three are overdue."""
POST_TICKS = 1
"""The ticks that a POST may wait. After two, its worker times out."""
TIMES = JobTimes(lease=60.0)
POST_TIMEOUT = 60.0
FOR_EVER = 1e9
"""Seconds that never elapse."""
_START = 1_000_000.0
_ASIDE = ("/_spend/",)
"""Keys that no decision depends on. Their calls are answered immediately."""


Event = tuple[Any, ...]
Work = Callable[[VideoJobs], Coroutine[Any, Any, Any]]


class _AskedError(BaseException):
    """Stops the function of a thread at its first call without an answer."""

    def __init__(self, call: Call) -> None:
        self.call = call


class _S3:
    """A boto3 client with given answers. The calling function runs again from its start for each new answer."""

    def __init__(self) -> None:
        self.meta = SimpleNamespace(endpoint_url="memory", config=SimpleNamespace())
        self.answers: Iterator[Answer] = iter(())
        self._aside = World()

    def _ask(self, call: Call) -> Answer:
        if any(part in call.key for part in _ASIDE):
            self._aside, answer = self._aside.apply(call)
        else:
            given = next(self.answers, None)
            if given is None:
                raise _AskedError(call)
            answer = given
        if answer[0] == "lost":
            raise ReadTimeoutError(endpoint_url="memory")
        if answer[0] in _REFUSALS:
            status, code = _REFUSALS[answer[0]]
            raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, call.name)
        return answer

    def put_object(self, *, Key: str, Body: bytes, IfMatch: str = "", IfNoneMatch: str = "", **_: Any) -> Any:
        body = normalise(Body) if Body.startswith(b"{") else Body.decode()
        return {"ETag": self._ask(Call("put", Key, body, IfMatch or IfNoneMatch))[1]}

    def get_object(self, *, Key: str, **_: Any) -> Any:
        _, body, etag, age = self._ask(Call("get", Key))
        now = datetime.fromisoformat("2026-01-01T12:00:00Z")
        written = datetime.fromtimestamp(now.timestamp() - age * TICK, now.tzinfo)
        headers = {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 12:00:00 GMT"}}
        return {"Body": BytesIO(body.encode()), "ETag": etag, "LastModified": written, "ResponseMetadata": headers}

    def head_object(self, *, Key: str, **_: Any) -> Any:
        return {"ContentLength": len(self._ask(Call("head", Key))[1]), "Metadata": {}}

    def delete_object(self, *, Key: str, **_: Any) -> Any:
        self._ask(Call("delete", Key))
        return {}

    def abort_multipart_upload(self, *, Key: str, UploadId: str, **_: Any) -> Any:
        self._ask(Call("abort", Key, condition=UploadId))

    def create_multipart_upload(self, *, Key: str, **_: Any) -> Any:
        return {"UploadId": self._ask(Call("begin upload", Key))[1]}

    def complete_multipart_upload(self, *, Key: str, UploadId: str, Body: str, **_: Any) -> Any:
        self._ask(Call("complete", Key, Body, UploadId))

    def get_paginator(self, name: str) -> Any:
        def paginate(*, Prefix: str, **_: Any) -> Iterator[Any]:
            if name == "list_objects_v2":
                names = self._ask(Call("list", Prefix))[1:]
                yield {"Contents": [{"Key": Prefix + one, "LastModified": datetime.now()} for one in names]}
            else:
                tokens = self._ask(Call("uploads", Prefix))[1:]
                yield {"Uploads": [{"Key": Prefix, "UploadId": token} for token in tokens]}

        return SimpleNamespace(paginate=paginate)


_REFUSALS = {"missing": (404, "NoSuchKey"), "unmet": (412, "PreconditionFailed"), "no upload": (404, "NoSuchUpload")}


class _Loop(asyncio.BaseEventLoop):
    """An event loop without a selector, threads and a clock."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._new_task)
        self._selector = SimpleNamespace(select=lambda _timeout: ())
        self.set_exception_handler(lambda *_: None)

    def _new_task(self, _loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return its tasks. `asyncio.all_tasks` would go through the tasks of all runs."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    def _process_events(self, _events: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def time(self) -> float:
        return self._live.now

    def run_in_executor(self, _executor: Any, func: Any, *args: Any) -> Any:
        future = self.create_future()
        self._live.begin(_Pending(future, functools.partial(func, *args)))
        return future

    def run_until_quiet(self) -> None:
        asyncio.events._set_running_loop(self)
        try:
            while self._ready:  # type: ignore[attr-defined]
                self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio.events._set_running_loop(None)


@dataclass
class _Pending:
    """What a run waits for: the function of a thread with its answers so far, or a call of Loova."""

    future: asyncio.Future[Any]
    func: Callable[[], Any] | None = None
    call: Call = field(default_factory=lambda: Call("none"))
    answers: list[Answer] = field(default_factory=list)


class _Loova:
    """A Loova client. Only a submit is a step of the search; the result of each task is fixed."""

    origin = ORIGIN
    is_private = False
    models = MODELS
    submit_timeout = POST_TIMEOUT

    def __init__(self, live: Live, fails: bool) -> None:
        self._live, self._fails = live, fails

    def check(self, request: VideoRequest) -> None:
        pass

    def submit_seconds(self, files: Sequence[FormFile]) -> float:
        return POST_TIMEOUT

    async def submit_video(self, request: VideoRequest, files: Sequence[FormFile], **_: Any) -> VideoTask:
        sent = self._live.now  # noqa: F841  (part of where the run is)
        future = asyncio.get_running_loop().create_future()
        self._live.begin(_Pending(future, call=Call("post")))
        answer = await future
        match answer[0]:
            case "task":
                self._live.task_ids = (*self._live.task_ids, answer[1])
                return VideoTask(task_id=answer[1], state="running")
            case "rejected":
                raise RejectedError("no", http_status=402)
            case "not sent":
                raise NotSentError("nobody listens")
            case "no place":
                raise TooManyRunningTasksError("too many")
        raise InDoubtError("the answer is lost", credits_spent="maybe")

    async def get_task(self, task_id: str, **_: Any) -> VideoTask:
        if self._fails:
            return VideoTask(task_id=task_id, state="failed", error_message="it failed")
        return VideoTask(task_id=task_id, state="succeeded", video_url=f"http://10.0.0.1/{task_id}")

    async def get_credits(self, tries: int = 1) -> CreditBalance:
        return CreditBalance(available=1000, total=1000)


class Live:
    """One run of the real code, up to the answers that it got."""

    def __init__(self, name: str, work: Work, fails: bool) -> None:
        self.name = name
        self.now = _START
        self.pending: list[_Pending] = []
        self.task_ids: tuple[str, ...] = ()
        self.drawn = 0
        self.rests = False
        self.s3 = _S3()
        self.loop = _Loop(self)
        mark_checked(self.s3, "bucket", f"loova/{PROBES}")
        records = JobRecords(self.s3, "bucket", "loova", ORIGIN, sleep=self._sleep)  # type: ignore[arg-type]
        loova: Any = _Loova(self, fails)
        self.jobs = VideoJobs(
            loova, records, times=TIMES, sleep=self._sleep, clock=lambda: self.now, wall=lambda: self.now
        )
        with self._running():
            self.task = self.loop.create_task(work(self.jobs))
            self.loop.run_until_quiet()

    def after(self, event: Event) -> None:
        """Continue after an answer to one of the calls, or after a time step."""
        self.rests = False
        with self._running():
            if event[0] == "tick":
                self.now += TICK
            else:
                pending = self.pending.pop(event[1])
                if pending.func is None:
                    pending.future.set_result(event[2])
                else:
                    pending.answers.append(event[2])
                    self._proceed(pending)
            self.loop.run_until_quiet()

    def begin(self, pending: _Pending) -> None:
        """Start a call of the code."""
        if pending.func is None:
            self.pending.append(pending)
        else:
            self._proceed(pending)

    def _proceed(self, pending: _Pending) -> None:
        assert pending.func is not None
        self.s3.answers = iter(pending.answers)
        try:
            result = pending.func()
        except _AskedError as asked:
            pending.call = asked.call
            self.pending.append(pending)
        except Exception as error:
            if not pending.future.done():  # its caller may no longer wait
                pending.future.set_exception(error)
        else:
            if not pending.future.done():
                pending.future.set_result(result)

    async def _sleep(self, seconds: float) -> None:
        assert seconds < TICK
        self.rests = True

    def _describe(self, value: Any) -> str | None:
        """Describe a value that depends on this run, or return None."""
        if isinstance(value, float) and _START <= value < 2 * _START:
            return f"{min(MOST_TICKS, int((self.now - value) // TICK))} ago"
        if isinstance(value, asyncio.TimerHandle | asyncio.Timeout) and (when := value.when()) is not None:
            return f"due in {max(0, math.ceil((when - self.now) / TICK))}"
        if isinstance(value, Deadline) and value.seconds >= FOR_EVER:
            return "no deadline"
        if isinstance(value, StoredRecord):
            # The code reads the age later only to decide about a save: one that failed, or another worker's lease.
            matters = any(attempt.save_failures or attempt.saving for attempt in value.record.attempts)
            age = f" {value.age // TICK}" if matters else ""
            return f"{value.etag}{age} {describe_value(value.record, self._describe)}"
        return type(value).__name__ if isinstance(value, _CONSTANT) else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        global _drawing
        _drawing = self
        yield

    def token(self) -> str:
        """Return a random token with the name of this run."""
        self.drawn += 1
        return f"<{self.name}{self.drawn}>"

    def position(self) -> str:
        """Describe the position of the run: the suspended frames of its tasks with their values."""
        if self.task.done():
            return f"ended {self.outcome}"
        stacks = sorted(describe_coroutine(task.get_coro(), self._describe) for task in self.loop.tasks())
        return "\n".join(stacks)

    @property
    def outcome(self) -> str:
        """The result or the error of the run."""
        error = self.task.exception()
        if error is None:
            return str(self.task.result())
        if not isinstance(error, LoovaError):
            raise error
        return f"{type(error).__name__} {error.task_id or ''}".strip()

    def close(self) -> None:
        """Close the coroutines of the run."""
        for task in self.loop.tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(RuntimeError, ValueError):
                task.get_coro().close()  # type: ignore[union-attr]


_drawing: Live
_CONSTANT = (VideoJobs, JobRecords, _S3, _Loova, _Loop, VideoRequest, Live, SimpleNamespace)


@contextmanager
def named_tokens() -> Iterator[None]:
    """Name random tokens after the run that draws them, and silence the errors of closed runs."""
    silent = mock.patch("sys.unraisablehook", lambda *_: None)
    with mock.patch("secrets.token_hex", lambda *_: _drawing.token()), silent:
        yield
        gc.collect()
