"""Make the shots of a story and join them into one film. Use it as a flow or as a command.

    python flows/storyboard.py story.yaml --bucket my-bucket --dry-run
    python flows/storyboard.py story.yaml --bucket my-bucket --max-credits 2000
    python flows/storyboard.py story.yaml --simulate

If you run it again, it continues where the earlier run ended, and pays for no shot twice.

Exit codes: 0 the film is in the bucket; 2 invalid input; 4 shots are missing, and the message says why; 6 over budget,
and nothing was submitted; 1 any other error.
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
    """Return the parser of the command."""
    parser = Parser(prog="storyboard.py", description="Make the shots of a story, and join them into one film.")
    parser.add_argument("storyboard", metavar="FILE", help="a .yaml or .json file, or its s3:// URI")
    parser.add_argument("--dry-run", action="store_true", help="show the prices and spend nothing")
    parser.add_argument("--max-credits", metavar="N", type=amount, help="the most credits to spend (a hard limit)")
    parser.add_argument("--keep-credits", metavar="N", type=amount, default=0.0, help="credits to keep in the account")
    parser.add_argument("--media-folder", metavar="DIR", help="the folder of the local files that the shots name")
    parser.add_argument("--poll-seconds", metavar="S", type=seconds, help="the first pause between polls (default: 20)")
    parser.add_place()
    return parser


async def make(args: argparse.Namespace, where: Place) -> StoryReport:
    """Run the flow. Report errors in the storyboard before a run, and perhaps a Prefect server, starts."""
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
    """Make the film, and print its location."""
    path: Path | None = None
    if args.simulate:
        with simulated(args.state) as where:
            report = asyncio.run(make(args, where))
            if report.film and report.sha256:
                name = f"{Path(args.storyboard).stem}-{report.sha256[:8]}.mp4"
                path = to_disk(report.film, where.bucket, args.state / "videos" / name)
    else:
        report = asyncio.run(make(args, asyncio.run(place(args))))
    line = f"{report.shots.left_to_buy}; a dry run, nothing was spent" if args.dry_run else report.summary
    print(report.model_dump_json() if args.json else line)
    if path is not None and not args.json:
        print(f"Simulated: the film is a test picture. Open it on this machine:\n{path}")


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
