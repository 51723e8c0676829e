"""A user's own models, and the difference between Loova's charge and the price in the table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from prefect_loova import (
    LoovaCredentials,
    VideoModel,
    VideoRequest,
    generate_from_manifest,
    generate_storyboard,
    generate_video,
    generate_videos,
    report_credits,
)
from prefect_loova.errors import BudgetError, InvalidRequestError
from prefect_loova.settings import LoovaSettings
from prefect_loova.simulator import ExtraModel, LoovaSimulator
from tests.integration.conftest import block_of
from tests.integration.test_batches import artifacts, events_of

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.one_s3_server]

OWN = VideoModel(name="own_model", path="/v1/video/own", longest=20, ratios=("16:9", "1:1"), credits_per_second=7)
REQUEST = VideoRequest(prompt="a kite", model="own_model", ratio="1:1", duration=16)


@pytest.fixture
def loova() -> Iterator[LoovaSimulator]:
    own = {"own_model": ExtraModel("/video/own", 7, range(4, 21))}
    with LoovaSimulator(
        api_key="loova-secret-key", generation_seconds=0.2, short_side=64, extra_models=own
    ) as simulator:
        yield simulator


@pytest.fixture
def lister(place, bucket):
    """The place of one who may list the bucket."""
    return replace(place, bucket=block_of(bucket, bucket.server.access_key, bucket.server.secret_key))


def with_models(place, *models: VideoModel, **fields: Any):
    return replace(place, credentials=place.credentials.model_copy(update={"models": [*models]} | fields))


def video(request: VideoRequest, place, **options: Any):
    return generate_video(request, place.credentials, place.bucket, poll_seconds=0.1, **options)


def batch(requests: list[VideoRequest], place, **options: Any):
    return generate_videos(requests, place.credentials, place.bucket, poll_seconds=0.1, **options)


async def test_a_model_of_the_user_makes_a_video_at_its_own_path_and_price(place, loova):
    saved = await video(REQUEST, with_models(place, OWN))
    (task,) = loova.ledger["tasks"]
    assert task["request"]["model"] == "own_model"
    assert (saved.credits_estimate, saved.credits_cost, saved.differs) == (112, 112, "")


async def test_a_batch_and_its_budget_count_the_price_of_the_users_model(place, loova):
    with pytest.raises(BudgetError, match="max_credits: 111 was given"):
        await batch([REQUEST], with_models(place, OWN), max_credits=111)
    assert loova.ledger["totals"]["posted"] == 0
    report = await batch([REQUEST], with_models(place, OWN), max_credits=112)
    assert (report.count("saved"), report.credits_charged, report.videos[0].credits_estimate) == (1, 112, 112)


async def test_a_queued_request_of_the_users_model_is_bought_by_the_collector(lister, loova):
    report = await batch([REQUEST], with_models(lister, OWN), wait=False)
    assert report.count("submitted", "saved") == 1
    assert loova.ledger["totals"]["billed"] == 1


async def test_an_unknown_model_is_refused_before_any_request_with_the_known_names(place, loova, tmp_path):
    known = "must be one of seedance_2_0, seedance_2_0_fast; add another one to `models`"
    other = with_models(place, OWN.model_copy(update={"name": "other_model"}))
    story = tmp_path / "story.yaml"
    story.write_text("title: A kite\nshots:\n  - prompt: a kite\n    model: own_model\n")
    with pytest.raises(InvalidRequestError, match=f"model: 'own_model' was given: {known}"):
        await video(REQUEST, place)
    with pytest.raises(InvalidRequestError, match=f"request 2: model: 'own_model' was given: {known}"):
        await batch([VideoRequest(prompt="a boat"), REQUEST], place)
    with pytest.raises(InvalidRequestError, match=f"shot 1: model: 'own_model' was given: {known}"):
        await generate_storyboard(str(story), place.credentials, place.bucket)
    with pytest.raises(InvalidRequestError, match="must be one of seedance_2_0, seedance_2_0_fast, other_model;"):
        await video(REQUEST, other)
    totals = loova.ledger["totals"]
    assert (totals["posted"], totals["credits_calls"]) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"duration": 21}, "duration: 21 was given: own_model takes 4 to 20 s"),
        ({"ratio": "9:16"}, "ratio: '9:16' was given: own_model takes 16:9, 1:1"),
        ({"prompt": "a" * 11}, "prompt: 11 characters given: own_model takes at most 10"),
        ({"image_urls": ("https://example.com/a.png",)}, "image_urls: 1 image given: own_model takes at most 0"),
        (
            {"function_mode": "first_last_frames", "image_urls": ("https://example.com/a.png",)},
            "function_mode: 'first_last_frames' was given: own_model takes omni_reference",
        ),
    ],
)
async def test_the_rules_of_the_users_model_apply_before_any_request(place, loova, fields, says):
    strict = OWN.model_copy(update={"longest_prompt": 10, "most_images": 0, "modes": ("omni_reference",)})
    with pytest.raises(InvalidRequestError) as caught:
        await video(VideoRequest.model_validate(REQUEST.model_dump() | fields), with_models(place, strict))
    assert says in str(caught.value)
    assert loova.ledger["totals"]["posted"] == 0


async def test_an_unknown_price_without_a_bound_is_refused_and_with_one_the_bound_is_the_estimate(lister, loova):
    unknown = OWN.model_copy(update={"credits_per_second": None})
    with pytest.raises(InvalidRequestError, match=r"its price without a reference video is unknown.*max_credits"):
        await video(REQUEST, with_models(lister, unknown))
    with pytest.raises(InvalidRequestError, match="request 1: model: 'own_model' was given: its price"):
        await batch([REQUEST], with_models(lister, unknown), max_credits=1000)
    assert loova.ledger["totals"]["posted"] == 0
    bounded = with_models(lister, unknown.model_copy(update={"max_credits": 500}), max_credits_per_day=499)
    with pytest.raises(BudgetError, match="this video costs 500"):
        await video(REQUEST, bounded)
    assert loova.ledger["totals"]["posted"] == 0
    saved = await video(REQUEST, with_models(bounded, *bounded.credentials.models, max_credits_per_day=500))
    assert (saved.credits_estimate, saved.credits_cost) == (500, 112)


@pytest.mark.parametrize(
    ("fields", "is_valid"),
    [
        ({}, True),
        ({"duration": 16}, False),
        ({"model": "seedance_2_0_fast", "ratio": "2:1"}, False),
        ({"model": "seedance_2_0", "image_urls": ["a.png"] * 10}, False),
        ({"model": "own_model", "duration": 16, "ratio": "2:1"}, True),
        ({"model": "own model"}, False),
    ],
)
def test_prefect_checks_a_runs_parameters_by_the_rules_of_the_known_models(fields, is_valid):
    schema = parameter_schema(generate_video).model_dump_for_openapi()
    request = {"prompt": "a kite"} | fields
    assert is_accepted({"request": request}, schema) == is_valid


async def test_a_block_with_models_is_saved_and_loaded_and_an_old_block_has_none(place):
    saved = with_models(place, OWN).credentials
    await saved.save("own-models", overwrite=True)
    assert (await LoovaCredentials.aload("own-models")).models == [OWN]
    old = json.loads(place.credentials.model_dump_json(exclude={"models"})) | {"api_key": "k"}
    assert LoovaCredentials.model_validate(old).models == []


async def test_a_charge_that_differs_from_the_estimate_is_shown_everywhere(lister, loova, tmp_path):
    charge = {"envelope": {"data": {"credits_cost": 12}}, "times": None}
    loova.fail(on="submit", **charge)
    loova.fail(on="poll", **charge)
    manifest, written = tmp_path / "list.csv", tmp_path / "list.report.csv"
    manifest.write_text("prompt,duration\na dear estimate,5\n")
    report = await generate_from_manifest(str(manifest), lister.credentials, lister.bucket, poll_seconds=0.1)
    (made,) = report.videos
    less = "Loova charged 63 credits less than the estimate"
    assert (made.cost_difference, made.credits_charged) == (-63, 12)
    assert report.summary.endswith(less)
    assert [row["cost_difference"] for row in csv.DictReader(written.open())] == ["-63.0"]
    (event,) = [one for one in await events_of(f"loova.job.{made.key}", 4) if one["event"].endswith("cost_differs")]
    assert (event["payload"]["cost_difference"], event["payload"]["credits_cost"]) == (-63, 12)
    saved = await video(VideoRequest(prompt="a dear estimate", duration=5), lister)
    assert less in await page_of(saved.key)
    credits = await report_credits(lister.credentials, lister.bucket, days=1)
    assert ([day.cost_difference for day in credits.days], credits.summary[-len(less) :]) == ([-63], less)
    assert "| 1 | 12 | 0 | -63 |" in (await artifacts("loova-credits"))[-1]


def is_accepted(parameters: dict[str, Any], schema: dict[str, Any]) -> bool:
    try:
        validate(parameters, schema, raise_on_error=True)
    except ValidationError:
        return False
    return True


async def page_of(key: str) -> str:
    async with get_client() as client:
        pages = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_="loova-video-")))
    return "".join(str(page.data) for page in pages if key in str(page.data))


@pytest.mark.parametrize(("tolerance", "is_told"), [(0.1, True), (0.3, False)])
async def test_a_difference_within_the_tolerance_sends_no_event(place, loova, monkeypatch, tolerance, is_told):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_LOOVA_COST_TOLERANCE", str(tolerance))
    assert LoovaSettings.load().cost_tolerance == tolerance
    loova.fail(on="poll", envelope={"data": {"credits_cost": 75}}, times=None)
    request = VideoRequest(prompt=f"within {tolerance}", duration=4)
    await video(request, place)
    told = {one["event"] for one in await events_of(f"loova.job.{request.key}", 3 + is_told)}
    assert ("loova.job.cost_differs" in told) == is_told
