"""What the blocks of this package share: their links in the UI, and schemas that are derived once."""

from __future__ import annotations

from abc import ABC
from copy import deepcopy
from functools import cache
from typing import Any

from prefect.blocks.core import Block

LOGO_URL = "https://raw.githubusercontent.com/prefect-loova/prefect-loova/main/docs/logo.png"
DOCUMENTATION_URL = "https://github.com/prefect-loova/prefect-loova#readme"


class LoovaBlock(Block, ABC):
    """A block of this package.

    When Prefect saves a block, it asks for the schema once for each field.
    """

    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    @classmethod
    def __dispatch_key__(cls) -> str:
        """Return Prefect's key of this type, its slug. `Block` derives the schemas of all nested blocks for it."""
        return cls.get_block_type_slug()

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON schema. The arguments are those of `Block`, which derives the schema at the first call."""
        return deepcopy(_derived(cls, *args, **kwargs))


@cache
def _derived(block: type[LoovaBlock], *args: Any, **kwargs: Any) -> dict[str, Any]:
    return super(LoovaBlock, block).model_json_schema(*args, **kwargs)
