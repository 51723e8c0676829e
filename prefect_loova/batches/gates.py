"""Judge a saved video by quality gates. A gate that breaks never loses a video, and never buys one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from prefect_loova.errors import LoovaError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.save import find_saved
from prefect_loova.models.gates import GateInput, QualityGate, Verdict, VideoFacts
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.reader import S3File

GATE_SECONDS = 600.0
"""How long one gate may take by default, in seconds. A deployed flow may wait for a worker."""

# Decoding takes a CPU: one video at a time, outside of the thread pool of S3 requests.
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="loova-gate")

log = logging.getLogger(__name__)


async def judge(
    jobs: VideoJobs, saved: SavedVideo, gates: Sequence[QualityGate], *, max_seconds: float = GATE_SECONDS
) -> Verdict:
    """Return what the gates say of a saved video: the first verdict that does not accept it, else that they accept it.

    The video is measured once. A gate that raises, takes too long or answers no `Verdict` is skipped with a warning:
    the video is paid for, so a broken gate must not reject it. The reason of the verdict then names the gate.

    Args:
        jobs: The bucket.
        saved: The video.
        gates: Called in this order. A sync gate runs in a thread of its own.
        max_seconds: How long each gate may take, in seconds. A thread cannot be stopped: it goes on, and is ignored.
    """
    if not gates:
        return Verdict.accept()
    try:
        facts, posters = await asyncio.get_running_loop().run_in_executor(_DECODER, _measure, jobs, saved)
    except Exception as error:
        return Verdict(what="accept", reason=_not_judged(saved, "any gate", redact(error)))
    video = GateInput(saved=saved, facts=facts, posters=posters)
    broken: list[str] = []
    for gate in gates:
        name = name_of(gate)
        try:
            async with asyncio.timeout(max_seconds) as limit:
                verdict = await _ask(gate, video)
        except Exception as error:
            why = f"it took longer than {max_seconds:g} s" if limit.expired() else f"{type(error).__name__}: {error}"
            broken.append(_not_judged(saved, f"gate {name}", redact(why)))
            continue
        if verdict.what != "accept":
            return verdict.model_copy(update={"gate": name, "reason": redact(verdict.reason)})
    return Verdict(what="accept", reason="; ".join(broken))


async def judge_saved(jobs: VideoJobs, key: str, gates: Sequence[QualityGate]) -> Verdict | None:
    """Return what the gates say of the saved video of a request, or None if they cannot judge it now."""
    try:
        record = (await jobs.records.expect(key)).record
        saved = await find_saved(jobs, jobs.submission(record, reused=True))
    except LoovaError as error:
        log.warning("job %s: the video is kept, and was not judged (%s)", key, error)
        return None
    if saved is None:
        return None
    verdict = await judge(jobs, saved, gates)
    return None if verdict.what == "accept" and verdict.reason else verdict


def name_of(gate: QualityGate) -> str:
    """Return the name of a gate for messages: its own name, or that of its function or class."""
    name = getattr(gate, "name", None) or getattr(gate, "__name__", None) or type(gate).__name__
    return redact(name, 80)


def _measure(jobs: VideoJobs, saved: SavedVideo) -> tuple[VideoFacts, tuple[bytes, ...]]:
    from prefect_loova.video.quality import measure  # noqa: PLC0415  (load decoders on first use)

    with S3File(jobs.records.s3, jobs.records.bucket, jobs.records.key_of(saved.video)) as video:
        return measure(video)


def _not_judged(saved: SavedVideo, gate: str, why: str) -> str:
    log.warning("Loova task %s: the video is saved, paid and kept; %s did not judge it (%s)", saved.task_id, gate, why)
    return f"not judged by {gate} ({why})"


async def _ask(gate: QualityGate, video: GateInput) -> Verdict:
    is_async = inspect.iscoroutinefunction(gate) or inspect.iscoroutinefunction(type(gate).__call__)
    answer = gate(video) if is_async else await _in_thread(gate, video)
    verdict = await answer if inspect.isawaitable(answer) else answer
    if not isinstance(verdict, Verdict):
        raise TypeError(f"it answered {type(verdict).__name__}, not a Verdict")
    return verdict


async def _in_thread(gate: QualityGate, video: GateInput) -> object:
    """Call a sync gate in a daemon thread: one that hangs must not keep the process from ending."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended = asyncio.Event()
    answers: list[object] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            answers.append(context.run(gate, video))
        except Exception as error:
            errors.append(error)
        except BaseException as error:  # sys.exit() in a gate must not end the run
            errors.append(RuntimeError(f"it raised {type(error).__name__}"))
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=call, name="loova-gate", daemon=True).start()
    await ended.wait()
    if errors:
        raise errors[0]
    return answers[0]
