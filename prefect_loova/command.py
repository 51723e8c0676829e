"""Shared code of the commands: the location options, the simulated location, exit codes, and progress."""

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

# Prefect starts a temporary server if none is configured. On a slow machine its first start takes long, and its
# telemetry logs a traceback if the database is locked.
_SERVER_SETTINGS: dict[Any, Any] = {
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180,
}

T = TypeVar("T")

SIMULATED_SECONDS = 5.0
"""The duration of a simulated generation, in seconds."""

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
    """The blocks to buy and to save with."""

    credentials: LoovaCredentials
    bucket: S3Bucket


class Parser(argparse.ArgumentParser):
    """An argument parser that reports bad arguments like other invalid input, with the location options."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(f"{message}\n{self.format_usage().strip()}")

    def add_place(self) -> None:
        """Add the options that name the account, the bucket, and the simulated location."""
        self.add_argument("--bucket", metavar="NAME", help="the S3 bucket (not needed with --s3-block or --simulate)")
        self.add_argument("--prefix", metavar="P", default="loova", help="the prefix in the bucket (default: loova)")
        self.add_argument("--credentials", metavar="BLOCK", help="a Loova Credentials block (default: LOOVA_API_KEY)")
        self.add_argument("--s3-block", metavar="BLOCK", help="an S3 Bucket block (default: boto3's own configuration)")
        self.add_argument("--json", action="store_true", help="print exactly one JSON object to stdout")
        self.add_argument(
            "--simulate", action="store_true", help="no account: a Loova and an S3 server on this machine"
        )
        self.add_state()

    def add_state(self) -> None:
        """Add the option for the state of the simulated location."""
        state = Path(".loova-simulated")
        self.add_argument("--state", metavar="DIR", type=Path, default=state, help=f"simulated state ({state})")


def number(text: str) -> Any:
    """Parse a number. Return other text unchanged, for the request to report."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def seconds(text: str) -> float:
    """Parse an argument in seconds, above 0."""
    return _float(text, "seconds above 0", lambda value: value > 0)


def amount(text: str) -> float:
    """Parse an argument in credits, 0 or above."""
    return _float(text, "credits, 0 or above", lambda value: value >= 0)


def _float(text: str, rule: str, is_valid: Callable[[float], bool]) -> float:
    value = number(text)
    if not isinstance(value, int | float) or not math.isfinite(value) or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} was given: must be a number of {rule}")
    return float(value)


async def place(args: argparse.Namespace) -> Place:
    """Return the blocks that the arguments and the environment name.

    Raises:
        InvalidRequestError: An argument or a block is missing; the error says what to do.
    """
    if not args.bucket and not args.s3_block:
        raise InvalidRequestError(
            "bucket: is missing; give --bucket NAME or --s3-block BLOCK, or try it with --simulate"
        )
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
    """Run a simulated Loova and an S3 server on this machine, with their state in one folder."""
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
        token = LOCATION_ARGUMENTS.set(shlex.join(["--simulate", "--state", str(state)]))
        stack.callback(LOCATION_ARGUMENTS.reset, token)
        yield Place(credentials, S3Bucket(bucket_name=s3.bucket, credentials=aws))


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


def to_disk(uri: str, bucket: S3Bucket, path: Path) -> Path:
    """Download an object of the simulated bucket to a local file."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    key = uri.removeprefix(f"s3://{bucket.bucket_name}/")
    bucket.credentials.get_s3_client().download_file(bucket.bucket_name, key, str(path))
    return path


def fail(error: Exception, as_json: bool) -> int:
    """Report an error of the command, and return its exit code."""
    state, code = next(((state, code) for kind, state, code in _OUTCOMES if isinstance(error, kind)), ("error", 1))
    if isinstance(error, RejectedError) and error.task_id is not None:
        # Loova refused a later request, not the submit: the job is bought.
        state, code = "error", 1
    message = str(error) if isinstance(error, LoovaError) else f"{type(error).__name__}: {redact(error)}"
    if as_json:
        known = {name: getattr(error, name, None) for name in ("task_id", "trace_id")}
        print(json.dumps({"state": state, "error": {"type": type(error).__name__, "message": message} | known}))
    else:
        say(f"{state.replace('_', ' ')}: {message}")
    return code


def in_place(args: argparse.Namespace, work: Callable[[Place], Awaitable[T]]) -> T:
    """Run a function with the blocks that the arguments name, real or simulated."""

    async def run_work(where: Place | None = None) -> T:
        return await work(where or await place(args))

    if args.simulate:
        with simulated(args.state) as where:
            return asyncio.run(run_work(where))
    return asyncio.run(run_work())


def say(line: str) -> None:
    """Print a line to stderr; stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def run(work: Callable[[argparse.Namespace], None], parser: Parser, argv: list[str]) -> int:
    """Run a command and return its exit code. Every error is one message without a traceback.

    Args:
        work: The command.
        parser: The parser of its arguments.
        argv: The arguments, without the program's name.
    """
    as_json = "--json" in argv
    # Prefect records that SIGTERM ended the run, then calls this handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args = parser.parse_args(argv)
        with temporary_settings(set_defaults=_SERVER_SETTINGS), _terminal():
            work(args)
    except (KeyboardInterrupt, TerminationSignal):
        return fail(InterruptedRunError("nothing is lost: run the same command again to continue"), as_json)
    except Exception as error:
        return fail(error, as_json)
    return 0


@contextmanager
def _terminal() -> Iterator[None]:
    """Log no tracebacks of errors that `fail` reports, and show progress on a terminal."""
    log = logging.getLogger("prefect_loova.jobs.wait")
    level, no_tracebacks = log.level, _NoTracebacks()
    handlers = [
        handler
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs")
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(no_tracebacks)
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
            handler.removeFilter(no_tracebacks)


class _NoTracebacks(logging.Filter):
    """Drops the tracebacks of this package's errors from the console, because `fail` reports their messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], LoovaError):
            record.exc_info = record.exc_text = None
        return True


class _WaitingLine(logging.Handler):
    """A line that shows the elapsed time, Loova's status, and the time until the next poll."""

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
            self._progress.update(self._line, description=f"{status}, next poll in {record.pause:.0f} s")
            self._progress.start()

    def close(self) -> None:
        self._progress.stop()
        super().close()
