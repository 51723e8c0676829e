"""`prefect-loova simulator`: the simulator, which knows nothing of this package."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def simulator(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run the simulator with its own arguments."""
    from prefect_loova.simulator.__main__ import main  # noqa: PLC0415

    return main(list(arguments), prog="prefect-loova simulator")
