"""What was spent on which day, and a budget of a day that holds for all workers of one bucket and prefix.

Every submit is noted under `{prefix}/_spend/{day}/` before its job is claimed: an index of the records by day, whose
entries are empty objects. What a day cost is the sum over those records: the larger of estimate and cost until Loova
named the final cost, then that (jobs in doubt count their estimate), nothing for what Loova refused.

Under a budget, workers take turns: `{prefix}/_spend/{day}.json` names the submit that was admitted last, and is only
written by compare-and-swap. Whoever loses the swap adds up again, so that two workers never both take the last credits.

The day is that of S3's clock, which all workers of a bucket share. The claim writes it into the record, so that each
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

from prefect_loova._concurrency import map_bounded
from prefect_loova._timing import Clock, backoff
from prefect_loova.errors import BudgetError, StorageError, redact
from prefect_loova.models.job_record import SETTLED, Attempt, JobRecord, is_cost
from prefect_loova.store.records import JobRecords

MOST_SKEW = 15 * 60.0
"""By how many seconds the clocks of S3 and of a worker may differ under a budget of a day."""

_READS_AT_ONCE = 16
_TRIES = 60
_TRIES_WITHOUT_A_MOVE = 6
_ENDED = frozenset({"saved", "failed"})
_MOST_KEPT = 100_000
_KEPT_SECONDS = 60.0
_ENTRY = re.compile(r"(?P<key>[0-9a-f]{64})\.(?P<attempt>\d+)\.(?P<refusals>\d+)\.(?P<credits>\d+(\.\d+)?)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Reservation:
    """A submit in the index of a day.

    Attributes:
        key: The request's key.
        attempt: The attempt to buy it.
        refusals: How often Loova had refused this attempt before: each try is an entry of its own.
        credits: The estimate.
    """

    key: str
    attempt: int
    refusals: int
    credits: float

    @property
    def submit(self) -> tuple[str, int]:
        """The attempt that it is of."""
        return self.key, self.attempt

    @property
    def name(self) -> str:
        """Its object's name."""
        return f"{self.key}.{self.attempt}.{self.refusals}.{self.credits:.10g}"

    @classmethod
    def named(cls, name: str) -> Reservation | None:
        """The entry of an object, or None where the name is no entry's."""
        found = _ENTRY.fullmatch(name)
        if found is None:
            return None
        return cls(found["key"], int(found["attempt"]), int(found["refusals"]), float(found["credits"]))


@dataclass(frozen=True)
class AttemptCost:
    """What one attempt cost, or may cost."""

    day: date
    credits: float
    state: str
    model: str
    deployment: str
    settled: bool
    """Whether the amount can change no more."""
    key: str = ""
    """The request's key."""
    attempt: int = 0
    """The attempt to buy it."""
    problem: str = ""
    """Why its record could not be read, or what is wrong in it; the amount is the estimate then."""


def today() -> date:
    """The day that a submit counts for, by this machine's clock: in UTC, so that no time zone and no DST matters."""
    return datetime.now(UTC).date()


class DailyBudget:
    """The days of one bucket and prefix.

    Args:
        records: Where the job records are.
        most: The credits that may be spent on one day, or None for no budget.
        day: What day it is; the day (UTC) of S3's clock, if not given.
        clock: Monotonic seconds.
        wall: Seconds by this machine's clock. Under a budget it must agree with S3's.
        sleep: How to wait for a turn, in seconds.
    """

    def __init__(
        self,
        records: JobRecords,
        most: float | None = None,
        day: Callable[[], date] | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.records = records
        self.most = most
        self._day = day
        self._clock = clock
        self._wall = wall
        self._sleep = sleep

    async def reserve(self, key: str, attempt: int, refusals: int, credits: float) -> date:
        """Note a submit that is about to be made, if the day's budget allows it.

        Returns:
            The day that it counts for; the claim writes it into the record.

        Raises:
            BudgetError: It does not, or the clocks of S3 and of this machine disagree; nothing was noted.
            StorageError: The bucket cannot be written, or, under a budget, not be listed.
        """
        entry = Reservation(key, attempt, refusals, credits)
        if self.most is not None:
            day = await self._take_turn(entry, self.most)
            await self._note(day, entry)
            return day
        day = self._day_here()
        await self._note(day, entry)
        by_s3 = self._day_of_s3()
        if by_s3 not in (None, day):
            # The first note counts nothing once the claim names the other day.
            await self._note(by_s3, entry)
            return by_s3
        return day

    async def costs_on(self, day: date) -> list[AttemptCost]:
        """What was spent, or may be spent yet, on one day.

        A record that cannot be read counts as spent at its noted estimate, and `AttemptCost.problem` says why.

        Raises:
            StorageError: The index may not be listed (`s3:ListBucket`), or S3 cannot be reached.
        """
        return await self._added_up(day, await self._entries(day))

    async def _take_turn(self, entry: Reservation, most: float) -> date:
        day, before, refused = self._day_here(), None, 0
        for attempt in range(_TRIES):
            found = await self._turn(day)
            by_s3 = self._day_of_s3()
            if by_s3 not in (None, day):
                day = by_s3
                found = await self._turn(day)
            last = found[0] if found else None
            entries = await self._entries(day)
            if last is not None and last not in entries:
                # Whoever took the turn died before it noted the submit, or has yet to.
                await self._note(day, last)
                entries = entries | {last}
            if entry in entries:
                return day
            # An earlier note of the same attempt, at another price, is replaced by this one.
            others = (one for one in await self._added_up(day, entries) if (one.key, one.attempt) != entry.submit)
            spent = sum(one.credits for one in others)
            if spent + entry.credits > most:
                raise BudgetError(
                    f"max_credits_per_day: {most:g} credits may be spent a day; on {day} (UTC) {spent:g} are spent or "
                    f"reserved, and this video costs {entry.credits:g}. It was not submitted"
                )
            condition = {"IfMatch": found[1]} if found else {"IfNoneMatch": "*"}
            turn = self.records.object_key("_spend", f"{day}.json")
            try:
                await self.records.put_json(turn, {"last": entry.name}, **condition)
                return day
            except StorageError as error:
                # Another worker was faster, or the outcome is unknown: the next look tells.
                if not error.transient and error.http_status != 412:
                    raise
                failure = error
            # Where the turn is as it was, nobody was faster: the server does not take the write.
            refused = refused + 1 if refused and last == before else 1
            before = last
            if refused >= _TRIES_WITHOUT_A_MOVE:
                raise self._not_taken(turn, failure, may_be_read=found is not None)
            if refused > 1:
                await self._sleep(backoff(refused, first=0.5))
            else:
                await self._sleep(backoff(attempt, first=0.05, most=2.0))
        turn = self.records.object_key("_spend", f"{day}.json")
        raise StorageError(
            f"{self.records.uri(turn)}: PutObject was refused {_TRIES} times, because others took their turn in "
            "between each time. Nothing was submitted; run it again when fewer workers buy",
            transient=True,
        )

    def _not_taken(self, turn: str, failure: StorageError, may_be_read: bool) -> StorageError:
        if failure.http_status != 412:
            return failure
        if not may_be_read:
            return StorageError(f"{self.records.uri(turn)} is there but may not be read by GetObject (s3:GetObject)")
        server = self.records.s3.meta.endpoint_url
        return StorageError(
            f"{self.records.uri(turn)}: the S3 server at {server} refuses PutObject with the ETag "
            f"that it gave for this very object (412, {_TRIES_WITHOUT_A_MOVE} times); nothing was submitted",
            http_status=412,
        )

    async def _turn(self, day: date) -> tuple[Reservation | None, str] | None:
        """The submit that was admitted last, and what the next turn is conditional on."""
        key = self.records.object_key("_spend", f"{day}.json")
        found = await self.records.get_with_etag(key)
        if found is None:
            return None
        try:
            return Reservation.named(str(json.loads(found[0])["last"])), found[1]
        except (ValueError, TypeError, LookupError, RecursionError):
            # Nobody's turn stands in it; the next one replaces it, and the notes say what was admitted.
            log.warning("%s is no turn of a budget and is replaced", self.records.uri(key))
            return None, found[1]

    def _day_here(self) -> date:
        return self._day() if self._day else datetime.fromtimestamp(self._wall(), UTC).date()

    def _day_of_s3(self) -> date | None:
        """The day by the answer that S3 gave last; None where this machine's clock has to do.

        Raises:
            BudgetError: Under a budget, the two clocks differ by more than `MOST_SKEW`.
        """
        if self._day is not None:
            return None
        by_s3 = self.records.server_time
        if by_s3 is None:
            return None
        here = datetime.fromtimestamp(self._wall(), UTC)
        if abs((by_s3 - here).total_seconds()) <= MOST_SKEW:
            return by_s3.date()
        endpoint = self.records.s3.meta.endpoint_url
        told = (
            f"the clock of S3 at {endpoint} says {by_s3:%Y-%m-%d %H:%M:%S} UTC, and the clock of this machine "
            f"{here:%Y-%m-%d %H:%M:%S} UTC"
        )
        if self.most is not None:
            raise BudgetError(
                f"max_credits_per_day: {told}: the day of the budget is not known. Nothing was submitted; set the "
                "clock that is wrong"
            )
        log.warning("%s: the submit counts for the day of S3's clock", told)
        return by_s3.date()

    async def _entries(self, day: date) -> frozenset[Reservation]:
        listed = await self.records.list_objects(f"_spend/{day}")
        return frozenset(entry for one in listed if (entry := Reservation.named(one.name)))

    async def _note(self, day: date, entry: Reservation) -> None:
        await self.records.put_json(self.records.object_key("_spend", str(day), entry.name), {})

    async def _added_up(self, day: date, entries: frozenset[Reservation]) -> list[AttemptCost]:
        keys: dict[str, list[Reservation]] = {}
        for entry in sorted(entries):
            keys.setdefault(entry.key, []).append(entry)

        async def of(key: str) -> list[AttemptCost]:
            known = _settled.get(self._settled_key(day, key))
            if known is not None and known[0] == len(keys[key]) and 0 <= self._clock() - known[2] < _KEPT_SECONDS:
                return known[1]
            record, problem = await self._read(key)
            spent = _attempt_costs(day, keys[key], record, problem)
            if record is not None and all(one.settled for one in spent) and not record.is_open:
                if len(_settled) >= _MOST_KEPT:
                    _settled.clear()
                _settled[self._settled_key(day, key)] = len(keys[key]), spent, self._clock()
            return spent

        return [one for found in await map_bounded(of, keys, _READS_AT_ONCE) for one in found]

    async def _read(self, key: str) -> tuple[JobRecord | None, str]:
        """The record of a key, or why it cannot be read: one bad record stops no other purchase."""
        try:
            # The index was listed, so S3 answers 404 for a record that is missing.
            stored = await self.records.read(key, denied_is_missing=False)
        except Exception as error:
            if isinstance(error, StorageError) and error.transient:
                raise
            log.warning("job %s counts as spent at its noted estimate: its record cannot be read (%s)", key, error)
            return None, redact(error)
        return (stored.record, "") if stored else (None, "")

    def _settled_key(self, day: date, key: str) -> tuple[str, str, date]:
        return str(self.records.s3.meta.endpoint_url), self.records.uri(self.records.record_key(key)), day


_settled: dict[tuple[str, str, date], tuple[int, list[AttemptCost], float]] = {}
"""What changes no more, but by a late answer or a person: a process reads such a record once a minute at most."""


def _attempt_costs(
    day: date, entries: list[Reservation], record: JobRecord | None, problem: str = ""
) -> list[AttemptCost]:
    """What the noted submits of one request cost."""
    noted: dict[int, float] = {}
    for entry in entries:
        attempt = _attempt(record, entry.attempt)
        if attempt is not None and attempt.refusals > entry.refusals:
            continue  # this very try was refused
        noted[entry.attempt] = max(entry.credits, noted.get(entry.attempt, 0.0))
    if record is None:
        return [_reserved(day, entries[0].key, number, credits, "", problem) for number, credits in noted.items()]
    found: dict[int, AttemptCost] = {}
    for number, credits in noted.items():
        attempt, model = _attempt(record, number), str(record.request.get("model", ""))
        if attempt is None:
            found[number] = _reserved(day, record.key, number, credits, model, problem)
        elif attempt.budget_day in (None, day):
            found[number] = _cost(day, record, attempt, credits)
    for attempt in record.attempts:
        # A late answer to an attempt that was bought again: a purchase without a note of its own.
        if attempt.number in noted or "claimed" in attempt.times or attempt.task_id is None:
            continue
        if attempt.budget_day == day or (attempt.budget_day is None and _submit_of(record, attempt) in found):
            found[attempt.number] = _cost(day, record, attempt, 0.0)
    return list(found.values())


def _attempt(record: JobRecord | None, number: int) -> Attempt | None:
    return record.attempt(number) if record and 1 <= number <= len(record.attempts) else None


def _submit_of(record: JobRecord, late: Attempt) -> int:
    """The attempt that made the POST which a late answer answers, as far as records of earlier versions tell."""
    return max((one.number for one in record.attempts[: late.number - 1] if "claimed" in one.times), default=0)


def _reserved(day: date, key: str, number: int, credits: float, model: str, problem: str) -> AttemptCost:
    state = "unreadable" if problem else "reserved"
    return AttemptCost(day, credits, state, model, "", settled=False, key=key, attempt=number, problem=problem)


def _cost(day: date, record: JobRecord, attempt: Attempt, noted: float) -> AttemptCost:
    settled = attempt.state in SETTLED and not attempt.cost_is_early
    problem = ""
    if attempt.credits_cost is not None and not is_cost(attempt.credits_cost):
        problem = f"attempt {attempt.number}: credits_cost: {attempt.credits_cost:g} was named, which can be no cost"
        log.warning("job %s: %s; the estimate counts", record.key, problem)
    credits = attempt.credits_counted
    if not (settled and is_cost(attempt.credits_cost)):
        credits = max(noted, credits)
    return AttemptCost(
        day=day,
        credits=credits,
        state=attempt.state,
        model=str(record.request.get("model", "")),
        deployment=attempt.by.get("deployment", ""),
        settled=attempt.state in _ENDED,
        key=record.key,
        attempt=attempt.number,
        problem=problem,
    )
