"""What one step of a job hands to the next step in the same process, so that it does not read the record again.

Inside of `handed_over`, a step gets the record from the step before and not from S3. If another worker wrote the record
since then, the compare-and-swap of the step's first write is refused, and the step reads the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from prefect_loova.models.results import VideoTask
from prefect_loova.store.records import StoredRecord


@dataclass
class Handover:
    """What is known of one job whose video this process submits, waits for, and saves.

    Attributes:
        is_new: Whether no record was found.
        stored: The last version of the record that a step read or wrote.
        made: The task that succeeded, if the record does not say so yet. The save writes it together with its lease.
    """

    is_new: bool = False
    stored: StoredRecord | None = None
    made: VideoTask | None = None

    def take(self, *keys: str | None) -> tuple[StoredRecord | None, VideoTask | None]:
        """Return `stored` and `made` if the record is under one of these keys. They are handed over once."""
        stored, made, self.stored, self.made = self.stored, self.made, None, None
        return (stored, made) if stored is not None and stored.record.key in keys else (None, None)


HANDOVER: ContextVar[Handover | None] = ContextVar("HANDOVER", default=None)
"""The handover of the video that this code makes."""


def current_handover() -> Handover:
    """Return the handover of the video that this code makes, or an empty one."""
    return HANDOVER.get() or Handover()


@contextmanager
def handed_over() -> Iterator[Handover]:
    """Let the steps of one video inside of this context hand its job over. The last step is the save."""
    handover = Handover()
    token = HANDOVER.set(handover)
    try:
        yield handover
    finally:
        HANDOVER.reset(token)
