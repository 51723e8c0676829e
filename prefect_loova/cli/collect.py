"""`prefect-loova collect`: save what is ready, and submit what is queued."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_loova.cli.console import console
from prefect_loova.cli.options import Where
from prefect_loova.cli.server import need_server
from prefect_loova.flows.maintenance import collect_videos


def collect(
    key: Annotated[str, Parameter(help="only this job: its key, the beginning of it, or its Loova task")] = "",
    /,
    *,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Check the open jobs once, and print the result. Run it every minute or so.

    Exit codes: 0 all jobs were checked; 2 invalid input; 1 any other error.
    """
    with console(), where.open() as location:
        need_server()
        collected = collect_videos(location.credentials, location.bucket, prefix=location.prefix, key=key)
    print(collected.model_dump_json() if where.json else collected.summary)
