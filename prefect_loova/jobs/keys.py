"""Find a job by what a person gives: its key, the beginning of its key, or its Loova task."""

from __future__ import annotations

from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.store.records import JobRecords, is_key


async def complete_key(records: JobRecords, beginning: str, *, field: str = "key", is_open: bool = True) -> str:
    """Return the key of the one job whose key has this beginning. A whole key is returned unchanged.

    Args:
        records: The job records.
        beginning: The key, or its beginning.
        field: The name of the value in errors.
        is_open: Whether to search the open jobs only, or all jobs below the prefix.

    Raises:
        InvalidRequestError: No job or several jobs have a key with this beginning.
        StorageError: The bucket may not be listed.
    """
    given = beginning.strip().lower()
    if len(given) == 64:
        return given
    listed = await (records.list_open_keys() if is_open else records.list_folders(given)) if given else []
    keys = [key for key in listed if is_key(key) and key.startswith(given)]
    if len(keys) == 1:
        return keys[0]
    kind = "open job" if is_open else "job"
    count = f"{len(keys)} {kind}s begin" if keys else f"no {kind} begins"
    raise InvalidRequestError(f"{field}: {redact(repr(beginning), 120)} was given: {count} so")


async def find_open_key(records: JobRecords, name: str) -> str:
    """Return the key of a job by its key, the beginning of its key, or its Loova task."""
    if is_key(name.lower()):
        if await records.read(name.lower()) is None:
            raise InvalidRequestError(f"key: {name} was given: no job has such a key, or its record may not be read")
        return name.lower()
    unread = []
    for key in await records.list_open_keys():
        if key.startswith(name.lower()):
            return await complete_key(records, name)
        try:
            stored = await records.read(key)
        except Exception as error:
            unread.append(f"{key}: {redact(error)}")
            continue
        if stored and any(attempt.task_id == name for attempt in stored.record.attempts):
            return key
    more = f"; {len(unread)} open jobs could not be read, the first one is {unread[0]}" if unread else ""
    given = redact(repr(name), 120)
    raise InvalidRequestError(f"key: {given} was given: no open job has such a key or Loova task{more}")
