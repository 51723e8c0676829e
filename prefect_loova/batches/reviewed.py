"""Make the takes of a batch, let people review them, and make what was chosen.

A batch with a review runs in rounds. Each round makes what the decisions so far need: all takes of the requests that
nobody decided, and the chosen videos of the others. A new decision starts a new round. What is in the bucket already is
not bought again, so a new run continues in the same round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prefect_loova._concurrency import map_bounded
from prefect_loova.batches.plan import PlannedVideo
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import VideoJobs
from prefect_loova.jobs.reviews import change_review, read_review
from prefect_loova.models.gates import Verdict
from prefect_loova.models.prices import MODELS, Models
from prefect_loova.models.reports import BatchReport, VideoOutcome
from prefect_loova.models.request import STORED, VideoRequest
from prefect_loova.models.reviews import (
    Choice,
    Draft,
    Review,
    Take,
    TakeDecision,
    TakeGroup,
    TakeVerdict,
    retake_decision,
)

_CONCURRENT_READS = 16
_CONCURRENT_GATES = 4


@dataclass(frozen=True)
class Round:
    """What one round makes.

    Attributes:
        videos: The videos to make.
        others: Takes of decided requests. They are not made any more, but they count in the report.
        later: The videos that will be made if the first take of each open request is chosen. They count in the price.
        is_first: Whether this run made no round before.
    """

    videos: list[PlannedVideo] = field(default_factory=list)
    others: list[PlannedVideo] = field(default_factory=list)
    later: list[PlannedVideo] = field(default_factory=list)
    is_first: bool = True


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
            links = tuple(one for one in group.requests if one.key in keys and one.former_key)
            group = replace(known, requests=known.requests + new, rows=(*known.rows, row), links=(*known.links, *links))
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


def next_round(groups: Iterable[TakeGroup], models: Models = MODELS, *, is_first: bool = True) -> Round:
    """Return what to make now. Each video is planned once, even if several requests have it."""
    wanted = Round(is_first=is_first)
    known = set[str]()

    def add(videos: list[PlannedVideo], request: VideoRequest, group: TakeGroup, take: Take) -> None:
        if request.key in known:
            return
        known.add(request.key)
        is_draft = group.are_drafts or (take.is_draft and request.key == take.shown.key)
        links = group.links_of(request) if group.links else ()
        videos.append(PlannedVideo(request, group.rows, models=models, group=group.id, is_draft=is_draft, links=links))

    groups = list(groups)
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


def undecided(groups: Iterable[TakeGroup], report: BatchReport) -> list[TakeGroup]:
    """Return the requests that a person can decide about: those with a take in the bucket."""
    there = {video.asked_key for video in report.videos if video.is_in_bucket}
    return [group for group in groups if group.is_open and any(take.shown.key in there for take in group.takes)]


def with_choices(report: BatchReport, groups: Iterable[TakeGroup], waiting: Iterable[TakeGroup] = ()) -> BatchReport:
    """Return the report with what was decided about each video, and what quality gates said.

    Args:
        report: The report of the last round.
        groups: All requests.
        waiting: The requests that wait for a person.
    """
    to_review = {group.id for group in waiting}
    there = {video.asked_key for video in report.videos if video.is_in_bucket}
    choices: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for group in groups:
        bad = _rejected(group)
        good = [take for take in group.takes if take.shown.key in there and take.shown.key not in bad]
        has_all = len(good) >= len(group.requests)
        for take in group.takes:
            key = take.shown.key
            if group.id in to_review:
                choice = "to review"
            elif group.is_open:
                choice = "not chosen" if key in bad and has_all else ""
            elif group.is_dropped:
                choice = "dropped"
            else:
                choice = "chosen" if group.chosen is not None and group.chosen.shown.key == key else "not chosen"
            choices[key] = "chosen" if choices.get(key) == "chosen" else choice
            rejected |= {key: bad[key]} if key in bad else {}
        if group.chosen is not None:
            final = group.chosen.final.key
            choices[final] = "chosen"
            rejected |= {final: bad[final]} if final in bad and group.chosen.is_draft else {}
            if not group.chosen.is_draft:
                rejected.pop(final, None)  # a person saw it and chose it
    return BatchReport(videos=tuple(_decided(video, choices, rejected) for video in report.videos))


def _rejected(group: TakeGroup) -> dict[str, str]:
    """Return why quality gates rejected videos, by key."""
    verdicts = group.review.verdicts if group.review else ()
    return {one.key: f"{one.gate}: {one.reason}" for one in verdicts if one.what != "accept"}


def _decided(video: VideoOutcome, choices: Mapping[str, str], rejected: Mapping[str, str]) -> VideoOutcome:
    key = video.asked_key
    return video.model_copy(update={"choice": choices.get(key, ""), "rejected": rejected.get(key, "")})


async def store_takes(jobs: VideoJobs, report: BatchReport, group: TakeGroup) -> TakeGroup:
    """Store the takes of a request, for a person who decides without the run: `prefect-loova review`."""
    made = {video.asked_key: video.video for video in report.videos}
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

Judge = Callable[[str], Awaitable[Verdict | None]]
"""Returns what the quality gates say of a saved video, by its key, or None if they cannot judge it."""

Ask = Callable[[list[TakeGroup], BatchReport], Awaitable[dict[str, TakeDecision] | None]]
"""Asks a person about takes, and returns the decisions by group, or None if nobody can be asked here."""


@dataclass(frozen=True)
class ReviewSteps:
    """The steps of a batch with a review or with quality gates.

    Attributes:
        make: Make the videos of a round.
        judge: Judge a video; None without quality gates.
        ask: Ask a person; None without a review.
        max_paid_attempts: How many times each wanted video may be bought in total, if quality gates ask for re-takes.
    """

    make: Make
    judge: Judge | None = None
    ask: Ask | None = None
    max_paid_attempts: int = 1


async def make_reviewed(
    jobs: VideoJobs, groups: Sequence[TakeGroup], steps: ReviewSteps
) -> tuple[BatchReport, list[TakeGroup]]:
    """Make the takes, judge them, ask a person about them, and make what was chosen, until nothing is open.

    Args:
        jobs: The API and the bucket.
        groups: The requests with their takes.
        steps: How to do it.

    Returns:
        The report, and the requests that still wait for a person.

    Raises:
        StorageError: A review cannot be read or written.
    """
    current = {group.id: group for group in await with_reviews(jobs, groups)}
    is_first = True
    while True:
        report = await steps.make(next_round(current.values(), jobs.loova.models, is_first=is_first))
        is_first = False
        judged = await _judged(jobs, [*current.values()], report, steps)
        has_new_takes = any(len(group.takes) > len(current[group.id].takes) for group in judged)
        current |= {group.id: group for group in judged}
        if has_new_takes:
            continue
        waiting = undecided(current.values(), report) if steps.ask else []
        if not waiting or steps.ask is None:
            return with_choices(report, current.values()), []
        waiting = await map_bounded(partial(store_takes, jobs, report), waiting, _CONCURRENT_READS)
        current |= {group.id: group for group in waiting}
        report = with_choices(report, current.values(), waiting)
        decisions = await steps.ask(waiting, report)
        if decisions is None:
            return report, waiting
        for group, decision in decisions.items():
            current[group] = current[group].with_review(await store_decision(jobs, group, decision))


async def _judged(
    jobs: VideoJobs, groups: Sequence[TakeGroup], report: BatchReport, steps: ReviewSteps
) -> list[TakeGroup]:
    """Return the groups whose videos the quality gates judged now, with the re-takes that they asked for."""
    judge = steps.judge
    if judge is None:
        return []
    there = {video.asked_key: video.key for video in report.videos if video.is_in_bucket}

    async def judge_group(group: TakeGroup) -> TakeGroup:
        wanted = [take.shown.key for take in group.takes] if group.is_open else []
        wanted += [group.chosen.final.key] if group.chosen else []
        verdicts = list[TakeVerdict]()
        for key in dict.fromkeys(wanted):
            if key in there and not (group.review and group.review.verdict(key)):
                verdict = await judge(there[key])
                if verdict is not None:
                    verdicts.append(TakeVerdict(key=key, gate=verdict.gate, what=verdict.what, reason=verdict.reason))
        return await _store_verdicts(jobs, group, verdicts, steps.max_paid_attempts) if verdicts else group

    return await map_bounded(judge_group, groups, _CONCURRENT_GATES)


async def _store_verdicts(
    jobs: VideoJobs, group: TakeGroup, verdicts: list[TakeVerdict], max_paid_attempts: int
) -> TakeGroup:
    """Store verdicts, and the re-takes that they ask for, in one write."""
    left = (max_paid_attempts - 1) * len(group.requests) - group.gate_retakes
    retakes = list[TakeDecision]()
    for verdict in verdicts if group.is_open else ():
        if verdict.what == "retake" and len(retakes) < left:
            number = max(take.final.take for take in group.takes) + 1 + len(retakes)
            by = {"who": f"quality gate {verdict.gate}", "gate": verdict.gate, "why": verdict.reason}
            retakes.append(TakeDecision(what="retake", take=number, **by))

    def change(review: Review) -> Review:
        review = review.judged(verdicts)
        for decision in retakes:
            review = review.decided(decision)
        return review

    return group.with_review(await change_review(jobs, group.id, change))
