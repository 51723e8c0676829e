"""The reviews in the bucket: `{prefix}/_reviews/{group}.json`, written by compare-and-swap.

A review pays for nothing by itself. It only says which requests a run makes, and each of them is paid for once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic import ValidationError

from prefect_loova._concurrency import map_bounded
from prefect_loova._timing import backoff
from prefect_loova.errors import InvalidRequestError, StorageError, redact
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.models.reviews import FORMAT, Review
from prefect_loova.store.records import is_key

REVIEWS = "_reviews"
"""The folder of the reviews, below the prefix."""

_TRIES = 8
_CONCURRENT_READS = 16
_BEGINNING = re.compile(r"[0-9a-f]{4,64}")


async def read_review(jobs: VideoJobs, group: str) -> Review | None:
    """Return the review of a group, or None if there is none.

    Raises:
        StorageError: The review cannot be read.
    """
    stored = await _read(jobs, group)
    return stored[0] if stored else None


async def change_review(jobs: VideoJobs, group: str, change: Callable[[Review], Review]) -> Review:
    """Change the review of a group, whatever other runs and people write at the same time.

    Args:
        jobs: The API and the bucket.
        group: The group. If it has no review, `change` gets an empty one.
        change: Returns the changed review. It is called again if somebody else wrote the review in between, and must
            return the same review if the change is in it already.

    Raises:
        StorageError: The bucket cannot be read or written.
    """
    for attempt in range(_TRIES):
        stored = await _read(jobs, group)
        before = stored[0] if stored else Review(group=group, api_origin=jobs.loova.origin)
        after = change(before)
        if stored is not None and after == before:
            return after
        condition = {"IfMatch": stored[1]} if stored else {"IfNoneMatch": "*"}
        try:
            await jobs.records.put_json(_object_key(jobs, group), after.model_dump(mode="json"), **condition)
        except StorageError as error:
            failure = error
            if error.http_status not in (409, 412) and not error.transient:
                raise
            await jobs.sleep(backoff(attempt, first=0.2))
        else:
            return after
    raise failure


async def open_reviews(jobs: VideoJobs) -> list[Review]:
    """Return the reviews that wait for a person, the oldest first.

    Raises:
        StorageError: The reviews may not be listed (`s3:ListBucket`), or one cannot be read.
    """
    listed = sorted(await jobs.records.list_objects(REVIEWS), key=lambda one: (one.written, one.name))
    groups = [one.name.removesuffix(".json") for one in listed if is_key(one.name.removesuffix(".json"))]
    reviews = await map_bounded(lambda group: read_review(jobs, group), groups, _CONCURRENT_READS)
    return [one for one in reviews if one is not None and one.takes and one.decision is None]


async def find_review(jobs: VideoJobs, beginning: str) -> Review:
    """Return the review whose group has this beginning.

    Raises:
        InvalidRequestError: No review has it, or several have it.
        StorageError: The reviews may not be listed (`s3:ListBucket`), or S3 cannot be reached.
    """
    given = f"group: {redact(repr(beginning), 80)} was given"
    if not _BEGINNING.fullmatch(beginning):
        raise InvalidRequestError(f"{given}: must be 4 to 64 hex digits, as `prefect-loova review` lists them")
    names = [one.name.removesuffix(".json") for one in await jobs.records.list_objects(REVIEWS)]
    found = [name for name in names if name.startswith(beginning)]
    if len(found) != 1:
        raise InvalidRequestError(f"{given}: {len(found)} reviews begin with it")
    review = await read_review(jobs, found[0])
    if review is None:
        raise InvalidRequestError(f"{given}: its review is gone")
    return review


def _object_key(jobs: VideoJobs, group: str) -> str:
    return jobs.records.object_key(REVIEWS, f"{group}.json")


async def _read(jobs: VideoJobs, group: str) -> tuple[Review, str] | None:
    key = _object_key(jobs, group)
    stored = await jobs.records.get_json(key)
    if stored is None:
        return None
    content, etag = stored
    uri = jobs.records.uri(key)
    try:
        review = Review.model_validate(content)
    except ValidationError:
        raise StorageError(f"{uri} is not a review of prefect-loova; nothing was changed") from None
    if review.format > FORMAT:
        raise StorageError(f"a newer version of prefect-loova wrote {uri}: upgrade prefect-loova to read it")
    if review.api_origin != jobs.loova.origin:
        raise StorageError(f"{uri} was made for {redact(review.api_origin)}, not for {jobs.loova.origin}")
    return review, etag
