"""The options of a batch come from the parameters of the flows, by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from prefect_loova import generate_from_manifest, generate_storyboard, generate_videos
from prefect_loova.flows.batch_run import Batch

OF_THE_LOCATION = {"credentials", "bucket", "prefix"}
READ_BY_THE_FLOW = {"requests", "manifest", "storyboard", "dry_run", "max_rows", "media_folder"} | {
    "prompt_template",
    "columns",
}


@pytest.mark.parametrize("flow", [generate_videos, generate_from_manifest, generate_storyboard])
def test_each_parameter_of_a_flow_reaches_the_batch(flow: Any) -> None:
    options = {one.name for one in fields(Batch)}

    assert set(flow.parameters.properties) - options <= OF_THE_LOCATION | READ_BY_THE_FLOW
