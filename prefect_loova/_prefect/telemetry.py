"""OpenTelemetry: a span for each step of a job, and metrics of its credits, waits and bytes.

Prefect depends on OpenTelemetry's API, which does nothing until a program sets up its SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from opentelemetry import metrics, trace
from opentelemetry.trace import Span

from prefect_loova._prefect.run import JOB_FIELDS, job_fields
from prefect_loova.errors import LoovaError
from prefect_loova.jobs.context import JobEvent
from prefect_loova.models.job_record import JobRecord

_tracer = trace.get_tracer("prefect_loova")
_meter = metrics.get_meter("prefect_loova")
_jobs = _meter.create_counter("loova.jobs", "{job}", "Events of jobs: submitted, succeeded, saved, failed, in_doubt")
_credits = _meter.create_counter("loova.credits", "{credit}", "Credits of submitted tasks, by the price table")
_waits = _meter.create_histogram("loova.generation.duration", "s", "From the submit until Loova has made the video")
_bytes = _meter.create_counter("loova.video.size", "By", "Bytes of saved videos")


@contextmanager
def step_of_job(step: Literal["submit", "wait", "save"], key: str | None, task_id: str | None = None) -> Iterator[Span]:
    """Run a step of a job in a span, and add the job to its log records. An error of the step is the span's status.

    Args:
        step: The step.
        key: The request's key, if it is known before the step.
        task_id: The Loova task, if it is known before the step.
    """
    fields = job_fields(key, task_id)
    names = {"key": "loova.key", "loova_task_id": "loova.task_id"}
    with _tracer.start_as_current_span(
        f"loova.{step}",
        attributes={names.get(name, name): value for name, value in fields.items()},
        record_exception=False,  # its traceback may hold values that are secret
        set_status_on_exception=False,
    ) as current:
        token = JOB_FIELDS.set(fields)
        try:
            yield current
        except LoovaError as error:
            current.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            JOB_FIELDS.reset(token)


def measure(event: JobEvent, record: JobRecord, number: int) -> None:
    """Count an event of a job, and what it measured."""
    attempt = record.attempt(number)
    labels = {"loova.model": str(record.request.get("model", "")), "deployment": attempt.by.get("deployment", "")}
    _jobs.add(1, labels | {"event": event})
    if event == "submitted":
        _credits.add(max(attempt.credits_estimate or 0, attempt.credits_cost or 0), labels)
    if event == "succeeded" and {"submitted", "succeeded"} <= set(attempt.times):
        waited = attempt.times["succeeded"] - attempt.times["submitted"]
        _waits.record(waited.total_seconds(), labels)
    if event == "saved" and attempt.video:
        _bytes.add(attempt.video.size_bytes, labels)
