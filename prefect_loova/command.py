"""What the flows of this project share as commands: where to buy and save, the simulated place, outcomes, progress."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import random
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from prefect.exceptions import TerminationSignal
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from prefect_loova._prefect.context import LOCATION_ARGUMENTS
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import (
    AbandonedError,
    BatchError,
    BudgetError,
    InDoubtError,
    InvalidRequestError,
    LoovaError,
    RejectedError,
    TaskFailedError,
    WaitTimeoutError,
    redact,
)
from prefect_loova.store.prefix import validate_bucket

# Of the temporary server that Prefect starts where none is configured: its first start takes long on a slow machine,
# and its telemetry shows a traceback when it meets the database locked.
_SERVER: dict[Any, Any] = {
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180,
}

T = TypeVar("T")

SIMULATED_SECONDS = 5.0
"""How long a simulated generation takes, in seconds."""

_OUTCOMES: list[tuple[type[LoovaError], str, int]] = [
    (InvalidRequestError, "invalid", 2),
    (BudgetError, "over_budget", 6),
    (BatchError, "incomplete", 4),
    (InDoubtError, "in_doubt", 3),
    (RejectedError, "rejected", 4),
    (TaskFailedError, "failed", 4),
    (AbandonedError, "abandoned", 4),
    (WaitTimeoutError, "submitted", 5),
]


class InterruptedRunError(LoovaError):
    """Ctrl-C or SIGTERM ended the command."""


class Place(NamedTuple):
    """Where to buy and where to save."""

    credentials: LoovaCredentials
    bucket: S3Bucket


class Parser(argparse.ArgumentParser):
    """An argument parser that reports bad arguments as every other bad input, with the fields of a place."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(f"{message}\n{self.format_usage().strip()}")

    def add_place(self) -> None:
        """Add the arguments that name the account, the bucket, and the simulated place."""
        self.add_argument("--bucket", metavar="NAME", help="the S3 bucket (not needed with --s3-block or --simulate)")
        self.add_argument("--prefix", metavar="P", default="loova", help="where in the bucket (default: loova)")
        self.add_argument("--credentials", metavar="BLOCK", help="a Loova Credentials block (default: LOOVA_API_KEY)")
        self.add_argument("--s3-block", metavar="BLOCK", help="an S3 Bucket block (default: boto3's own configuration)")
        self.add_argument("--json", action="store_true", help="stdout is exactly one JSON object")
        self.add_argument(
            "--simulate", action="store_true", help="no account: a Loova and an S3 server on this machine"
        )
        self.add_state()

    def add_state(self) -> None:
        """Add where a simulated place keeps what it knows."""
        kept = Path(".loova-simulated")
        self.add_argument("--state", metavar="DIR", type=Path, default=kept, help=f"of the simulated place ({kept})")


def number(text: str) -> Any:
    """A number where it is one, for the request to check; else the text as it was given."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def seconds(text: str) -> float:
    """An argument in seconds, above 0."""
    value = number(text)
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} was given: must be a number of seconds above 0")
    return float(value)


async def place(args: argparse.Namespace) -> Place:
    """The blocks and the environment that the arguments name.

    Raises:
        InvalidRequestError: Something is missing, and what to do about it.
    """
    if not args.bucket and not args.s3_block:
        raise InvalidRequestError("bucket: is missing; give --bucket NAME, --s3-block BLOCK, or try it with --simulate")
    if args.bucket:
        validate_bucket(args.bucket)
    try:
        credentials = await _load(LoovaCredentials, args.credentials) or LoovaCredentials.from_env()
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{error.message}; or try it without an account: --simulate") from None
    bucket = await _load(S3Bucket, args.s3_block) or S3Bucket(bucket_name=args.bucket, credentials=AwsCredentials())
    if args.bucket:
        bucket = bucket.model_copy(update={"bucket_name": args.bucket})
    return Place(credentials, bucket)


async def _load(kind: Any, name: str | None) -> Any:
    if name is None:
        return None
    try:
        return await kind.aload(name)
    except ValueError as error:
        raise InvalidRequestError(f"{kind.__name__}: no block {name!r} can be loaded ({redact(error)})") from None


@contextmanager
def simulated(state: Path) -> Iterator[Place]:
    """A Loova and an S3 server on this machine, which keep what they know in one folder."""
    from prefect_loova.simulator.s3 import EmbeddedS3  # noqa: PLC0415

    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        s3 = stack.enter_context(EmbeddedS3(state))
        loova = stack.enter_context(_simulator(state / "loova"))
        say("SIMULATED: no account is used, nothing is paid, and the video is a test picture.")
        say(f"Loova is simulated at {loova.base_url}, S3 at {s3.endpoint_url}; both keep their state in {state}.")
        aws = AwsCredentials(
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=SecretStr(s3.secret_key),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
        )
        credentials = LoovaCredentials(api_key=SecretStr(loova.api_key), base_url=loova.base_url)
        named = LOCATION_ARGUMENTS.set(shlex.join(["--simulate", "--state", str(state)]))
        stack.callback(LOCATION_ARGUMENTS.reset, named)
        yield Place(credentials, S3Bucket(bucket_name=s3.bucket, credentials=aws))


@contextmanager
def _simulator(state: Path) -> Iterator[Any]:
    """The simulator on the port that it had before: the job records name their API by it."""
    from prefect_loova.simulator import LoovaSimulator  # noqa: PLC0415

    state.mkdir(parents=True, exist_ok=True)
    kept = state / "port"
    # Below those that outgoing connections take: it must be free again the next time.
    ports = [int(kept.read_text())] if kept.exists() else random.sample(range(10_000, 12_000), 20)
    for port in ports:
        simulator = LoovaSimulator(generation_seconds=SIMULATED_SECONDS, state=state, port=port)
        with suppress(OSError):
            simulator.start()
            break
    else:
        raise InvalidRequestError(
            f"state: {state} belongs to the simulated Loova on port {ports[0]}, and that port is taken: "
            "end the program that has it, try again in a minute, or give another --state"
        )
    try:
        kept.write_text(str(simulator.port))
        yield simulator
    finally:
        simulator.close()


def to_disk(uri: str, bucket: S3Bucket, path: Path) -> Path:
    """Copy an object of the simulated bucket to where a person can open it."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    key = uri.removeprefix(f"s3://{bucket.bucket_name}/")
    bucket.credentials.get_s3_client().download_file(bucket.bucket_name, key, str(path))
    return path


def fail(error: Exception, as_json: bool) -> int:
    """Say how the command failed; returns its exit code."""
    state, code = next(((state, code) for kind, state, code in _OUTCOMES if isinstance(error, kind)), ("error", 1))
    if isinstance(error, RejectedError) and error.task_id is not None:
        # Not the submit was refused but a later look: the job is bought.
        state, code = "error", 1
    message = str(error) if isinstance(error, LoovaError) else f"{type(error).__name__}: {redact(error)}"
    if as_json:
        known = {name: getattr(error, name, None) for name in ("task_id", "trace_id")}
        print(json.dumps({"state": state, "error": {"type": type(error).__name__, "message": message} | known}))
    else:
        say(f"{state.replace('_', ' ')}: {message}")
    return code


def amount(text: str) -> float:
    """An argument in credits, 0 or above."""
    value = number(text)
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} was given: must be a number of credits, 0 or above")
    return float(value)


def in_place(args: argparse.Namespace, work: Callable[[Place], Awaitable[T]]) -> T:
    """Run something in the place that the arguments name: the real one, or the simulated one."""
    if args.simulate:
        with simulated(args.state) as where:
            return asyncio.run(_awaited(work, where))
    return asyncio.run(_in_real_place(args, work))


async def _awaited(work: Callable[[Place], Awaitable[T]], where: Place) -> T:
    return await work(where)


async def _in_real_place(args: argparse.Namespace, work: Callable[[Place], Awaitable[T]]) -> T:
    return await work(await place(args))


def say(line: str) -> None:
    """A line for the person at the terminal; stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def run(work: Callable[[argparse.Namespace], None], parser: Parser, argv: list[str]) -> int:
    """Run a command to its exit code, with every error as one message and without a traceback.

    Args:
        work: What to do with the arguments.
        parser: Reads them.
        argv: The arguments, without the program's name.
    """
    as_json = "--json" in argv
    # Prefect hands a SIGTERM on to whoever handled it before, after it has noted that the run ended by it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args = parser.parse_args(argv)
        with temporary_settings(set_defaults=_SERVER), _terminal():
            work(args)
    except (KeyboardInterrupt, TerminationSignal):
        return fail(InterruptedRunError("nothing is lost: run the same command again to go on"), as_json)
    except Exception as error:
        return fail(error, as_json)
    return 0


@contextmanager
def _terminal() -> Iterator[None]:
    """Logs without tracebacks of what `fail` tells anyway, and progress for a person who looks."""
    log = logging.getLogger("prefect_loova.jobs.wait")
    level, told = log.level, _AlreadyTold()
    handlers = [
        handler
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs")
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(told)
    progress = _WaitingLine() if sys.stderr.isatty() else None
    if progress is not None:
        log.addHandler(progress)
        log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        if progress is not None:
            progress.close()
            log.removeHandler(progress)
            log.setLevel(level)
        for handler in handlers:
            handler.removeFilter(told)


class _AlreadyTold(logging.Filter):
    """Drops the traceback of our own errors from the console: their message says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], LoovaError):
            record.exc_info = record.exc_text = None
        return True


class _WaitingLine(logging.Handler):
    """One line that shows the waiting: elapsed time, Loova's state, and when the next look is due."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._line = self._progress.add_task("waiting", total=None)

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "ended"):
            self._progress.stop()
        elif hasattr(record, "pause"):
            status = redact(getattr(record, "status", ""), 40)
            self._progress.update(self._line, description=f"{status}, next look in {record.pause:.0f} s")
            self._progress.start()

    def close(self) -> None:
        self._progress.stop()
        super().close()
