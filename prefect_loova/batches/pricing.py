"""Look at the job records of a batch: what each video may cost yet. One that cannot be read stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.errors import (
    InvalidRequestError,
    LoovaError,
    RecordMismatchError,
    StorageError,
    first_lines,
    redact,
)
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.doubt import describe_doubt
from prefect_loova.jobs.former_keys import find_by_links
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import PURCHASED, JobRecord
from prefect_loova.models.request import VideoRequest

_READS_AT_ONCE = 16
_SILENT_IN_A_ROW = 16


def deduplicate(requests: Iterable[VideoRequest]) -> list[PlannedVideo]:
    """Each request once, by its key, in the order given; its rows say where it stood."""
    rows: dict[str, list[int]] = {}
    links: dict[str, dict[str | None, VideoRequest]] = {}
    for row, request in enumerate(requests, 1):
        key = request.key
        rows.setdefault(key, []).append(row)
        links.setdefault(key, {}).setdefault(request.former_key, request)
    orders = []
    for key, found in links.items():
        first, *others = found.values()
        orders.append(PlannedVideo(first, tuple(rows[key]), links=tuple(others)))
    return orders


async def price_videos(
    jobs: VideoJobs, requests: Sequence[VideoRequest], *, max_paid_attempts: int = 1
) -> list[PlannedVideo]:
    """Look at the job record of every request, and say what it may cost yet. Spends nothing.

    A request whose record cannot be read is not bought, counts as spent where it may have been, and stops no other.

    Args:
        jobs: The API and the bucket.
        requests: The videos to be made.
        max_paid_attempts: How often each may be bought in all, when Loova fails to make it.

    Raises:
        InvalidRequestError: All requests whose media URLs this API may not be given.
        StorageError: S3 answers for none of them, or for many in a row.
    """
    turn = asyncio.Semaphore(_READS_AT_ONCE)
    orders, silent = deduplicate(requests), 0

    async def one(order: PlannedVideo) -> PlannedVideo:
        nonlocal silent
        async with turn:
            try:
                if silent >= _SILENT_IN_A_ROW:
                    raise StorageError("not looked at, because S3 does not answer", transient=True)
                found = await as_recorded(jobs, order, max_paid_attempts)
            except StorageError as error:
                silent += 1
                if silent >= min(_SILENT_IN_A_ROW, len(orders)):
                    raise
                return _unread(order, error)
            silent = 0
            return found

    problems = []
    for order in orders:
        try:
            jobs.loova.check(order.request)
        except InvalidRequestError as error:
            problems.append(f"request {', '.join(map(str, order.rows))}: {error.message}")
    if problems:
        raise InvalidRequestError("\n".join(first_lines(problems)))
    return list(await asyncio.gather(*map(one, orders)))


async def as_recorded(jobs: VideoJobs, order: PlannedVideo, max_paid_attempts: int) -> PlannedVideo:
    """The order as its job record shows it. One whose record cannot be read is not bought, and its reason says why.

    Raises:
        StorageError: S3 does not answer; trying again may help.
    """
    try:
        request, stored = await find_by_links(jobs.records, (order.request, *order.links))
        return plan_from_record(
            jobs, replace(order, request=request), stored.record if stored else None, max_paid_attempts
        )
    except Exception as error:
        if isinstance(error, StorageError) and error.transient:
            raise
        return _unread(order, error)


def _unread(order: PlannedVideo, error: Exception) -> PlannedVideo:
    """An order of which nobody knows whether it was bought, unless its record is another API's."""
    is_other_api = isinstance(error, RecordMismatchError) and error.is_other_api
    counts = "" if is_other_api else "; it may have been bought, so its price counts as spent"
    why = error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}"
    return replace(
        order,
        price=0.0,
        spent=0.0 if is_other_api else order.request.estimate_credits(),
        reason=f"its job record cannot be read, so it is not submitted{counts}: {redact(why)}",
    )


def plan_from_record(
    jobs: VideoJobs, order: PlannedVideo, record: JobRecord | None, max_paid_attempts: int
) -> PlannedVideo:
    """The order as its job record shows it."""
    request, estimate = order.request, order.request.estimate_credits()
    if record is None:
        return PlannedVideo(request, order.rows, price=estimate)
    attempt = record.current
    bought = attempt.state in PURCHASED
    doubt = record.undecided or (attempt if attempt.state == "in_doubt" else None)
    reason = ""
    state = attempt.state
    if bought:
        pass
    elif doubt is not None:
        state, job = "in_doubt", describe_doubt(jobs, record, doubt.number, None)
        reason = (
            f"submitted at {job.when}, and the answer is lost ({job.reason}); a person decides: "
            f"python -m prefect_loova.resolve {job.key} {job.place}"
        )
    elif any(one.state == "abandoned" for one in record.attempts):
        reason = "a person gave it up; another take would be bought"
    elif attempt.state in ("failed", "rejected") and not record.may_buy(max_paid_attempts):
        reason = str(jobs.failed(record))
    mine = jobs.by.get("root_flow_run")
    price = 0.0 if bought or reason else estimate
    return PlannedVideo(
        request,
        order.rows,
        state=state,
        price=price,
        spent=sum(
            one.credits_counted
            for one in record.attempts
            if mine
            and one.by.get("root_flow_run") == mine
            and one.state not in ("claimed", "rejected")
            # One that is being submitted is in the price, where there is one.
            and not (price and one is attempt and one.state == "submitting")
        ),
        submission=jobs.submission(record, reused=True) if bought else None,
        reason=reason,
        video=jobs.records.uri(attempt.video.object_key) if attempt.video else None,
        size_bytes=attempt.video.size_bytes if attempt.video else None,
        differs=differences(record.request, attempt.video) if attempt.video else "",
    )


async def is_there(jobs: VideoJobs, order: PlannedVideo) -> bool:
    """Whether the video stands in the bucket, as large as the record said when the batch was priced."""
    if order.video is None:
        return False
    return await jobs.records.object_size(order.video.removeprefix(jobs.records.uri(""))) == order.size_bytes
