"""The location of `--simulate` and of the playground: a simulated Loova and an S3 server on this machine."""

from __future__ import annotations

import json
import os
import random
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_loova._prefect.context import LOCATION_ARGUMENTS, Location
from prefect_loova.cli.output import say
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, redact

STATE = Path(".loova-simulated")
"""The default folder of the state."""

SIMULATED_SECONDS = 5.0
"""The duration of a simulated generation, in seconds."""

_INSTALL = "pip install 'prefect-loova[simulator]'"


@contextmanager
def simulated(state: Path, prefix: str) -> Iterator[Location]:
    """Run a simulated Loova and an S3 server, with their state in one folder, or use those of a running playground.

    Raises:
        InvalidRequestError: The folder cannot be used, another command uses it, or an extra is missing.
    """
    with ExitStack() as stack:
        playground = _read_playground(state)
        if playground is not None:
            location = Location(*_blocks(playground), prefix)
            say(f"SIMULATED: by the playground that runs with the state in {state}; nothing is paid.")
        else:
            location = Location(*stack.enter_context(servers(state)), prefix)
            say("SIMULATED: no account is used, nothing is paid, and the video is a test picture.")
        token = LOCATION_ARGUMENTS.set(shlex.join(["--simulate", "--state", str(state)]))
        stack.callback(LOCATION_ARGUMENTS.reset, token)
        yield location


@contextmanager
def servers(state: Path, *, block: str | None = None) -> Iterator[tuple[LoovaCredentials, S3Bucket]]:
    """Run both servers, and yield the blocks for them.

    Args:
        state: The folder of their state.
        block: The name of the blocks of a playground, which other commands use too; None: not a playground.

    Raises:
        InvalidRequestError: The folder cannot be used, another command uses it, or an extra is missing.
    """
    from prefect_loova.simulator.s3 import EmbeddedS3, EmbeddedS3Error, seaweedfs_binary  # noqa: PLC0415

    if find_spec("python_multipart") is None or not (seaweedfs_binary() or find_spec("moto")):
        raise InvalidRequestError(f"simulate: the extra [simulator] is not installed: {_INSTALL}")
    with ExitStack() as stack:
        try:
            state.mkdir(parents=True, exist_ok=True)
            s3 = stack.enter_context(EmbeddedS3(state))
            loova = stack.enter_context(_simulator(state / "loova"))
            facts = {
                "base_url": loova.base_url,
                "api_key": loova.api_key,
                "bucket": s3.bucket,
                "endpoint_url": s3.endpoint_url,
                "access_key": s3.access_key,
                "secret_key": s3.secret_key,
            }
            if block is not None:
                stack.enter_context(_shared(state, {**facts, "block": block}))
        except EmbeddedS3Error as error:
            if "in use" not in str(error):
                raise InvalidRequestError(f"state: {error}") from None
            raise InvalidRequestError(
                f"state: another command uses {redact(state, 200)}: wait for it to end, or give another --state"
            ) from None
        except OSError as error:
            raise InvalidRequestError(
                f"state: {redact(state, 200)} cannot be used ({error.strerror}): give a folder that can be written"
            ) from None
        yield _blocks(facts)


def playground_block(state: Path) -> str | None:
    """Return the name of the blocks of the playground that runs with this state, or None."""
    facts = _read_playground(state)
    return None if facts is None else facts["block"]


def is_running(base_url: str) -> bool:
    """Return whether a simulated Loova answers at this URL."""
    with suppress(httpx.HTTPError, ValueError):
        answer = httpx.get(base_url.removesuffix("/api") + "/_simulator/ledger", timeout=2, trust_env=False)
        return answer.status_code == 200 and "totals" in answer.json()
    return False


def to_disk(uri: str, bucket: S3Bucket, path: Path) -> Path:
    """Download an object of the simulated bucket to a local file."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    key = uri.removeprefix(f"s3://{bucket.bucket_name}/")
    bucket.credentials.get_s3_client().download_file(bucket.bucket_name, key, str(path))
    return path


def _blocks(facts: dict[str, str]) -> tuple[LoovaCredentials, S3Bucket]:
    aws = AwsCredentials(
        aws_access_key_id=facts["access_key"],
        aws_secret_access_key=SecretStr(facts["secret_key"]),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=facts["endpoint_url"]),
    )
    credentials = LoovaCredentials(api_key=SecretStr(facts["api_key"]), base_url=facts["base_url"])
    return credentials, S3Bucket(bucket_name=facts["bucket"], credentials=aws)


@contextmanager
def _shared(state: Path, facts: dict[str, str]) -> Iterator[None]:
    """Let other commands find the servers of a playground while the block is open."""
    file = _playground_file(state)
    with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
        json.dump(facts, out)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _read_playground(state: Path) -> dict[str, str] | None:
    """Return the facts of the playground with this state. A killed one leaves its file, but does not answer."""
    with suppress(OSError, ValueError, KeyError):
        facts: dict[str, str] = json.loads(_playground_file(state).read_text())
        return facts if is_running(facts["base_url"]) else None
    return None


def _playground_file(state: Path) -> Path:
    return state / "playground.json"


@contextmanager
def _simulator(state: Path) -> Iterator[Any]:
    """Run the simulator on the same port as before, because the job records contain it."""
    from prefect_loova.simulator import LoovaSimulator  # noqa: PLC0415

    state.mkdir(parents=True, exist_ok=True)
    port_file = state / "port"
    # Below the ports of outgoing connections, because it must be free again the next time.
    ports = [int(port_file.read_text())] if port_file.exists() else random.sample(range(10_000, 12_000), 20)
    for port in ports:
        simulator = LoovaSimulator(generation_seconds=SIMULATED_SECONDS, state=state, port=port)
        with suppress(OSError):
            simulator.start()
            break
    else:
        raise InvalidRequestError(
            f"state: {state} belongs to the simulated Loova on port {ports[0]}, and that port is taken: "
            "stop the program that uses it, try again in a minute, or give another --state"
        )
    try:
        port_file.write_text(str(simulator.port))
        yield simulator
    finally:
        simulator.close()
