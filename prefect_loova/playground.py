"""Try deployments and schedules without an account: `python -m prefect_loova.playground` runs until Ctrl-C.

It runs a simulated Loova and an S3 server on this machine. It saves two blocks for them in the Prefect server of
`PREFECT_API_URL`, and puts a list of three videos into the bucket. If you run it again, it keeps the earlier state.
Exit codes: 0 stopped; 2 invalid input; 1 any other error.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL
from prefect_aws.s3 import S3Bucket

from prefect_loova.command import Parser, Place, run, say, simulated
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError

PROMPTS = "prompt,duration\nA boat at sunset,4\nA train in the snow,4\nA kite over a beach,4\n"


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="python -m prefect_loova.playground", description="Run a simulated Loova with its blocks.")
    parser.add_argument("--block", metavar="NAME", default="loova", help="the name of both blocks (default: loova)")
    parser.add_state()
    return parser


async def store_blocks(where: Place, name: str) -> None:
    """Save both blocks. Overwrite only simulated blocks of that name.

    Raises:
        InvalidRequestError: A block of that name is not simulated.
    """
    for block in (where.credentials, where.bucket):
        kind: Any = type(block)
        await kind.aregister_type_and_schema()
        try:
            known = await kind.aload(name)
        except ValueError:
            continue
        if not _is_simulated(known, where):
            raise InvalidRequestError(
                f"block: a {kind._block_type_name} {name!r} exists that is not simulated: give another name"
            )
    for block in (where.credentials, where.bucket):
        await block.asave(name, overwrite=True)


def put_list(bucket: S3Bucket) -> str:
    """Put the list into the bucket, and return its URI."""
    key = "loova/prompts.csv"
    bucket.credentials.get_s3_client().put_object(Bucket=bucket.bucket_name, Key=key, Body=PROMPTS.encode())
    return f"s3://{bucket.bucket_name}/{key}"


def _is_simulated(block: LoovaCredentials | S3Bucket, where: Place) -> bool:
    """Return whether a block is simulated. A user may run an S3 server here too, so the bucket's name must match."""
    if isinstance(block, LoovaCredentials):
        return urlsplit(block.base_url).hostname == "127.0.0.1"
    endpoint = getattr(block.credentials.aws_client_parameters, "endpoint_url", None) or ""
    return urlsplit(endpoint).hostname == "127.0.0.1" and block.bucket_name == where.bucket.bucket_name


def _work(args: argparse.Namespace) -> None:
    if not PREFECT_API_URL.value():
        raise InvalidRequestError(
            "PREFECT_API_URL is not set: run `prefect server start` in another terminal, and set it to "
            "http://127.0.0.1:4200/api, so that your deployments find the blocks"
        )
    with simulated(args.state) as where:
        asyncio.run(store_blocks(where, args.block))
        say(f"Two blocks named {args.block!r} are saved in {PREFECT_API_URL.value()}.")
        say("Press Ctrl-C to stop. A list of three videos:")
        print(put_list(where.bucket), flush=True)
        ended = threading.Event()
        with suppress(KeyboardInterrupt):
            while not ended.wait(3600):  # on Windows a signal wakes it up only if it has a timeout
                pass


def main(argv: list[str]) -> int:
    """Run the command until Ctrl-C, and return its exit code."""
    return run(_work, parser(), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
