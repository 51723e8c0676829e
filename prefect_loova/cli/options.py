"""The options that name the account and the bucket, and values that several commands parse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token
from prefect_aws import AwsCredentials
from prefect_aws.s3 import S3Bucket

from prefect_loova._prefect.context import DEFAULT_PREFIX, Location
from prefect_loova._sync import run_sync
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import STATE, simulated
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.store.prefix import validate_bucket

_BLOCK_NAME = re.compile(r"[a-z0-9-]+")


def number(text: str) -> Any:
    """Parse a number. Return other text unchanged, for the request to report."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _checked(rule: str, is_valid: Callable[[Any], bool]) -> Callable[[Any, Sequence[Token]], Any]:
    """Return a converter for a number."""

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        value = number(tokens[0].value)
        if not isinstance(value, int | float) or not math.isfinite(value) or not is_valid(value):
            raise ValueError(f"{redact(repr(tokens[0].value), 120)} was given: must be a number of {rule}")
        return value

    return convert


SECONDS = Parameter(converter=_checked("seconds above 0", lambda value: value > 0))
LINK_SECONDS = Parameter(
    converter=_checked("seconds, 60 to 604800", lambda value: isinstance(value, int) and 60 <= value <= 604_800)
)
CREDITS = Parameter(converter=_checked("credits, 0 or above", lambda value: value >= 0))
DAYS = Parameter(converter=_checked("days, 1 to 366", lambda value: isinstance(value, int) and 1 <= value <= 366))

PollSeconds = Annotated[float | None, SECONDS, Parameter(help="first pause between polls (default: 20)")]
MaxCredits = Annotated[float | None, CREDITS, Parameter(help="the most credits to spend: a hard limit")]
KeepCredits = Annotated[float, CREDITS, Parameter(help="credits to keep in the account")]
DryRun = Annotated[bool, Parameter(help="show the prices, and spend nothing")]
MediaFolder = Annotated[str | None, Parameter(help="the folder of the local files that the list names")]
Review = Annotated[bool, Parameter(help="make all takes, and stop for `prefect-loova review`")]
Draft = Annotated[str | None, Parameter(help="a cheaper model for the takes; needs --review")]
State = Annotated[Path, Parameter(help=f"the folder of the simulated state ({STATE})")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """The options that name the account, the bucket, or a simulated location."""

    bucket: Annotated[str | None, Parameter(help="the S3 bucket (not with --simulate)")] = None
    prefix: Annotated[str, Parameter(help=f"the prefix in the bucket ({DEFAULT_PREFIX})")] = DEFAULT_PREFIX
    credentials: Annotated[str | None, Parameter(help="Loova Credentials block (or LOOVA_API_KEY)")] = None
    s3_block: Annotated[str | None, Parameter(help="S3 Bucket block (or boto3's own configuration)")] = None
    json: Annotated[bool, Parameter(help="print exactly one JSON object to stdout")] = False
    simulate: Annotated[bool, Parameter(help="no account: Loova and S3 on this machine; needs [simulator]")] = False
    state: State = STATE

    @contextmanager
    def open(self) -> Iterator[Location]:
        """Yield the location that the options and the environment name. A simulated one runs in the block.

        Raises:
            InvalidRequestError: An option or a block is missing; the error says what to do.
        """
        if self.simulate:
            with simulated(self.state, self.prefix) as location:
                yield location
        else:
            yield self._location()

    def first_pause(self, poll_seconds: float | None) -> float | None:
        """Return the first pause between polls, in seconds. None is the flow's default."""
        return poll_seconds or (1.0 if self.simulate else None)

    def _location(self) -> Location:
        if not self.bucket and not self.s3_block:
            raise InvalidRequestError(
                "bucket: is missing; give --bucket NAME or --s3-block BLOCK, or try it with --simulate"
            )
        if self.bucket:
            validate_bucket(self.bucket)
        try:
            credentials = _load(LoovaCredentials, "credentials", self.credentials) or LoovaCredentials.from_env()
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{error.message}; or try it without an account: --simulate") from None
        bucket = _load(S3Bucket, "s3_block", self.s3_block)
        if bucket is None:
            bucket = S3Bucket(bucket_name=self.bucket or "", credentials=AwsCredentials())
        elif self.bucket:
            bucket = bucket.model_copy(update={"bucket_name": self.bucket})
        return Location(credentials, bucket, self.prefix)


def check_block_name(option: str, name: str) -> str:
    """Return the name of a block.

    Raises:
        InvalidRequestError: Prefect allows no such name.
    """
    if not _BLOCK_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{option}: {redact(repr(name), 120)} was given: a block's name has lowercase letters, digits and dashes"
        )
    return name


def _load(kind: Any, option: str, name: str | None) -> Any:
    if name is None:
        return None
    check_block_name(option, name)
    need_server()
    try:
        return run_sync(kind.aload(name))
    except ValueError as error:
        raise InvalidRequestError(
            f"{option}: {kind.__name__}: no block {name!r} can be loaded ({redact(error)}); `prefect block ls` "
            "lists them"
        ) from None
