"""Report the balance of the account and the credits spent. Use it as a flow or as a command.

    python flows/report_credits.py --bucket my-bucket --days 7 --low-below 2000

It sends the event `loova.credits.low` if the balance is below `--low-below`.

Exit codes: 0 reported; 2 invalid input; 1 any other error.
"""

from __future__ import annotations

import argparse
import sys

from prefect_loova import CreditsReport, report_credits
from prefect_loova.command import Parser, Place, amount, in_place, number, run

__all__ = ["report_credits"]


def days(text: str) -> int:
    """Parse a number of days, 1 to 366."""
    value = number(text)
    if not isinstance(value, int) or not 1 <= value <= 366:
        raise argparse.ArgumentTypeError(f"{text!r} was given: must be a number of days, 1 to 366")
    return value


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="report_credits.py", description="Show the balance, and the credits spent by day and model.")
    parser.add_argument("--days", metavar="N", type=days, default=30, help="how many days to report (default: 30)")
    parser.add_argument(
        "--low-below", metavar="N", type=amount, default=1000.0, help="event below N credits (default: 1000)"
    )
    parser.add_place()
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the report."""

    async def report(where: Place) -> CreditsReport:
        return await report_credits(
            where.credentials, where.bucket, prefix=args.prefix, days=args.days, low_below=args.low_below
        )

    totals = in_place(args, report)
    if args.json:
        print(totals.model_dump_json())
        return
    for day in totals.days:
        print(f"{day.day}  {day.model:20} {day.deployment or '-':30} {day.videos:5} videos {day.credits:10g} credits")
    print(totals.summary)


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
