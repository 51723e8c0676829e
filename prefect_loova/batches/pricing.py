"""Price a batch: read the job record of each video. A record that cannot be read does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefect_loova._concurrency import map_bounded
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
from prefect_loova.models.attempts import PURCHASED
from prefect_loova.models.contradictions import differences
from prefect_loova.models.job_record import JobRecord
from prefect_loova.models.prices import MODELS, Models
from prefect_loova.models.request import VideoRequest

_CONCURRENT_READS = 16
_MAX_FAILED_READS = 16  # in a row


def deduplicate(requests: Iterable[VideoRequest], models: Models = MODELS) -> list[PlannedVideo]:
    """Return each take of each request once, by its key, in the given order."""
    rows: dict[str, list[int]] = {}
    links: dict[str, dict[str | None, VideoRequest]] = {}
    takes = ((row, take) for row, request in enumerate(requests, 1) for take in request.all_takes)
    for row, request in takes:
        key = request.key
        rows.setdefault(key, []).append(row)
        links.setdefault(key, {}).setdefault(request.former_key, request)
    videos = []
    for key, same in links.items():
        first, *others = same.values()
        videos.append(PlannedVideo(first, tuple(rows[key]), links=tuple(others), models=models))
    return videos


async def price_videos(
    jobs: VideoJobs, requests: Sequence[VideoRequest], *, max_paid_attempts: int = 1
) -> list[PlannedVideo]:
    """Return what each take of each request may still cost: see `price_planned`."""
    return await price_planned(jobs, deduplicate(requests, jobs.loova.models), max_paid_attempts=max_paid_attempts)


async def price_planned(
    jobs: VideoJobs, videos: Sequence[PlannedVideo], *, max_paid_attempts: int = 1
) -> list[PlannedVideo]:
    """Read the job record of every video, and return what each may still cost. Spends nothing.

    A request whose record cannot be read is not bought. It counts as spent if it may have been bought.

    Args:
        jobs: The API and the bucket.
        videos: The videos to make, each once.
        max_paid_attempts: How many times each may be bought in total, if Loova fails to make the video.

    Raises:
        InvalidRequestError: A model is not known or has no price, or a rule of it or of this API is broken; the error
            lists all requests.
        StorageError: S3 responds for none of them, or fails for 16 in a row.
    """
    failed_reads = 0

    async def price(planned: PlannedVideo) -> PlannedVideo:
        nonlocal failed_reads
        try:
            if failed_reads >= _MAX_FAILED_READS:
                raise StorageError("it was not read, because S3 does not respond", transient=True)
            priced = await plan_video(jobs, planned, max_paid_attempts)
        except StorageError as error:
            failed_reads += 1
            if failed_reads >= min(_MAX_FAILED_READS, len(videos)):
                raise
            return _unreadable(planned, error)
        failed_reads = 0
        return priced

    problems = []
    for planned in videos:
        try:
            jobs.loova.check(planned.request)
        except InvalidRequestError as error:
            draft = ", its draft" if planned.is_draft else ""
            problems.append(f"request {', '.join(map(str, planned.rows))}{draft}: {error.message}")
    if problems:
        raise InvalidRequestError("\n".join(first_lines([*dict.fromkeys(problems)])))
    return await map_bounded(price, videos, _CONCURRENT_READS)


async def plan_video(jobs: VideoJobs, planned: PlannedVideo, max_paid_attempts: int) -> PlannedVideo:
    """Read the job record of a video. If it cannot be read, the video is not bought, and its reason says why.

    Raises:
        StorageError: S3 does not respond; a retry may help.
    """
    try:
        request, stored = await find_by_links(jobs.records, (planned.request, *planned.links))
        record = stored.record if stored else None
        found = plan_from_record(jobs, replace(planned, request=request), record, max_paid_attempts)
        fallback = found.with_fallback() if found.content_refused else None
        if fallback is None:
            return found
        other = await plan_video(jobs, fallback, max_paid_attempts)
        return replace(other, spent=found.spent + other.spent)
    except Exception as error:
        if isinstance(error, StorageError) and error.transient:
            raise
        return _unreadable(planned, error)


def _unreadable(planned: PlannedVideo, error: Exception) -> PlannedVideo:
    """Return a video that may have been bought, unless the record is another API's."""
    is_other_api = isinstance(error, RecordMismatchError) and error.is_other_api
    counts = "" if is_other_api else "; it may have been bought, so its price counts as spent"
    why = error if isinstance(error, LoovaError) else f"{type(error).__name__}: {error}"
    return replace(
        planned,
        price=0.0,
        spent=0.0 if is_other_api else planned.estimate,
        reason=f"its job record cannot be read, so it is not submitted{counts}: {redact(why)}",
    )


def plan_from_record(
    jobs: VideoJobs, planned: PlannedVideo, record: JobRecord | None, max_paid_attempts: int
) -> PlannedVideo:
    """Return a video as its job record describes it."""
    estimate = planned.estimate
    if record is None:
        return replace(planned, price=estimate, spent=0.0)
    attempt = record.current
    is_bought = attempt.state in PURCHASED
    doubt = record.undecided or (attempt if attempt.state == "in_doubt" else None)
    reason = ""
    state = attempt.state
    if is_bought:
        pass
    elif doubt is not None:
        state, job = "in_doubt", describe_doubt(jobs, record, doubt.number, None)
        reason = (
            f"submitted at {job.when}, and the answer is lost ({job.reason}); a person has to decide: "
            f"prefect-loova resolve {job.key} {job.place}"
        )
    elif any(one.state == "abandoned" for one in record.attempts):
        reason = "a person gave it up; ask for another take"
    elif attempt.state in ("failed", "rejected") and not record.may_buy(max_paid_attempts):
        reason = str(jobs.failed(record))
    root_run = jobs.by.get("root_flow_run")
    price = 0.0 if is_bought or reason else estimate
    return replace(
        planned,
        state=state,
        price=price,
        spent=sum(
            one.credits_counted
            for one in record.attempts
            if root_run
            and one.by.get("root_flow_run") == root_run
            and one.state not in ("claimed", "rejected")
            # The price includes an attempt that is being submitted.
            and not (price and one is attempt and one.state == "submitting")
        ),
        submission=jobs.submission(record, reused=True) if is_bought else None,
        reason=reason,
        video=jobs.records.uri(attempt.video.object_key) if attempt.video else None,
        size_bytes=attempt.video.size_bytes if attempt.video else None,
        differs=differences(record.request, attempt.video) if attempt.video else "",
        content_refused=bool(reason and attempt.content_refused),
    )


async def is_stored(jobs: VideoJobs, planned: PlannedVideo) -> bool:
    """Return whether the bucket holds the video in the size that the job record names."""
    if planned.video is None:
        return False
    return await jobs.records.object_size(jobs.records.key_of(planned.video)) == planned.size_bytes
