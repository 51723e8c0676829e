"""Save the videos of other runs, submit queued requests, and report jobs in doubt. Use it as a flow or as a command.

    python flows/collect_videos.py --bucket my-bucket
    python flows/collect_videos.py KEY --bucket my-bucket

Schedule it every minute or so. With a job's key, the beginning of its key, or its Loova task, it checks that job only.

Exit codes: 0 all jobs were checked; 2 invalid input; 1 any other error.
"""

from __future__ import annotations

import argparse
import sys

from prefect_loova import CollectedVideos, collect_videos
from prefect_loova.command import Parser, Place, in_place, run

__all__ = ["collect_videos"]


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="collect_videos.py", description="Save videos that are ready, and submit what is queued.")
    parser.add_argument("key", nargs="?", default="", help="collect only this job: its key, or its Loova task")
    parser.add_place()
    return parser


def main(args: argparse.Namespace) -> None:
    """Check the open jobs once, and print the result."""

    async def collect(where: Place) -> CollectedVideos:
        return await collect_videos(where.credentials, where.bucket, prefix=args.prefix, key=args.key)

    collected = in_place(args, collect)
    print(collected.model_dump_json() if args.json else collected.summary)


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
