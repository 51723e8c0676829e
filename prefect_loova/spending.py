"""What was spent on which day, and a budget of a day that holds for all workers of one bucket and prefix.

Every submit is noted under `{prefix}/_spend/{day}/` before its job is claimed: an index of the records by day, whose
entries are empty objects. What a day cost is the sum over those records: what Loova charged, the estimate where that
is not known yet (jobs in doubt too), nothing for what Loova refused.

Under a budget, workers take turns: `{prefix}/_spend/{day}.json` names the submit that was admitted last, and is only
written by compare-and-swap. Whoever loses the swap adds up again, so that two workers never both take the last credits.
See docs/decisions/0005.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from prefect_loova.errors import BudgetError, StorageError
from prefect_loova.polling import backoff
from prefect_loova.records import JobRecords
from prefect_loova.states import Attempt, JobRecord

_READS_AT_ONCE = 16
_TRIES = 60
_SETTLED = frozenset({"saved", "failed"})
_MOST_KEPT = 100_000
_ENTRY = re.compile(r"(?P<key>[0-9a-f]{64})\.(?P<attempt>\d+)\.(?P<refusals>\d+)\.(?P<credits>\d+(\.\d+)?)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Entry:
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
    def name(self) -> str:
        """Its object's name."""
        return f"{self.key}.{self.attempt}.{self.refusals}.{self.credits:.10g}"

    @classmethod
    def named(cls, name: str) -> Entry | None:
        """The entry of an object, or None where the name is no entry's."""
        found = _ENTRY.fullmatch(name)
        if found is None:
            return None
        return cls(found["key"], int(found["attempt"]), int(found["refusals"]), float(found["credits"]))


@dataclass(frozen=True)
class Spent:
    """What one attempt cost, or may cost."""

    day: date
    credits: float
    state: str
    model: str
    deployment: str
    settled: bool
    """Whether the amount can change no more."""


def today() -> date:
    """The day that a submit counts for: in UTC, so that all workers agree."""
    return datetime.now(UTC).date()


class Spending:
    """The days of one bucket and prefix.

    Args:
        records: Where the job records are.
        most: The credits that may be spent on one day, or None for no budget.
        day: What day it is.
    """

    def __init__(self, records: JobRecords, most: float | None = None, day: Callable[[], date] = today) -> None:
        self.records = records
        self.most = most
        self._day = day

    async def admit(self, key: str, attempt: int, refusals: int, credits: float) -> None:
        """Note a submit that is about to be made, if the day's budget allows it.

        Raises:
            BudgetError: It does not; nothing was noted.
            StorageError: The bucket cannot be written, or, under a budget, not be listed.
        """
        day, entry = self._day(), Entry(key, attempt, refusals, credits)
        if self.most is not None:
            await self._take_turn(day, entry, self.most)
        await self._note(day, entry)

    async def of_day(self, day: date) -> list[Spent]:
        """What was spent, or may be spent yet, on one day.

        Raises:
            StorageError: The index may not be listed (`s3:ListBucket`), or a record cannot be read.
        """
        return await self._added_up(day, await self._entries(day))

    async def _take_turn(self, day: date, entry: Entry, most: float) -> None:
        turn = self.records.object_key("_spend", f"{day}.json")
        for attempt in range(_TRIES):
            found = await self.records.get_json(turn)
            last = Entry.named(str(found[0].get("last"))) if found else None
            entries = await self._entries(day)
            if last is not None and last not in entries:
                # Whoever took the turn died before it noted the submit, or has yet to.
                await self._note(day, last)
                entries = entries | {last}
            if entry in entries:
                return
            spent = sum(one.credits for one in await self._added_up(day, entries))
            if spent + entry.credits > most:
                raise BudgetError(
                    f"max_credits_per_day: {most:g} credits may be spent a day; on {day} (UTC) {spent:g} are spent or "
                    f"reserved, and this video costs {entry.credits:g}. It was not submitted"
                )
            condition = {"IfMatch": found[1]} if found else {"IfNoneMatch": "*"}
            try:
                await self.records.put_json(turn, {"last": entry.name}, **condition)
                return
            except StorageError as error:
                # Another worker was faster, or the outcome is unknown: the next look tells.
                if not error.transient and error.http_status != 412:
                    raise
            await asyncio.sleep(backoff(attempt, first=0.05, most=2.0))
        raise StorageError(f"{self.records.uri(turn)} is written by others all the time", transient=True)

    async def _entries(self, day: date) -> frozenset[Entry]:
        listed = await self.records.listed(f"_spend/{day}")
        return frozenset(entry for one in listed if (entry := Entry.named(one.name)))

    async def _note(self, day: date, entry: Entry) -> None:
        await self.records.put_json(self.records.object_key("_spend", str(day), entry.name), {})

    async def _added_up(self, day: date, entries: frozenset[Entry]) -> list[Spent]:
        keys: dict[str, list[Entry]] = {}
        for entry in sorted(entries):
            keys.setdefault(entry.key, []).append(entry)
        turn = asyncio.Semaphore(_READS_AT_ONCE)

        async def of(key: str) -> list[Spent]:
            known = _settled.get(self._settled_key(day, key))
            if known is not None and known[0] == len(keys[key]):
                return known[1]
            async with turn:
                stored = await self.records.read(key)
            spent = list(_spent(day, keys[key], stored.record if stored else None))
            if stored is not None and all(one.settled for one in spent) and not stored.record.is_open:
                if len(_settled) >= _MOST_KEPT:
                    _settled.clear()
                _settled[self._settled_key(day, key)] = len(keys[key]), spent
            return spent

        return [one for found in await asyncio.gather(*map(of, keys)) for one in found]

    def _settled_key(self, day: date, key: str) -> tuple[str, str, date]:
        return str(self.records.s3.meta.endpoint_url), self.records.uri(self.records.record_key(key)), day


_settled: dict[tuple[str, str, date], tuple[int, list[Spent]]] = {}
"""What can change no more, so that a process that buys a thousand videos reads each record a few times only."""


def _spent(day: date, entries: list[Entry], record: JobRecord | None) -> list[Spent]:
    """What the noted submits of one request cost."""
    found: dict[int, Spent] = {}
    for entry in entries:
        attempt = record.attempt(entry.attempt) if record and entry.attempt <= len(record.attempts) else None
        if attempt is not None and attempt.refusals > entry.refusals:
            continue  # this very try was refused
        model = str(record.request.get("model", "")) if record else ""
        found[entry.attempt] = _cost(day, entry, attempt, model)
    if record is not None and found:
        # A late answer to an attempt that was bought again: a purchase without an entry of its own.
        for attempt in record.attempts:
            bought = attempt.times.get("submitted")
            if attempt.number not in found and "claimed" not in attempt.times and bought and _is_near(day, bought):
                entry = Entry(record.key, attempt.number, 0, attempt.credits_estimate)
                found[attempt.number] = _cost(day, entry, attempt, str(record.request.get("model", "")))
    return list(found.values())


def _is_near(day: date, bought: datetime) -> bool:
    """Whether something was bought on a day, or so soon after it that its submit may have been of that day."""
    return day <= bought.astimezone(UTC).date() <= day + timedelta(days=1)


def _cost(day: date, entry: Entry, attempt: Attempt | None, model: str) -> Spent:
    charged = attempt.credits_cost if attempt else None
    return Spent(
        day=day,
        credits=entry.credits if charged is None else charged,
        state=attempt.state if attempt else "reserved",
        model=model,
        deployment=attempt.by.get("deployment", "") if attempt else "",
        settled=attempt is not None and attempt.state in _SETTLED,
    )
