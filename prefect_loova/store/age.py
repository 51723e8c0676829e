"""How old an object is at least, without comparing the clocks of two machines."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

from prefect_loova._timing import Clock

_MOST = 10_000  # objects whose first sight is kept; a few hundred bytes each

log = logging.getLogger(__name__)


def response_date(answer: Any) -> datetime | None:
    """S3's clock as an answer or an error of boto3 shows it (`Date`), or None where it shows none that can be read."""
    try:
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


class ObjectAges:
    """The ages of the versions of objects that this process saw.

    An age is the larger of two lower bounds: S3's `Date` minus `Last-Modified` of one answer, and the time since this
    process first saw this very version. The second one alone is left where a server sends no date that can be used.

    Args:
        clock: Monotonic seconds; one that stops while the machine sleeps makes ages smaller, which is safe.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._warned: set[str] = set()
        self._turn = Lock()

    def age_of(self, answer: Any, name: str, version: str, host: str) -> float:
        """Seconds since a version of an object was written, or fewer.

        Args:
            answer: What boto3 returned for it.
            name: The object, under a name that no other server's object has.
            version: What tells this version from all others.
            host: The server, for the log.
        """
        now, written = response_date(answer), answer.get("LastModified")
        seen_for = self._seen_for(name, version)
        if now is None or not isinstance(written, datetime):
            self._warn(host, "Date" if now is None else "Last-Modified")
            return seen_for
        return max(seen_for, (now - written).total_seconds())

    def _seen_for(self, name: str, version: str) -> float:
        now = self._clock()
        with self._turn:
            known, since = self._seen.get(name, ("", now))
            if known != version:
                since = now
            self._seen[name] = version, since
            self._seen.move_to_end(name)
            if len(self._seen) > _MOST:
                self._seen.popitem(last=False)
        return now - since

    def _warn(self, host: str, header: str) -> None:
        with self._turn:
            is_new = host not in self._warned
            self._warned.add(host)
        if is_new:
            log.warning(
                "the S3 server at %s sends no %s that can be used: how long ago another worker wrote a job is counted "
                "from when this process first saw it, so what a dead worker left is taken up later",
                host,
                header,
            )


PROCESS_AGES = ObjectAges()
"""What all job records of this process share: a flow run opens them several times."""
