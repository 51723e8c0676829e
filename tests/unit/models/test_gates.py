"""What a gate gets and answers, as values and as JSON."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from prefect_loova.models.gates import GateInput, Verdict, VideoFacts
from prefect_loova.models.results import SavedVideo

FACTS = VideoFacts(
    duration_seconds=5,
    width=1280,
    height=720,
    fps=24,
    has_sound=False,
    black_seconds=0,
    frozen_seconds=0.125,
    silent_seconds=5,
)
SAVED = SavedVideo(
    key="k",
    request={"prompt": "a boat"},
    task_id="t",
    video="s3://b/v.mp4",
    record="s3://b/r.json",
    size_bytes=1,
    sha256="00",
    credits_cost=None,
    reused=False,
)
POSTERS = (b"\xff\xd8\xff\x00first", b"aGk=", b"\xff\xd8\xff\x00last")  # the second one looks like base64
VIDEO = GateInput(saved=SAVED, facts=FACTS, posters=POSTERS)


def test_a_gates_input_survives_json_and_the_python_values_of_a_flows_parameters() -> None:
    assert GateInput.model_validate_json(VIDEO.model_dump_json()) == VIDEO
    parameters = json.loads(json.dumps(VIDEO.model_dump(mode="json")))
    assert GateInput.model_validate(parameters) == VIDEO
    assert GateInput.model_validate(VIDEO.model_dump()) == VIDEO


def test_posters_that_are_not_base64_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be base64"):
        GateInput.model_validate(VIDEO.model_dump(mode="json") | {"posters": ["not base64!"]})


def test_the_request_is_the_stored_one() -> None:
    assert VIDEO.request == {"prompt": "a boat"}


@pytest.mark.parametrize("reason", ["", " "])
@pytest.mark.parametrize("what", ["reject", "retake"])
def test_a_verdict_against_a_video_needs_a_reason(what: str, reason: str) -> None:
    with pytest.raises(ValidationError, match="reason: it is empty"):
        getattr(Verdict, what)(reason)


def test_verdicts_are_made_by_their_names() -> None:
    assert Verdict.accept().what == "accept"
    assert (Verdict.reject("dark").what, Verdict.reject("dark").reason) == ("reject", "dark")
    assert (Verdict.retake("dark").what, Verdict.retake("dark").reason) == ("retake", "dark")
