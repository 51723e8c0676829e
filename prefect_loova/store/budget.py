"""The credits spent on each day, and a daily budget that all workers of one bucket and prefix share.

Before a job is claimed, its worker writes a reservation `{prefix}/_spend/{day}/{key}.{attempt}...`: an empty object.
Together the reservations are an index of the job records by day. The cost of a day is the sum over those records: the
larger of estimate and cost until Loova names the final cost, then the final cost. A job in doubt counts its estimate,
a refused submit counts nothing.

Under a budget, workers take turns. `{prefix}/_spend/{day}.json` names the latest reservation and is written only by
compare-and-swap. A worker whose swap fails adds up again, so two workers never both take the last credits.

The day is the day of S3's clock, which all workers of a bucket share. The claim stores it in the record, so each
attempt counts on one day. See docs/decisions/0005 and 0012.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from prefect_loova._concurrency import map_bounded
from prefect_loova._timing import Clock, backoff
from prefect_loova.errors import BudgetError, StorageError, redact
from prefect_loova.models.attempts import SETTLED, Attempt, is_cost
from prefect_loova.models.job_record import JobRecord

if TYPE_CHECKING:
    from prefect_loova.store.records import JobRecords

MOST_SKEW = 15 * 60.0
"""The seconds by which the clocks of S3 and of a worker may differ under a daily budget."""

_CONCURRENT_READS = 16
_TRIES = 60
_TRIES_WITHOUT_PROGRESS = 6
_ENDED = frozenset({"saved", "failed"})
_CACHE_SIZE = 100_000
_CACHE_SECONDS = 60.0
_RESERVATION = re.compile(r"(?P<key>[0-9a-f]{64})\.(?P<attempt>\d+)\.(?P<refusals>\d+)\.(?P<credits>\d+(\.\d+)?)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Reservation:
    """A submit in the index of a day.

    Attributes:
        key: The key of the request.
        attempt: The number of the attempt.
        refusals: How often Loova refused this attempt before. Each try has its own reservation.
        credits: The estimate.
    """

    key: str
    attempt: int
    refusals: int
    credits: float

    @property
    def name(self) -> str:
        """The name of its object."""
        return f"{self.key}.{self.attempt}.{self.refusals}.{self.credits:.10g}"

    @classmethod
    def parse(cls, name: str) -> Reservation | None:
        """Return the reservation that an object's name encodes, or None if the name has another form."""
        match = _RESERVATION.fullmatch(name)
        if match is None:
            return None
        return cls(match["key"], int(match["attempt"]), int(match["refusals"]), float(match["credits"]))


@dataclass(frozen=True)
class AttemptCost:
    """The credits that one attempt cost, or may cost."""

    day: date
    credits: float
    state: str
    model: str
    deployment: str
    settled: bool
    """Whether the amount is final."""
    key: str = ""
    """The key of the request."""
    attempt: int = 0
    """The number of the attempt."""
    label: str = ""
    """The label that it was asked for with."""
    difference: float = 0.0
    """By how many credits Loova's charge exceeds the estimate."""
    problem: str = ""
    """Why the record could not be read, or what is wrong in it. The amount is the estimate then."""


def today() -> date:
    """Return the day (UTC) of this machine's clock."""
    return datetime.now(UTC).date()


class DailyBudget:
    """The spent credits of one bucket and prefix by day, and the limit of a day.

    Args:
        records: The job records.
        max_credits: The credits that may be spent a day, or None for no limit.
        day: Returns the current day; by default the day (UTC) of S3's clock.
        clock: Returns monotonic seconds.
        wall: Returns the seconds of this machine's clock. Under a budget it must agree with S3's clock.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        records: JobRecords,
        max_credits: float | None = None,
        day: Callable[[], date] | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.records = records
        self.max_credits = max_credits
        self._day = day
        self._clock = clock
        self._wall = wall
        self._sleep = sleep

    async def reserve(self, key: str, attempt: int, refusals: int, credits: float) -> date:
        """Reserve the credits of a submit before it is made, if the day's budget allows it.

        Returns:
            The day that the submit counts for. The claim stores it in the record.

        Raises:
            BudgetError: The budget is too small, or the clocks of S3 and of this machine disagree; nothing was
                reserved.
            StorageError: The bucket cannot be written or, under a budget, cannot be listed.
        """
        reservation = Reservation(key, attempt, refusals, credits)
        if self.max_credits is not None:
            day = await self._take_turn(reservation, self.max_credits)
            await self._write(day, reservation)
            return day
        day = self._local_day()
        await self._write(day, reservation)
        s3_day = self._s3_day()
        if s3_day not in (None, day):
            # The claim names S3's day, so the first reservation counts nothing.
            await self._write(s3_day, reservation)
            return s3_day
        return day

    async def costs_on(self, day: date) -> list[AttemptCost]:
        """Return the credits that were spent, or may yet be spent, on one day.

        If a record cannot be read, its reserved estimate counts as spent, and `AttemptCost.problem` says why.

        Raises:
            StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        return await self._costs_of(day, await self._reservations(day))

    async def _take_turn(self, reservation: Reservation, max_credits: float) -> date:
        """Write the reservation as the day's latest by compare-and-swap, if the budget allows it. Return the day."""
        day, previous, refusals = self._local_day(), None, 0
        for attempt in range(_TRIES):
            turn = await self._read_turn(day)
            s3_day = self._s3_day()
            if s3_day not in (None, day):
                day = s3_day
                turn = await self._read_turn(day)
            latest = turn[0] if turn else None
            reservations = await self._reservations(day)
            if latest is not None and latest not in reservations:
                # The worker that took the last turn died, or has not yet written its reservation.
                await self._write(day, latest)
                reservations |= {latest}
            if reservation in reservations:
                return day
            self._check(reservation, max_credits, day, await self._costs_of(day, reservations))
            condition = {"IfMatch": turn[1]} if turn else {"IfNoneMatch": "*"}
            turn_key = self._turn_key(day)
            try:
                await self.records.put_json(turn_key, {"last": reservation.name}, **condition)
                return day
            except StorageError as error:
                # Another worker was faster, or the outcome is unknown. The next read shows which.
                if not error.transient and error.http_status != 412:
                    raise
                failure = error
            # If the turn did not change, no worker was faster: the server refuses the write itself.
            refusals = refusals + 1 if refusals and latest == previous else 1
            previous = latest
            if refusals >= _TRIES_WITHOUT_PROGRESS:
                raise self._refused_write(turn_key, failure, may_be_read=turn is not None)
            if refusals > 1:
                await self._sleep(backoff(refusals, first=0.5))
            else:
                await self._sleep(backoff(attempt, first=0.05, most=2.0))
        raise StorageError(
            f"{self.records.uri(self._turn_key(day))}: S3 refused PutObject {_TRIES} times, because another worker was "
            "faster each time. Nothing was submitted; run it again when fewer workers buy",
            transient=True,
        )

    def _check(self, reservation: Reservation, max_credits: float, day: date, costs: list[AttemptCost]) -> None:
        # An earlier reservation of the same attempt, at another price, is replaced by this one.
        attempt = (reservation.key, reservation.attempt)
        spent = sum(cost.credits for cost in costs if (cost.key, cost.attempt) != attempt)
        if spent + reservation.credits > max_credits:
            raise BudgetError(
                f"max_credits_per_day: the limit is {max_credits:g} credits a day; on {day} (UTC) {spent:g} are spent "
                f"or reserved, and this video costs {reservation.credits:g}. It was not submitted"
            )

    def _refused_write(self, turn_key: str, failure: StorageError, may_be_read: bool) -> StorageError:
        if failure.http_status != 412:
            return failure
        uri = self.records.uri(turn_key)
        if not may_be_read:
            return StorageError(f"{uri} exists but may not be read by GetObject (s3:GetObject)")
        return StorageError(
            f"{uri}: the S3 server at {self.records.s3.meta.endpoint_url} refuses PutObject with the ETag that it "
            f"returned for this object (412, {_TRIES_WITHOUT_PROGRESS} times); nothing was submitted",
            http_status=412,
        )

    def _turn_key(self, day: date) -> str:
        return self.records.object_key("_spend", f"{day}.json")

    async def _read_turn(self, day: date) -> tuple[Reservation | None, str] | None:
        """Return the latest reservation and the ETag for the next write, or None if there was no turn on that day."""
        turn_key = self._turn_key(day)
        stored = await self.records.get_with_etag(turn_key)
        if stored is None:
            return None
        body, etag = stored
        try:
            return Reservation.parse(str(json.loads(body)["last"])), etag
        except (ValueError, TypeError, LookupError, RecursionError):
            # The next turn replaces it; the reservations are complete without it.
            log.warning("%s is not a turn of a budget and will be replaced", self.records.uri(turn_key))
            return None, etag

    def _local_day(self) -> date:
        return self._day() if self._day else datetime.fromtimestamp(self._wall(), UTC).date()

    def _s3_day(self) -> date | None:
        """Return the day of S3's last response if its clock is known. Under a budget, refuse a skew of the clocks."""
        s3_time = self.records.server_time
        if self._day is not None or s3_time is None:
            return None
        local_time = datetime.fromtimestamp(self._wall(), UTC)
        if abs((s3_time - local_time).total_seconds()) <= MOST_SKEW:
            return s3_time.date()
        difference = (
            f"the clock of S3 at {self.records.s3.meta.endpoint_url} says {s3_time:%Y-%m-%d %H:%M:%S} UTC, and the "
            f"clock of this machine {local_time:%Y-%m-%d %H:%M:%S} UTC"
        )
        if self.max_credits is not None:
            raise BudgetError(
                f"max_credits_per_day: {difference}, so the day of the budget is unknown. Nothing was submitted; set "
                "the wrong clock"
            )
        log.warning("%s: the submit counts for the day of S3's clock", difference)
        return s3_time.date()

    async def _reservations(self, day: date) -> frozenset[Reservation]:
        listed = await self.records.list_objects(f"_spend/{day}")
        return frozenset(reservation for one in listed if (reservation := Reservation.parse(one.name)))

    async def _write(self, day: date, reservation: Reservation) -> None:
        await self.records.put_json(self.records.object_key("_spend", str(day), reservation.name), {})

    async def _costs_of(self, day: date, reservations: frozenset[Reservation]) -> list[AttemptCost]:
        by_key: dict[str, list[Reservation]] = {}
        for reservation in sorted(reservations):
            by_key.setdefault(reservation.key, []).append(reservation)

        async def costs_of(key: str) -> list[AttemptCost]:
            cached = _settled.get(self._settled_key(day, key))
            if cached and cached[0] == len(by_key[key]) and 0 <= self._clock() - cached[2] < _CACHE_SECONDS:
                return cached[1]
            record, problem = await self._read(key)
            costs = _attempt_costs(day, by_key[key], record, problem)
            if record is not None and all(cost.settled for cost in costs) and not record.is_open:
                if len(_settled) >= _CACHE_SIZE:
                    _settled.clear()
                _settled[self._settled_key(day, key)] = len(by_key[key]), costs, self._clock()
            return costs

        return [cost for costs in await map_bounded(costs_of, by_key, _CONCURRENT_READS) for cost in costs]

    async def _read(self, key: str) -> tuple[JobRecord | None, str]:
        """Return the record of a key, or the reason why it cannot be read: a bad record must not stop other submits."""
        try:
            # The index was listed, so S3 answers 404 for a missing record.
            stored = await self.records.read(key, denied_is_missing=False)
        except Exception as error:
            if isinstance(error, StorageError) and error.transient:
                raise
            log.warning("job %s counts with its reserved estimate: its record cannot be read (%s)", key, error)
            return None, redact(error)
        return (stored.record, "") if stored else (None, "")

    def _settled_key(self, day: date, key: str) -> tuple[str, str, date]:
        return str(self.records.s3.meta.endpoint_url), self.records.uri(self.records.record_key(key)), day


_settled: dict[tuple[str, str, date], tuple[int, list[AttemptCost], float]] = {}
"""Final costs. Only a late answer or a person can change them, so a process reads such a record once a minute."""


def _attempt_costs(
    day: date, reservations: list[Reservation], record: JobRecord | None, problem: str = ""
) -> list[AttemptCost]:
    """Return what the reserved submits of one request cost."""
    reserved: dict[int, float] = {}
    for one in reservations:
        attempt = _attempt(record, one.attempt)
        if attempt is not None and attempt.refusals > one.refusals:
            continue  # Loova refused this submit
        reserved[one.attempt] = max(one.credits, reserved.get(one.attempt, 0.0))
    if record is None:
        key = reservations[0].key
        return [_estimate(day, key, number, credits, "", problem) for number, credits in reserved.items()]
    costs: dict[int, AttemptCost] = {}
    for number, credits in reserved.items():
        attempt = _attempt(record, number)
        if attempt is None:
            costs[number] = _estimate(day, record.key, number, credits, _model(record), problem)
        elif attempt.budget_day in (None, day):
            costs[number] = _cost(day, record, attempt, credits)
    for attempt in record.attempts:
        # A late answer to an attempt that was bought again is a purchase without a reservation.
        if attempt.number in reserved or "claimed" in attempt.times or attempt.task_id is None:
            continue
        if attempt.budget_day == day or (attempt.budget_day is None and _submit_of(record, attempt) in costs):
            costs[attempt.number] = _cost(day, record, attempt, 0.0)
    return list(costs.values())


def _attempt(record: JobRecord | None, number: int) -> Attempt | None:
    return record.attempt(number) if record and 1 <= number <= len(record.attempts) else None


def _model(record: JobRecord) -> str:
    return str(record.request.get("model", ""))


def _submit_of(record: JobRecord, late: Attempt) -> int:
    """Return the number of the attempt whose POST got a late answer, as far as records of earlier versions show it."""
    return max((one.number for one in record.attempts[: late.number - 1] if "claimed" in one.times), default=0)


def _estimate(day: date, key: str, number: int, credits: float, model: str, problem: str) -> AttemptCost:
    state = "unreadable" if problem else "reserved"
    return AttemptCost(day, credits, state, model, "", settled=False, key=key, attempt=number, problem=problem)


def _cost(day: date, record: JobRecord, attempt: Attempt, reserved: float) -> AttemptCost:
    is_final = attempt.state in SETTLED and not attempt.cost_is_early
    problem = ""
    if attempt.credits_cost is not None and not is_cost(attempt.credits_cost):
        problem = f"attempt {attempt.number}: credits_cost is {attempt.credits_cost:g}, which cannot be a cost"
        log.warning("job %s: %s; the estimate counts", record.key, problem)
    credits = attempt.credits_counted
    if not (is_final and is_cost(attempt.credits_cost)):
        credits = max(reserved, credits)
    return AttemptCost(
        day=day,
        credits=credits,
        state=attempt.state,
        model=_model(record),
        deployment=attempt.by.get("deployment", ""),
        label=attempt.label,
        settled=attempt.state in _ENDED,
        key=record.key,
        attempt=attempt.number,
        difference=attempt.cost_difference,
        problem=problem,
    )
