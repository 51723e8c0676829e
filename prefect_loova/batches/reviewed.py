"""Make the takes of a batch, let people review them, and make what was chosen.

A batch with a review runs in rounds. Each round makes what the decisions so far need: all takes of the requests that
nobody decided, and the chosen videos of the others. A new decision starts a new round. What is in the bucket already is
not bought again, so a run that starts anew ends up in the same round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefect_loova._concurrency import map_bounded
from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.reviews import change_review, read_review
from prefect_loova.models.prices import MODELS, Models
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.models.reviews import Choice, Draft, Review, Take, TakeDecision, TakeGroup, retake_decision

_CONCURRENT_READS = 16


@dataclass(frozen=True)
class Round:
    """What one round makes.

    Attributes:
        videos: The videos to make.
        others: Takes of decided requests. They are not made any more, but they count in the report.
        later: The videos that will be made if the first take of each open request is chosen. They count in the price.
    """

    videos: list[PlannedVideo] = field(default_factory=list)
    others: list[PlannedVideo] = field(default_factory=list)
    later: list[PlannedVideo] = field(default_factory=list)


def take_groups(requests: Sequence[VideoRequest], draft: Draft | None = None) -> list[TakeGroup]:
    """Return each request of a list once, with all its takes, in the given order.

    Raises:
        InvalidRequestError: A request is not valid with the draft's model or duration.
    """
    groups: dict[str, TakeGroup] = {}
    for row, request in enumerate(requests, 1):
        group = TakeGroup(request.all_takes, (row,), draft)
        known = groups.get(group.id)
        if known is not None:
            keys = {one.key for one in known.requests}
            new = tuple(one for one in group.requests if one.key not in keys)
            group = replace(known, requests=known.requests + new, rows=(*known.rows, row))
        groups[group.id] = group
    return [*groups.values()]


async def with_reviews(jobs: VideoJobs, groups: Sequence[TakeGroup]) -> list[TakeGroup]:
    """Return the groups with what was decided about them.

    Raises:
        StorageError: A review cannot be read.
    """

    async def read(group: TakeGroup) -> TakeGroup:
        return replace(group, review=await read_review(jobs, group.id))

    return await map_bounded(read, groups, _CONCURRENT_READS)


def next_round(groups: Iterable[TakeGroup], models: Models = MODELS) -> Round:
    """Return what to make now. Each video is planned once, even if several requests have it."""
    wanted = Round()
    known = set[str]()

    def add(videos: list[PlannedVideo], request: VideoRequest, group: TakeGroup, take: Take) -> None:
        if request.key in known:
            return
        known.add(request.key)
        is_draft = take.is_draft and request.key == take.shown.key
        videos.append(PlannedVideo(request, group.rows, models=models, group=group.id, is_draft=is_draft))

    for group in groups:
        for take in group.takes if group.is_open else ():
            add(wanted.videos, take.shown, group, take)
        if group.chosen is not None:
            add(wanted.videos, group.chosen.final, group, group.chosen)
    for group in groups:
        for take in group.takes:
            add(wanted.others, take.shown, group, take)
        if group.is_open and group.takes[0].is_draft:
            add(wanted.later, group.takes[0].final, group, group.takes[0])
    return wanted


def to_review(groups: Iterable[TakeGroup], report: BatchReport) -> list[TakeGroup]:
    """Return the requests that a person can decide about: those with a take in the bucket."""
    there = {video.first_key or video.key for video in report.videos if video.outcome in ("saved", "reused")}
    return [group for group in groups if group.is_open and any(take.shown.key in there for take in group.takes)]


def with_choices(report: BatchReport, groups: Iterable[TakeGroup]) -> BatchReport:
    """Return the report with what was decided about each video, and what a quality gate said."""
    choices: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for group in groups:
        for take in group.takes:
            key = take.shown.key
            if not group.is_open and choices.get(key) != "chosen":
                is_it = group.chosen is not None and group.chosen.shown.key == key
                choices[key] = "chosen" if is_it else "dropped" if group.is_dropped else "not chosen"
            verdict = group.review.verdict(key) if group.review else None
            if verdict is not None and verdict.what != "accept":
                rejected[key] = f"{verdict.gate}: {verdict.reason}"
        if group.chosen is not None:
            choices[group.chosen.final.key] = "chosen"

    def decided(video: VideoOutcome) -> VideoOutcome:
        key = video.first_key or video.key
        choice = choices.get(key, "")
        reason = "" if choice == "chosen" else rejected.get(key, "")
        return video.model_copy(update={"choice": choice, "rejected": reason})

    return BatchReport(videos=tuple(map(decided, report.videos)))


async def store_takes(jobs: VideoJobs, group: TakeGroup, report: BatchReport) -> TakeGroup:
    """Store the takes of a request, for a person who decides without the run: `prefect-loova review`."""
    made = {video.first_key or video.key: video.video for video in report.videos}
    facts = {
        "request": group.request.as_stored(),
        "label": group.request.label,
        "takes": group.reviewed_takes(made),
    }
    review = await change_review(jobs, group.id, lambda before: before.model_copy(update=facts))
    return group.with_review(review)


async def store_decision(jobs: VideoJobs, group: str, decision: TakeDecision) -> Review:
    """Store a person's decision about the takes of a request."""
    return await change_review(jobs, group, lambda before: before.decided(decision))


async def decide_takes(
    jobs: VideoJobs,
    review: Review,
    what: Choice,
    *,
    who: str,
    why: str = "",
    take: int | None = None,
    prompt: str = "",
    duration: int | None = None,
) -> Review:
    """Store a person's decision about the takes of a stored review.

    Args:
        jobs: The API and the bucket.
        review: The review, with its takes.
        what: The decision.
        who: Who decides.
        why: The reason.
        take: `choose`: the number of the take. `retake`: the number of the new take; None for the next one.
        prompt: `retake`: another prompt.
        duration: `retake`: another duration, in seconds.

    Raises:
        InvalidRequestError: The review has no such take, or the new take is not valid.
        StorageError: The bucket cannot be read or written.
    """
    if what != "retake" and (prompt or duration is not None):
        raise InvalidRequestError("prompt, duration: only a retake has another prompt or duration")
    if what == "retake":
        fields = {name: value for name, value in review.request.items() if name in VideoRequest.model_fields}
        request = VideoRequest.model_validate(fields, context=STORED)
        changes: dict[str, Any] = {"take": take, "prompt": prompt, "duration": duration}
        decision = retake_decision(request, review.takes, who=who, why=why, **changes)
    elif what == "drop":
        decision = TakeDecision(what="drop", who=who, why=why)
    else:
        found = [one for one in review.takes if one.take == take]
        if len(found) != 1:
            numbers = ", ".join(str(one.take) for one in review.takes)
            raise InvalidRequestError(f"take: {take} was given: the takes are {numbers}")
        decision = TakeDecision(what="choose", key=found[0].key, take=take, who=who, why=why)
    return await store_decision(jobs, review.group, decision)


Make = Callable[[Round], Awaitable[BatchReport]]
"""Makes the videos of a round."""

Ask = Callable[[list[TakeGroup], BatchReport], Awaitable[dict[str, TakeDecision] | None]]
"""Asks a person about takes, and returns the decisions by group, or None if nobody can be asked here."""


async def make_reviewed(
    jobs: VideoJobs, groups: Sequence[TakeGroup], make: Make, ask: Ask
) -> tuple[BatchReport, list[TakeGroup]]:
    """Make the takes, ask a person about them, and make what was chosen, until nothing is open.

    Args:
        jobs: The API and the bucket.
        groups: The requests with their takes.
        make: How to make the videos of a round.
        ask: How to ask a person.

    Returns:
        The report, and the requests that still wait for a person.

    Raises:
        StorageError: A review cannot be read or written.
    """
    current = await with_reviews(jobs, groups)
    while True:
        report = await make(next_round(current, jobs.loova.models))
        waiting = to_review(current, report)
        if not waiting:
            return with_choices(report, current), []
        stored = {group.id: group for group in [await store_takes(jobs, group, report) for group in waiting]}
        current = [stored.get(group.id, group) for group in current]
        decisions = await ask([*stored.values()], report)
        if decisions is None:
            return with_choices(report, current), [*stored.values()]
        for group, decision in decisions.items():
            stored[group] = stored[group].with_review(await store_decision(jobs, group, decision))
        current = [stored.get(group.id, group) for group in current]
