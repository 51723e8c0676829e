"""What a request's media raise: a problem with a medium is bad input, and a bug stays a bug."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs import media_delivery, media_identity
from prefect_loova.models.media import MediaError
from prefect_loova.models.media_types import MediaRules
from prefect_loova.models.request import VideoRequest

JOBS: Any = SimpleNamespace(
    media=MediaRules(), records=SimpleNamespace(), measured={}, loova=SimpleNamespace(is_private=True)
)


async def prepare(error: Exception, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    file = folder / "cat.png"
    file.write_bytes(b"x")
    monkeypatch.setattr(media_identity, "content_problem", raising(error))
    await media_identity.MediaPreparer(JOBS).prepare(VideoRequest(prompt="x", image_urls=[str(file)]))


async def deliver(error: Exception, monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(media_delivery, "inspect_object", raising(error))
    await media_delivery.deliver_media(JOBS, VideoRequest(prompt="x", image_urls=[f"s3://b1/a.png#sha256={64 * 'a'}"]))


def raising(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("step", [prepare, deliver])
async def test_a_problem_with_a_medium_is_an_invalid_request(
    step: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match=r"^image_urls\.0: .* was given: it is broken$"):
        await step(MediaError("it is broken"), monkeypatch, tmp_path)


@pytest.mark.parametrize("step", [prepare, deliver])
async def test_a_bug_in_the_check_of_media_is_not_reported_as_an_invalid_request(
    step: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bug = ValueError("a bug")
    with pytest.raises(ValueError, match=r"^a bug$") as caught:
        await step(bug, monkeypatch, tmp_path)
    assert caught.value is bug
