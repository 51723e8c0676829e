"""The record protocol under arbitrary interleavings, lost replies and crashes: a model that hypothesis drives.

The code is the real one. Its calls of S3 and of Loova become pending operations; hypothesis decides which of them is
applied when, whether its reply arrives, which worker dies, how much time passes, and what a person decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prefect_loova.client import FormFile
from prefect_loova.errors import (
    InDoubtError,
    InvalidTransitionError,
    LoovaError,
    NotSentError,
    TooManyRunningTasksError,
    UnexpectedResponseError,
)
from prefect_loova.jobs.context import BALANCE_SECONDS, JobTimes, VideoJobs
from prefect_loova.jobs.submit import submit_video
from prefect_loova.models.attempts import Decision
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.prices import MODELS
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import CreditBalance, VideoTask
from prefect_loova.store.bucket_check import mark_checked
from prefect_loova.store.prefix import PROBES
from prefect_loova.store.records import JobRecords

ORIGIN = "https://loova.test"
REQUEST = VideoRequest(prompt="one video, many workers")
TIMEOUT = 60.0
PERSON = {"who": "a person", "when": datetime(2026, 1, 1, tzinfo=UTC), "why": "looked in the dashboard"}


class MemoryS3:
    """S3's objects with its conditional writes, on the model's clock. The methods are those of a boto3 client."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.meta = SimpleNamespace(endpoint_url="memory", config=SimpleNamespace())
        self.objects: dict[str, tuple[bytes, str, float]] = {}
        self._now = now

    def put_object(self, *, Key: str, Body: bytes, IfMatch: str = "", IfNoneMatch: str = "", **_: Any) -> Any:
        current = self.objects.get(Key)
        if (IfNoneMatch and current) or (IfMatch and (current is None or current[1] != IfMatch)):
            raise _s3_error(412, "PreconditionFailed")
        etag = f'"{hashlib.md5(Body).hexdigest()}"'
        self.objects[Key] = (Body, etag, self._now())
        return {"ETag": etag}

    def get_object(self, *, Key: str, **_: Any) -> Any:
        if Key not in self.objects:
            raise _s3_error(404, "NoSuchKey")
        body, etag, written = self.objects[Key]
        # Both are whole seconds, as S3 tells them.
        date = format_datetime(datetime.fromtimestamp(int(self._now()), UTC))
        modified = datetime.fromtimestamp(int(written), UTC)
        headers = {"HTTPHeaders": {"date": date}}
        return {"Body": BytesIO(body), "ETag": etag, "LastModified": modified, "ResponseMetadata": headers}

    def delete_object(self, *, Key: str, **_: Any) -> Any:
        self.objects.pop(Key, None)
        return {}


def _s3_error(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@dataclass
class Operation:
    """A call on its way: to be applied or lost, and answered or not."""

    worker: Worker
    name: str
    apply: Callable[[], Any]
    future: Any
    lost: Exception


@dataclass
class Worker:
    """One process that asks for the video."""

    number: int
    skew: float
    alive: bool = True
    task: asyncio.Task[Any] | None = None
    told: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)


class _Gate(ThreadPoolExecutor):
    """The executor of `asyncio.to_thread`, which hands each call to the model instead of running it."""

    def __init__(self, model: Protocol) -> None:
        super().__init__(1)
        self._model = model

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        worker = self._model.running
        error = ReadTimeoutError(endpoint_url="memory")
        self._model.pending.append(Operation(worker, "s3", lambda: fn(*args, **kwargs), future, error))
        return future


class _Loova:
    """Loova as the steps see it: what is applied is billed."""

    origin = ORIGIN
    is_private = False
    submit_timeout = TIMEOUT
    models = MODELS

    def __init__(self, model: Protocol, worker: Worker) -> None:
        self._model, self._worker = model, worker

    def check(self, request: VideoRequest) -> None:
        pass

    def submit_seconds(self, files: Sequence[FormFile]) -> float:
        return TIMEOUT

    async def submit_video(
        self, request: VideoRequest, files: Sequence[FormFile], *, is_fresh: Callable[[], bool]
    ) -> VideoTask:
        assert is_fresh()  # no time has passed since it was written
        future = asyncio.get_running_loop().create_future()
        lost = InDoubtError("the answer is lost", credits_spent="maybe")
        operation = Operation(self._worker, "post", self._bill, future, lost)
        self._model.posted(self._worker)
        self._model.pending.append(operation)
        self._model.timers.append((self._model.now + TIMEOUT, self._worker, lambda: _fail(future, lost)))
        task = await future
        self._worker.told.add(task.task_id)
        return task

    async def get_credits(self, tries: int) -> CreditBalance:
        future = asyncio.get_running_loop().create_future()
        lost = UnexpectedResponseError("no answer")
        self._model.pending.append(Operation(self._worker, "credits", self._balance, future, lost))
        self._model.timers.append((self._model.now + BALANCE_SECONDS, self._worker, lambda: _fail(future, lost)))
        return await future

    def _balance(self) -> CreditBalance:
        return CreditBalance(available=1000.0 - len(self._model.billed), total=1000)

    def _bill(self) -> VideoTask:
        task_id = f"task-{len(self._model.billed) + 1}"
        self._model.billed.append(task_id)
        return VideoTask(task_id=task_id, state="running")


def _fail(future: Any, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def adopted(record: JobRecord) -> list[int]:
    """The attempts whose task a person named."""
    return [one.number for one in record.attempts if one.task_id and one.decision and one.decision.what == "adopt"]


class Protocol(RuleBasedStateMachine):
    """Several workers want the same video."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.loop = asyncio.new_event_loop()
        self.pending: list[Operation] = []
        self.timers: list[tuple[float, Worker, Callable[[], None]]] = []
        self.workers: list[Worker] = []
        self.billed: list[str] = []
        self.posts: list[int] = []
        self.allowed = 1
        self.running: Worker = Worker(-1, 0)
        self.s3 = MemoryS3(lambda: self.now)
        self.gate = _Gate(self)
        self.loop.set_default_executor(self.gate)
        # Whether conditions are honoured is not in question here, and known from the start.
        mark_checked(self.s3, "bucket", f"loova/{PROBES}")

    @initialize()
    def a_bucket(self) -> None:
        self.start(0)

    @precondition(lambda self: sum(worker.alive for worker in self.workers) < 4)
    @rule(skew=st.sampled_from([0, -900, 900]))
    def start(self, skew: int) -> None:
        """A worker starts, its wall clock wrong by some minutes."""
        worker = Worker(len(self.workers), skew)
        self.workers.append(worker)
        worker.task = self._as(worker, lambda: self.loop.create_task(self._work(worker)))
        self._settle(worker)

    @precondition(lambda self: self.pending)
    @rule(count=st.integers(1, 12), data=st.data())
    def operations_go_well(self, count: int, data: st.DataObject) -> None:
        """Some operations are applied and answered, mostly in the order in which they were sent."""
        for _ in range(count):
            if not self.pending:
                return
            which = data.draw(st.sampled_from([0, 0, 0, len(self.pending) - 1]))
            self._end(self.pending.pop(which), "arrives")

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), fate=st.sampled_from(["lost", "reply lost", "500", "500 applied", "refused"]))
    def an_operation_meets_a_fault(self, data: st.DataObject, fate: str) -> None:
        """One pending operation is lost or refused, or its reply is."""
        operation = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        self._end(operation, fate)

    @rule(seconds=st.sampled_from([1.0, 6.0, 35.0, 95.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        """Every timer that is due fires; what is on its way stays there."""
        self.now += seconds
        due, self.timers = (
            [timer for timer in self.timers if timer[0] <= self.now],
            [timer for timer in self.timers if timer[0] > self.now],
        )
        for _, worker, fire in due:
            if worker.alive:
                self._as(worker, fire)
                self._settle(worker)

    @precondition(lambda self: any(worker.alive for worker in self.workers))
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        """kill -9: it never goes on; what it had sent may still be applied."""
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.alive]))
        worker.alive = False

    @precondition(lambda self: (record := self.record()) is not None and record.state == "in_doubt")
    @rule(what=st.sampled_from(["adopt", "submit-again", "give-up"]))
    def a_person_decides(self, what: Any) -> None:
        """In one step: a person is slower than S3, and writes by the same compare-and-swap."""
        record = self.record()
        assert record is not None
        decision = Decision(what=what, **PERSON)
        try:
            if what == "adopt":
                kept = {one.task_id for attempt in record.attempts for one in attempt.taken_back or ()}
                unknown = [task for task in self.billed if task not in kept | {a.task_id for a in record.attempts}]
                record = record.move("adopt", task_id=unknown[0] if unknown else "task-wrong", decision=decision)
            else:
                record = record.move("submit_again" if what == "submit-again" else "give_up", decision=decision)
        except InvalidTransitionError:
            return
        self.allowed += what == "submit-again"
        body = record.model_copy(update={"write_id": f"person-{self.now}-{len(self.s3.objects)}"}).model_dump_json()
        self.s3.put_object(Key=f"loova/{REQUEST.key}/record.json", Body=body.encode())

    @precondition(lambda self: (record := self.record()) is not None and adopted(record))
    @rule()
    def a_person_takes_an_adoption_back(self) -> None:
        """The task was another job's: the attempt is in doubt again, and the index names the job."""
        record = self.record()
        assert record is not None
        decision = Decision(what="take-back", **PERSON)
        before = record.attempt(adopted(record)[0])
        record = record.move("take_back", before.number, decision=decision)
        assert record.attempt(before.number).taken_back[-1].task_id == before.task_id
        body = record.model_copy(update={"write_id": f"person-{self.now}-{len(self.s3.objects)}"}).model_dump_json()
        self.s3.put_object(Key=f"loova/{REQUEST.key}/record.json", Body=body.encode())
        self.s3.put_object(Key=f"loova/_open/{REQUEST.key}", Body=b"{}")

    @invariant()
    def every_attempt_is_paid_once_at_most(self) -> None:
        assert len(self.billed) <= self.allowed, f"{self.billed} were billed, {self.allowed} attempts were allowed"
        assert len(self.posts) <= self.allowed + self.refused, "a POST too many was sent"

    @invariant()
    def a_post_is_sent_only_under_a_written_submitting(self) -> None:
        record = self.record()
        if self.posts:
            assert record is not None
            assert any("submitting" in attempt.times for attempt in record.attempts)

    @invariant()
    def a_task_id_that_a_living_worker_has_written_is_never_lost(self) -> None:
        record = self.record()
        known = {attempt.task_id for attempt in record.attempts} if record else set()
        known |= {kept.task_id for attempt in (record.attempts if record else ()) for kept in attempt.taken_back or ()}
        for worker in self.workers:
            done = worker.task is not None and worker.task.done() and not worker.task.cancelled()
            if worker.alive and done and worker.task is not None and worker.task.exception() is None:
                assert worker.told <= known | worker.reported, (
                    f"worker {worker.number} was told {worker.told}, the record has {known}"
                )

    @invariant()
    def no_worker_ends_by_an_accident(self) -> None:
        for worker in self.workers:
            if worker.alive and worker.task is not None and worker.task.done() and not worker.task.cancelled():
                assert worker.task.exception() is None, f"worker {worker.number}: {worker.task.exception()!r}"

    @invariant()
    def nobody_calls_a_job_in_doubt_while_its_answer_may_still_come(self) -> None:
        record = self.record()
        if record is not None and record.state == "in_doubt":
            answers = [op for op in self.pending if op.name == "post" and op.worker.alive and not op.future.done()]
            assert not answers, f"worker {answers[0].worker.number} still waits within its timeout"

    @invariant()
    def an_open_purchase_is_in_the_index(self) -> None:
        record = self.record()
        if record is not None and record.state in ("submitting", "submitted", "in_doubt"):
            settling = any(operation.name == "s3" for operation in self.pending)
            assert settling or f"loova/_open/{REQUEST.key}" in self.s3.objects

    refused = 0

    def posted(self, worker: Worker) -> None:
        self.posts.append(worker.number)

    def record(self) -> JobRecord | None:
        stored = self.s3.objects.get(f"loova/{REQUEST.key}/record.json")
        return JobRecord.model_validate_json(stored[0]) if stored else None

    async def _work(self, worker: Worker) -> None:
        async def sleep(seconds: float) -> None:
            future = self.loop.create_future()
            self.timers.append((self.now + seconds, worker, lambda: future.done() or future.set_result(None)))
            await future

        records = JobRecords(self.s3, "bucket", "loova", ORIGIN, sleep=sleep, threads=self.gate)  # type: ignore[arg-type]
        jobs = VideoJobs(
            _Loova(self, worker),  # type: ignore[arg-type]
            records,
            times=JobTimes(),
            sleep=sleep,
            clock=lambda: self.now,
            wall=lambda: self.now + worker.skew,
        )
        try:
            await submit_video(jobs, REQUEST, max_wait=600)
        except LoovaError as error:
            if error.task_id is not None:
                worker.reported.add(error.task_id)

    def _end(self, operation: Operation, fate: str) -> None:
        result: Any = None
        error: Exception | None = None
        if operation.name == "post" and fate == "refused":
            self.refused += 1
            error = TooManyRunningTasksError("too many") if self.refused % 2 else NotSentError("not sent")
        elif fate in ("lost", "500"):
            error = operation.lost if fate == "lost" or operation.name != "s3" else _s3_error(500, "InternalError")
        else:
            try:
                result = operation.apply()
            except Exception as failure:
                error = failure
            if fate == "reply lost":
                error = operation.lost
            elif fate == "500 applied":
                error = operation.lost if operation.name != "s3" else _s3_error(500, "InternalError")
        if not operation.worker.alive:
            return

        def answer() -> None:
            if operation.future.done():
                return
            if error is not None:
                operation.future.set_exception(error)
            else:
                operation.future.set_result(result)

        self._as(operation.worker, answer)
        self._settle(operation.worker)

    def _as(self, worker: Worker, work: Callable[[], Any]) -> Any:
        self.running = worker
        return work()

    def _settle(self, worker: Worker) -> None:
        """Let the event loop run until nothing moves without the model."""
        self.running = worker
        for _ in range(30):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def teardown(self) -> None:
        for worker in self.workers:
            worker.alive = False
            if worker.task is not None:
                worker.task.cancel()
        for operation in self.pending:
            _fail(operation.future, operation.lost)
        tasks = [worker.task for worker in self.workers if worker.task is not None]
        leftovers = asyncio.all_tasks(self.loop)
        for task in leftovers:
            task.cancel()
        for _ in range(30):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self.loop.run_until_complete(asyncio.gather(*tasks, *leftovers, return_exceptions=True))
        self.loop.close()


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=int(os.environ.get("PROTOCOL_EXAMPLES", "200")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if "PROTOCOL_NO_SHRINK" in os.environ else list(Phase),
)
