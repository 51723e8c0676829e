"""`prefect-loova playground`: try deployments and schedules without an account, until Ctrl-C."""

from __future__ import annotations

import threading
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter
from prefect.settings import PREFECT_API_URL
from prefect_aws.s3 import S3Bucket

from prefect_loova._sync import run_sync
from prefect_loova.cli.interrupts import is_how_it_ends
from prefect_loova.cli.options import State, check_block_name
from prefect_loova.cli.output import say
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import STATE, is_running, playground_block, servers
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError
from prefect_loova.videos import LoovaVideos

PROMPTS = "prompt,duration\nA boat at sunset,4\nA train in the snow,4\nA kite over a beach,4\n"


def playground(
    *,
    block: Annotated[str, Parameter(help="the name of both blocks (default: loova)")] = "loova",
    state: State = STATE,
) -> None:
    """Run a simulated Loova and an S3 server, with blocks in the Prefect server of `PREFECT_API_URL`.

    It puts a list of three videos into the bucket. If you run it again, it keeps the earlier state.
    Exit codes: 0 stopped; 2 invalid input; 1 any other error.
    """
    check_block_name("block", block)
    if not PREFECT_API_URL.value():
        raise InvalidRequestError(
            "PREFECT_API_URL is not set: run `prefect server start` in another terminal, and set it to "
            "http://127.0.0.1:4200/api, so that your deployments find the blocks"
        )
    need_server()
    other = playground_block(state)
    if other is not None:
        raise InvalidRequestError(
            f"state: a playground runs already with the state in {state}: use its blocks, {other!r}, or give another "
            "--state and another --block"
        )
    with servers(state, block=block) as (credentials, bucket):
        try:
            run_sync(store_blocks(credentials, bucket, block))
            say(f"Blocks named {block!r} are saved in {PREFECT_API_URL.value()}.")
            say("Press Ctrl-C to stop. A list of three videos:")
            print(put_list(bucket), flush=True)
            ended = threading.Event()
            while not ended.wait(3600):  # on Windows a signal wakes it up only if it has a timeout
                pass
        except KeyboardInterrupt:
            is_how_it_ends()


async def store_blocks(credentials: LoovaCredentials, bucket: S3Bucket, name: str) -> None:
    """Save both blocks, and a `LoovaVideos` block of them.

    Overwrite only simulated blocks of that name, and none of a playground that runs.

    Raises:
        InvalidRequestError: A block of that name is not simulated, or belongs to another playground.
    """
    for block in (credentials, bucket):
        kind: Any = type(block)
        await kind.aregister_type_and_schema()
        try:
            known = await kind.aload(name)
        except ValueError:
            continue
        if not _is_simulated(known, bucket):
            raise InvalidRequestError(
                f"block: a {kind._block_type_name} {name!r} exists that is not simulated: give another name"
            )
        if (
            isinstance(known, LoovaCredentials)
            and known.base_url != credentials.base_url
            and is_running(known.base_url)
        ):
            raise InvalidRequestError(
                f"block: {name!r} belongs to a playground that runs at {known.base_url}: use that one, stop it, or "
                "give another --block"
            )
    for block in (credentials, bucket):
        await block.asave(name, overwrite=True)
    await LoovaVideos.aregister_type_and_schema()
    await LoovaVideos(credentials=credentials, bucket=bucket).asave(name, overwrite=True)


def put_list(bucket: S3Bucket) -> str:
    """Put the list into the bucket, and return its URI."""
    key = "loova/prompts.csv"
    bucket.credentials.get_s3_client().put_object(Bucket=bucket.bucket_name, Key=key, Body=PROMPTS.encode())
    return f"s3://{bucket.bucket_name}/{key}"


def _is_simulated(block: LoovaCredentials | S3Bucket, ours: S3Bucket) -> bool:
    """Return whether a block is simulated. A user may run an S3 server here too, so the bucket's name must match."""
    if isinstance(block, LoovaCredentials):
        return urlsplit(block.base_url).hostname == "127.0.0.1"
    endpoint = getattr(block.credentials.aws_client_parameters, "endpoint_url", None) or ""
    return urlsplit(endpoint).hostname == "127.0.0.1" and block.bucket_name == ours.bucket_name
