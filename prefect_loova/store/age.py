"""Lower bounds for the age of an object, without comparing the clocks of two machines."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

from prefect_loova._timing import Clock

_CACHE_SIZE = 10_000  # objects, of a few hundred bytes each

log = logging.getLogger(__name__)


def response_date(response: Any) -> datetime | None:
    """Return the `Date` header of a boto3 response or error, or None if there is no valid one."""
    try:
        date = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)


class ObjectAges:
    """The ages of the object versions that this process saw.

    An age is the larger of two lower bounds: `Date` minus `Last-Modified` of one S3 response, and the time since this
    process first saw the version. If a server sends no usable dates, only the second bound counts.

    Args:
        clock: Returns monotonic seconds. A clock that stops while the machine sleeps makes ages smaller, which is safe.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._warned: set[str] = set()
        self._lock = Lock()

    def age_of(self, response: Any, name: str, version: str, host: str) -> float:
        """Return the seconds since a version of an object was written, or fewer.

        Args:
            response: The boto3 response for the object.
            name: A name of the object that is unique over all servers.
            version: A token that is unique to the version.
            host: The server, for the log.
        """
        now, written = response_date(response), response.get("LastModified")
        seen_for = self._seen_for(name, version)
        if now is None or not isinstance(written, datetime):
            self._warn(host, "Date" if now is None else "Last-Modified")
            return seen_for
        return max(seen_for, (now - written).total_seconds())

    def _seen_for(self, name: str, version: str) -> float:
        now = self._clock()
        with self._lock:
            known, since = self._seen.get(name, ("", now))
            if known != version:
                since = now
            self._seen[name] = version, since
            self._seen.move_to_end(name)
            if len(self._seen) > _CACHE_SIZE:
                self._seen.popitem(last=False)
        return now - since

    def _warn(self, host: str, header: str) -> None:
        with self._lock:
            is_new = host not in self._warned
            self._warned.add(host)
        if is_new:
            log.warning(
                "the S3 server at %s sends no usable %s header, so the age of a job record counts from when this "
                "process first saw it: the jobs of a dead worker are taken over later",
                host,
                header,
            )


PROCESS_AGES = ObjectAges()
"""Shared by all job records of this process, because a flow run opens them several times."""
