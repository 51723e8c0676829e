"""Gates judge a video in the bucket: in order, measured once, and a broken gate loses nothing and buys nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from prefect_loova.batches.gates import judge, name_of
from prefect_loova.gates import SHIPPED, BlackFrames, WrongRatio
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.gates import GateInput, Verdict
from prefect_loova.models.results import SavedVideo
from tests.integration.jobs.workers import VIDEO, Workers
from tests.support.films import fill, film, opened

pytestmark = pytest.mark.takes

CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


@pytest.fixture
async def jobs(workers: Workers) -> AsyncIterator[VideoJobs]:
    async with workers.worker() as running:
        yield running


@pytest.fixture
async def saved(workers: Workers) -> SavedVideo:
    return await workers.save(await workers.finished())


def accept(video: GateInput) -> Verdict:
    return Verdict.accept()


def broken(video: GateInput) -> Verdict:
    raise ValueError("https://models.example.com/v1?key=secret is down")


async def test_a_simulated_video_passes_the_shipped_gates(jobs: VideoJobs, saved: SavedVideo) -> None:
    assert await judge(jobs, saved, [*SHIPPED.values()]) == Verdict.accept()


async def test_a_gate_gets_the_request_the_facts_and_three_posters(jobs: VideoJobs, saved: SavedVideo) -> None:
    seen: list[GateInput] = []

    def look(video: GateInput) -> Verdict:
        seen.append(video)
        return Verdict.accept()

    await judge(jobs, saved, [look, look])
    assert seen[0] is seen[1]  # measured once
    assert seen[0].saved == saved
    assert seen[0].request["prompt"] == "a job"
    assert seen[0].facts.duration_seconds == pytest.approx(4)
    assert [opened(poster).format for poster in seen[0].posters] == ["JPEG"] * 3


async def test_the_first_verdict_that_does_not_accept_ends_it_and_names_its_gate(
    jobs: VideoJobs, saved: SavedVideo
) -> None:
    asked: list[str] = []

    def first(video: GateInput) -> Verdict:
        asked.append("first")
        return Verdict.accept()

    async def logo(video: GateInput) -> Verdict:
        asked.append("logo")
        return Verdict.retake("the logo is missing")

    def last(video: GateInput) -> Verdict:
        asked.append("last")
        return Verdict.reject("never asked")

    verdict = await judge(jobs, saved, [first, logo, last])
    assert verdict == Verdict(what="retake", reason="the logo is missing", gate="logo")
    assert asked == ["first", "logo"]


async def test_a_black_video_in_the_bucket_is_rejected(workers: Workers, jobs: VideoJobs, saved: SavedVideo) -> None:
    black = film(96, (64, 36), paint=lambda frame, _: fill(frame, (16, 128, 128)))
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=VIDEO, Body=black)
    verdict = await judge(jobs, saved, [WrongRatio(), BlackFrames(otherwise="retake")])
    assert (verdict.what, verdict.gate) == ("retake", "black")


async def not_a_verdict(video: GateInput) -> bool:
    return True


async def slow(video: GateInput) -> Verdict:
    await asyncio.sleep(30)
    return Verdict.reject("too late")


def slow_in_a_thread(video: GateInput) -> Verdict:
    time.sleep(2)
    return Verdict.reject("too late")


def leaves(video: GateInput) -> Verdict:
    sys.exit(3)


def ends_early(video: GateInput) -> Verdict:
    raise StopIteration


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (broken, "(ValueError: https://models.example.com/v1?... is down"),
        (not_a_verdict, "(TypeError: it answered bool, not a Verdict"),
        (slow, "it took longer than 0.5 s"),
        (slow_in_a_thread, "it took longer than 0.5 s"),
        (leaves, "it raised SystemExit"),
        (ends_early, "StopIteration"),
    ],
)
async def test_a_broken_gate_rejects_nothing_and_the_next_gate_is_asked(
    jobs: VideoJobs, saved: SavedVideo, caplog: pytest.LogCaptureFixture, gate: object, why: str
) -> None:
    with caplog.at_level(logging.WARNING):
        verdict = await judge(jobs, saved, [gate, accept], max_seconds=0.5)  # type: ignore[list-item]
    assert verdict.what == "accept"
    assert verdict.reason.startswith(f"not judged by gate {name_of(gate)} (")  # type: ignore[arg-type]
    assert why in verdict.reason
    (line,) = (record.getMessage() for record in caplog.records if record.name.startswith("prefect_loova"))
    assert f"{saved.task_id}: the video is saved, paid and kept" in line and name_of(gate) in line  # type: ignore[arg-type]
    assert "secret" not in line + verdict.reason

    rejected = await judge(jobs, saved, [gate, BlackFrames(seconds=-1)], max_seconds=0.5)  # type: ignore[list-item]
    assert (rejected.what, rejected.gate) == ("reject", "black")


async def test_a_gates_own_time_limit_is_told_as_its_own(jobs: VideoJobs, saved: SavedVideo) -> None:
    async def impatient(video: GateInput) -> Verdict:
        raise TimeoutError("the model did not answer")

    assert "TimeoutError: the model did not answer" in (await judge(jobs, saved, [impatient])).reason


async def test_a_video_that_cannot_be_measured_is_kept(workers: Workers, jobs: VideoJobs, saved: SavedVideo) -> None:
    workers.bucket.client.put_object(Bucket=workers.bucket, Key=VIDEO, Body=b"no video")
    verdict = await judge(jobs, saved, [BlackFrames()])
    assert verdict.what == "accept"
    assert verdict.reason.startswith("not judged by any gate (the video cannot be measured")


async def test_a_missing_object_is_no_reason_to_reject(workers: Workers, jobs: VideoJobs, saved: SavedVideo) -> None:
    workers.bucket.client.delete_object(Bucket=workers.bucket, Key=VIDEO)
    assert (await judge(jobs, saved, [BlackFrames()])).what == "accept"


async def test_without_gates_nothing_is_read(jobs: VideoJobs, saved: SavedVideo) -> None:
    missing = saved.model_copy(update={"video": f"{saved.video}.gone"})
    assert await judge(jobs, missing, []) == Verdict.accept()


async def test_a_sync_gate_runs_beside_the_event_loop_with_the_callers_context(
    jobs: VideoJobs, saved: SavedVideo
) -> None:
    ticks = 0
    threads: list[tuple[bool, str]] = []

    def waits(video: GateInput) -> Verdict:
        threads.append((threading.current_thread().daemon, CALLER.get()))
        time.sleep(0.5)
        return Verdict.accept()

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    await judge(jobs, saved, [accept])  # decoders are loaded
    CALLER.set("the flow")
    ticking = asyncio.create_task(tick())
    await judge(jobs, saved, [waits])
    ticking.cancel()
    assert threads == [(True, "the flow")]  # one that hangs does not keep the process from ending
    assert ticks > 20


async def test_cancelling_is_not_a_broken_gate(jobs: VideoJobs, saved: SavedVideo) -> None:
    started = asyncio.Event()

    async def waits(video: GateInput) -> Verdict:
        started.set()
        await asyncio.sleep(30)
        return Verdict.accept()

    judging = asyncio.create_task(judge(jobs, saved, [waits]))
    await started.wait()
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging


def test_gates_are_named_by_what_a_person_knows() -> None:
    assert [name_of(gate) for gate in (BlackFrames(), accept)] == ["black", "accept"]
