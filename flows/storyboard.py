"""Make a story of several shots, joined into one film: a flow to deploy, and a command.

    python flows/storyboard.py story.yaml --bucket my-bucket --dry-run
    python flows/storyboard.py story.yaml --bucket my-bucket --max-credits 2000
    python flows/storyboard.py story.yaml --simulate

Running it again pays for nothing twice: it goes on where an earlier run ended. Exit codes: 0 the film is there; 2
invalid input; 4 shots are missing, the message says why; 6 over the budget, nothing was started; 1 anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from prefect_loova import StoryReport, generate_storyboard
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova.batches.storyboard import read_storyboard
from prefect_loova.command import Parser, Place, amount, place, run, seconds, simulated, to_disk

__all__ = ["generate_storyboard"]


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="storyboard.py", description="Make a story of several shots, joined into one film.")
    parser.add_argument("storyboard", metavar="FILE", help="a .yaml or .json file, or its s3:// URI")
    parser.add_argument("--dry-run", action="store_true", help="show the price table and spend nothing")
    parser.add_argument("--max-credits", metavar="N", type=amount, help="the credits that may be spent: a hard stop")
    parser.add_argument("--keep-credits", metavar="N", type=amount, default=0.0, help="to be left in the account")
    parser.add_argument("--media-folder", metavar="DIR", help="where the local files lie that the shots may name")
    parser.add_argument("--poll-seconds", metavar="S", type=seconds, help="the first pause between polls (default: 20)")
    parser.add_place()
    return parser


async def make(args: argparse.Namespace, where: Place) -> StoryReport:
    """Read the storyboard, before a run and perhaps a Prefect server is started; then run the flow."""
    read_storyboard(await Manifest(args.storyboard, where.bucket, what="storyboard").read(), args.storyboard)
    return await generate_storyboard(
        args.storyboard,
        credentials=where.credentials,
        bucket=where.bucket,
        prefix=args.prefix,
        dry_run=args.dry_run,
        max_credits=args.max_credits,
        keep_credits=args.keep_credits,
        poll_seconds=args.poll_seconds or (1.0 if args.simulate else 20.0),
        media_folder=args.media_folder,
    )


def main(args: argparse.Namespace) -> None:
    """Make the film and print where it is."""
    path: Path | None = None
    if args.simulate:
        with simulated(args.state) as where:
            report = asyncio.run(make(args, where))
            if report.film and report.sha256:
                name = f"{Path(args.storyboard).stem}-{report.sha256[:8]}.mp4"
                path = to_disk(report.film, where.bucket, args.state / "videos" / name)
    else:
        report = asyncio.run(make(args, asyncio.run(place(args))))
    told = f"{report.shots.left_to_buy}; a dry run, nothing was spent" if args.dry_run else report.summary
    print(report.model_dump_json() if args.json else told)
    if path is not None and not args.json:
        print(f"Simulated: a test picture, to open on this machine:\n{path}")


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
