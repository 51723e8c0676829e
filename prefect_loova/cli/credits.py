"""`prefect-loova credits`: the balance, and the credits spent."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_loova.cli.console import console
from prefect_loova.cli.options import CREDITS, DAYS, Where
from prefect_loova.cli.server import need_server
from prefect_loova.flows.maintenance import report_credits


def credits(
    *,
    days: Annotated[int, DAYS, Parameter(help="how many days to report (default: 30)")] = 30,
    low_below: Annotated[float, CREDITS, Parameter(help="below N credits, send an event (default: 1000)")] = 1000.0,
    price_per_credit: Annotated[float | None, CREDITS, Parameter(help="what you pay for a credit")] = None,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Print the report. Send the event `loova.credits.low` if the balance is below `--low-below`.

    Exit codes: 0 reported; 2 invalid input; 1 any other error.
    """
    with console(), where.open() as location:
        need_server()
        totals = report_credits(
            location.credentials,
            location.bucket,
            prefix=location.prefix,
            days=days,
            low_below=low_below,
            price_per_credit=price_per_credit,
        )
    if where.json:
        print(totals.model_dump_json())
        return
    for day in totals.days:
        who = f"{day.model:20} {day.deployment or '-':30} {day.label or '-':20}"
        print(f"{day.day}  {who} {day.videos:5} videos {day.credits:10g} credits  {totals.money(day.credits)}".rstrip())
    print(totals.summary)
