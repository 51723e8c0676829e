"""What the package uses of Prefect and PyYAML without documentation: these tests fail when a new version moves it."""

from __future__ import annotations

from uuid import uuid4

import pytest
import yaml
from prefect.assets import Asset
from prefect.context import AssetContext
from prefect_aws import AwsCredentials, S3Bucket

from prefect_loova._prefect.context import _document_name
from prefect_loova._prefect.lineage import _add_to_task
from prefect_loova._prefect.run import _process_run
from prefect_loova.batches.documents import _YamlLoader


def test_prefect_knows_the_run_of_a_workers_process_outside_of_every_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    assert _process_run() is None
    run = str(uuid4())
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run)
    assert _process_run() == run


def test_assets_are_added_to_the_context_of_a_task() -> None:
    video, media = Asset(key="s3://bucket/video.mp4"), Asset(key="s3://bucket/cat.png")
    with AssetContext(task_run_id=uuid4()) as context:
        _add_to_task({media}, video, {"model": "seedance_2_0"})
    assert context.direct_asset_dependencies == {media}
    assert context.downstream_assets == {video}
    assert context.materialization_metadata == {video.key: {"model": "seedance_2_0"}}


def test_a_block_that_was_never_saved_has_no_name() -> None:
    block = S3Bucket(bucket_name="my-videos", credentials=AwsCredentials())
    assert _document_name(block) is None
    block._block_document_name = "loova"
    assert _document_name(block) == "loova"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", "16:9"),
        ("010", 10),
        ("08", 8),
        ("+5", 5),
        ("1.5", 1.5),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1e3", "1e3"),
        ("2026-11-28", "2026-11-28"),
        (".inf", ".inf"),
        ("'5'", "5"),
        ("yes", True),
        ("null", None),
    ],
)
def test_yaml_scalars_are_read_without_surprises(text: str, value: object) -> None:
    assert yaml.load(text, _YamlLoader) == value
