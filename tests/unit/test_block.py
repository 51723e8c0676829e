"""The schemas of the blocks: Prefect's own, derived once."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from pydantic.json_schema import GenerateJsonSchema

from prefect_loova import LoovaCredentials, LoovaVideos

BLOCKS = pytest.mark.parametrize("block", [LoovaCredentials, LoovaVideos])


@BLOCKS
@pytest.mark.parametrize("options", [{}, {"by_alias": False}, {"mode": "serialization"}], ids=str)
def test_the_schema_is_the_one_that_prefect_derives(block, options):
    derived = Block.model_json_schema.__func__(block, **options)
    assert [block.model_json_schema(**options) for _ in range(2)] == [derived, derived]


@BLOCKS
def test_the_schema_is_derived_once_however_often_prefect_asks(block):
    asked = []

    class Counted(GenerateJsonSchema):
        def generate(self, *args, **kwargs):
            asked.append(block)
            return super().generate(*args, **kwargs)

    for _ in range(3):
        block.model_json_schema(schema_generator=Counted)
    assert len(asked) == 1


@BLOCKS
def test_a_caller_that_changes_its_schema_changes_no_other(block):
    block.model_json_schema()["properties"].clear()
    assert block.model_json_schema()["properties"].keys() == block.model_fields.keys()
