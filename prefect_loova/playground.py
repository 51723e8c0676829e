"""A place to try deployments and schedules in, without an account: `python -m prefect_loova.playground`, until Ctrl-C.

It keeps a simulated Loova and an S3 server up on this machine, stores the two blocks that lead there in the Prefect
server of `PREFECT_API_URL`, and puts a list of three videos into the bucket. Run it again, and it goes on with what it
had. Exit codes: 0 ended; 2 invalid input; 1 anything else.
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
    """The command's arguments."""
    parser = Parser(
        prog="python -m prefect_loova.playground", description="Keep a simulated place up, with its blocks."
    )
    parser.add_argument("--block", metavar="NAME", default="loova", help="the name of both blocks (default: loova)")
    parser.add_state()
    return parser


async def store_blocks(where: Place, name: str) -> None:
    """Store both blocks, over simulated ones of that name only.

    Raises:
        InvalidRequestError: A block of that name leads somewhere else.
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
                f"block: a {kind._block_type_name} {name!r} is there that is not simulated: give another name"
            )
    for block in (where.credentials, where.bucket):
        await block.asave(name, overwrite=True)


def put_list(bucket: S3Bucket) -> str:
    """Put the list into the bucket; returns its URI."""
    key = "loova/prompts.csv"
    bucket.credentials.get_s3_client().put_object(Bucket=bucket.bucket_name, Key=key, Body=PROMPTS.encode())
    return f"s3://{bucket.bucket_name}/{key}"


def _is_simulated(block: LoovaCredentials | S3Bucket, where: Place) -> bool:
    """A Loova on this machine is a simulated one; an S3 server here may be somebody's own, with a bucket of theirs."""
    if isinstance(block, LoovaCredentials):
        return urlsplit(block.base_url).hostname == "127.0.0.1"
    endpoint = getattr(block.credentials.aws_client_parameters, "endpoint_url", None) or ""
    return urlsplit(endpoint).hostname == "127.0.0.1" and block.bucket_name == where.bucket.bucket_name


def _work(args: argparse.Namespace) -> None:
    if not PREFECT_API_URL.value():
        raise InvalidRequestError(
            "PREFECT_API_URL is not set: start `prefect server start` in another terminal, and set it to "
            "http://127.0.0.1:4200/api, so that the blocks are kept where your deployments look for them"
        )
    with simulated(args.state) as where:
        asyncio.run(store_blocks(where, args.block))
        say(f"Two blocks named {args.block!r} are stored in {PREFECT_API_URL.value()}.")
        say("A list of three videos is here; Ctrl-C ends it all:")
        print(put_list(where.bucket), flush=True)
        ended = threading.Event()
        with suppress(KeyboardInterrupt):
            while not ended.wait(3600):  # without a timeout a signal would not wake it up on Windows
                pass


def main(argv: list[str]) -> int:
    """Run the command to its exit code; Ctrl-C is how it is meant to end."""
    return run(_work, parser(), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
