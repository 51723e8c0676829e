"""Show the account's credits and what was spent: a flow to schedule, and a command.

    python flows/report_credits.py --bucket my-bucket --days 7 --low-below 2000

Sends the event `loova.credits.low` when the balance is below a threshold. Exit codes: 0 shown; 2 invalid input;
1 anything else.
"""

from __future__ import annotations

import argparse
import sys

from prefect_loova import CreditsReport, report_credits
from prefect_loova.command import Parser, Place, amount, in_place, number, run

__all__ = ["report_credits"]


def days(text: str) -> int:
    """An argument in days, 1 to 366."""
    value = number(text)
    if not isinstance(value, int) or not 1 <= value <= 366:
        raise argparse.ArgumentTypeError(f"{text!r} was given: must be a number of days, 1 to 366")
    return value


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="report_credits.py", description="Show the credits, and the spend by day and model.")
    parser.add_argument("--days", metavar="N", type=days, default=30, help="how many days to look back (default: 30)")
    parser.add_argument("--low-below", metavar="N", type=amount, default=1000.0, help="credits (default: 1000)")
    parser.add_place()
    return parser


def main(args: argparse.Namespace) -> None:
    """Add up and print."""

    async def report(where: Place) -> CreditsReport:
        return await report_credits(
            where.credentials, where.bucket, prefix=args.prefix, days=args.days, low_below=args.low_below
        )

    found = in_place(args, report)
    if args.json:
        print(found.model_dump_json())
        return
    for day in found.days:
        print(f"{day.day}  {day.model:20} {day.deployment or '-':30} {day.videos:5} videos {day.credits:10g} credits")
    print(found.summary)


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
