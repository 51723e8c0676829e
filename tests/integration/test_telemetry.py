"""Spans, metrics and log fields of a run, read through OpenTelemetry's SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from prefect_loova import VideoRequest, generate_video
from prefect_loova._prefect.events import CreditsPayload, JobPayload
from prefect_loova.errors import RejectedError
from prefect_loova.models.job_record import JobRecord

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]
REQUEST = VideoRequest(prompt="a lighthouse", duration=4)
SPANS, METRICS = InMemorySpanExporter(), InMemoryMetricReader()


@cache
def set_up_sdk() -> None:
    """OpenTelemetry's providers can be set once in a process."""
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(SPANS))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider([METRICS]))


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    set_up_sdk()
    SPANS.clear()
    yield SPANS


def measured() -> dict[str, Any]:
    data = METRICS.get_metrics_data()
    assert data is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_a_video_has_three_spans_and_its_credits_wait_and_bytes_as_metrics(place, spans, caplog):
    saved = await generate_video(REQUEST, place.credentials, place.bucket, poll_seconds=0.1)

    ours = {span.name: span for span in spans.get_finished_spans() if span.name.startswith("loova.")}
    assert set(ours) == {"loova.submit", "loova.wait", "loova.save"}
    for span in ours.values():
        assert span.attributes["loova.key"] == saved.key and span.attributes["loova.task_id"] == saved.task_id
        assert span.parent is not None, "it is in the span of Prefect's task"
    assert ours["loova.save"].attributes["loova.video.size"] == saved.size_bytes

    found = measured()
    assert [point.value for point in found["loova.credits"]] == [60]
    assert [point.value for point in found["loova.video.size"]] == [saved.size_bytes]
    assert found["loova.generation.duration"][0].count == 1
    assert {point.attributes["event"] for point in found["loova.jobs"]} == {"submitted", "succeeded", "saved"}

    lines = [record for record in caplog.records if saved.task_id in record.getMessage()]
    assert lines and all(record.key == saved.key for record in lines if hasattr(record, "key"))
    assert {"the video is made", "is saved"} <= {
        text
        for text in ("the video is made", "is saved")
        for record in lines
        if text in record.getMessage() and record.loova_task_id == saved.task_id
    }


async def test_an_error_is_the_status_of_its_span_and_holds_no_secret(place, loova, spans):
    loova.fail("insufficient_credits")
    with pytest.raises(RejectedError):
        await generate_video(REQUEST, place.credentials, place.bucket, poll_seconds=0.1)
    (span,) = (span for span in spans.get_finished_spans() if span.name == "loova.submit")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description.startswith("InsufficientCreditsError: ")
    assert not span.events
    assert loova.api_key not in span.to_json()


async def test_an_event_that_cannot_be_made_hides_no_purchase(place, caplog):
    async with place.open() as jobs:
        jobs.notify("submitted", JobRecord.claimed(REQUEST, jobs.loova.origin, {}), 99)
    assert "the event submitted was not sent" in caplog.text


@pytest.mark.parametrize("payload", [JobPayload, CreditsPayload])
def test_the_payloads_of_events_have_the_schema_that_was_published(payload):
    """If this fails, a user's automation may fail: add fields only, or make `schema_version` grow."""
    published = json.loads((Path(__file__).parent / "event-payloads-1.json").read_text())[payload.__name__]
    schema = payload.model_json_schema()
    assert published["required"] == schema["required"]
    assert published["properties"].items() <= schema["properties"].items()
