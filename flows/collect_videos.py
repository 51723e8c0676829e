"""Finish what other runs left: a flow for a schedule of every minute or so, and a command.

    python flows/collect_videos.py --bucket my-bucket
    python flows/collect_videos.py KEY --bucket my-bucket

With a job's key, the beginning of its key, or its Loova task, only that job is looked at. Exit codes: 0 looked at all;
2 invalid input; 1 anything else.
"""

from __future__ import annotations

import argparse
import sys

from prefect_loova import CollectedVideos, collect_videos
from prefect_loova.command import Parser, Place, in_place, run

__all__ = ["collect_videos"]


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="collect_videos.py", description="Save what is made, submit what is queued, and end.")
    parser.add_argument("key", nargs="?", default="", help="only this job: its key, or its Loova task")
    parser.add_place()
    return parser


def main(args: argparse.Namespace) -> None:
    """Look at the open jobs once and print what was found."""

    async def collect(where: Place) -> CollectedVideos:
        return await collect_videos(where.credentials, where.bucket, prefix=args.prefix, key=args.key)

    found = in_place(args, collect)
    print(found.model_dump_json() if args.json else found.summary)


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
