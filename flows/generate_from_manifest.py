"""Make the videos of a list (CSV or JSON lines). Use it as a flow or as a command.

    python flows/generate_from_manifest.py prompts.csv --bucket my-bucket --dry-run
    python flows/generate_from_manifest.py prompts.csv --bucket my-bucket --max-credits 2000
    python flows/generate_from_manifest.py s3://my-bucket/prompts.jsonl --bucket my-bucket --no-wait

Exit codes: 0 all videos are in the bucket; 2 invalid input; 4 some videos are missing, and the report says why; 6 over
budget, and nothing was submitted; 1 any other error.
"""

from __future__ import annotations

import argparse
import sys

from prefect_loova import BatchReport, generate_from_manifest
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova.batches.manifest import read_manifest
from prefect_loova.command import Parser, Place, amount, in_place, run, seconds

__all__ = ["generate_from_manifest"]


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="generate_from_manifest.py", description="Make the videos of a list, and pay for each once.")
    parser.add_argument("manifest", metavar="FILE", help="a .csv or .jsonl file, or its s3:// URI")
    parser.add_argument("--dry-run", action="store_true", help="show the prices and spend nothing")
    parser.add_argument("--max-credits", metavar="N", type=amount, help="the most credits to spend (a hard limit)")
    parser.add_argument("--keep-credits", metavar="N", type=amount, default=0.0, help="credits to keep in the account")
    parser.add_argument("--stop-at-budget", action="store_true", help="over budget: make as many as fit, not none")
    parser.add_argument("--no-wait", action="store_true", help="queue the videos; collect_videos.py does the rest")
    parser.add_argument("--media-folder", metavar="DIR", help="the folder of the local files that the list names")
    parser.add_argument("--poll-seconds", metavar="S", type=seconds, help="the first pause between polls (default: 20)")
    parser.add_place()
    return parser


def main(args: argparse.Namespace) -> None:
    """Make the videos, and print the report."""

    async def make(where: Place) -> BatchReport:
        # Report errors in the list before a run, and perhaps a Prefect server, starts. The flow reads the list again.
        read_manifest(await Manifest(args.manifest, where.bucket).read(), args.manifest)
        return await generate_from_manifest(
            args.manifest,
            credentials=where.credentials,
            bucket=where.bucket,
            prefix=args.prefix,
            dry_run=args.dry_run,
            max_credits=args.max_credits,
            keep_credits=args.keep_credits,
            over_budget="stop" if args.stop_at_budget else "refuse",
            wait=not args.no_wait,
            media_folder=args.media_folder,
            poll_seconds=args.poll_seconds or (1.0 if args.simulate else 20.0),
        )

    report = in_place(args, make)
    line = f"{report.left_to_buy}; a dry run, nothing was spent" if args.dry_run else report.summary
    print(report.model_dump_json() if args.json else line)


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
