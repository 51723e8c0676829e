"""The flow that makes a story of several shots and joins them into one film."""

# No `from __future__ import annotations` here: Prefect would lose the names in the signature of a flow.

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from prefect import flow, task
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect_aws.s3 import S3Bucket
from pydantic import Field

from prefect_loova._cancellation import task_group
from prefect_loova._prefect.artifacts import publish_prices, publish_story
from prefect_loova._prefect.concurrency import slot_count
from prefect_loova._prefect.context import DEFAULT_PREFIX, Location, location_of
from prefect_loova._prefect.dispatch import sync_or_async
from prefect_loova._prefect.gallery import keys_to_keep
from prefect_loova._prefect.lineage import tagged
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._prefect.pages import Picture
from prefect_loova._prefect.previews import Preview, posters
from prefect_loova._prefect.progress import batch_progress
from prefect_loova._prefect.run_logs import RESULT
from prefect_loova._prefect.task_options import NOT_CACHED
from prefect_loova.batches.film import JoinedFilm, join_shots
from prefect_loova.batches.kept import measure_seams
from prefect_loova.batches.plan import Plan, PlannedVideo, RunBudget, admit, price_table
from prefect_loova.batches.pricing import price_planned
from prefect_loova.batches.reviewed import make_reviewed, next_round, with_reviews
from prefect_loova.batches.story import MOST_LOST_ANSWERS, StoryPlan, StoryRun
from prefect_loova.batches.story_takes import chosen_board, chosen_takes, first_takes, groups_of_shots, has_takes
from prefect_loova.batches.storyboard import Storyboard, read_storyboard
from prefect_loova.credentials import LoovaCredentials
from prefect_loova.errors import counted, first_lines, redact
from prefect_loova.flows.batch_run import (
    REVIEW_SECONDS,
    Batch,
    ReviewMode,
    batch_error,
    file_run_name,
    log_waiting,
)
from prefect_loova.jobs.context import MAX_WAIT, VideoJobs
from prefect_loova.jobs.media_delivery import warn_about_prompt
from prefect_loova.jobs.media_identity import MediaPreparer
from prefect_loova.models.film import FilmOptions
from prefect_loova.models.model_rules import ModelName
from prefect_loova.models.prices import format_credits
from prefect_loova.models.reports import BatchReport, Seam, StoryReport, VideoOutcome
from prefect_loova.models.results import SavedVideo
from prefect_loova.store.previews import load_moving
from prefect_loova.tasks import prepare_media
from prefect_loova.videos import LoovaVideos


@dataclass(frozen=True)
class Story:
    """A story and the options to make it.

    Attributes:
        board: The storyboard.
        batch: How to make each shot.
    """

    board: Storyboard
    batch: Batch

    async def dry_run(self) -> StoryReport:
        """Show the price of the story. Spends nothing, and uploads nothing."""
        async with self.batch.location.open() as jobs:
            board = first_takes(self.board, self.batch.drafts)
            plan = await self._plan(jobs, board, upload=False)
            for shot in board.shots:
                if not shot.keep:
                    warn_about_prompt(plan.videos[shot.number].request)
            seams = await measure_seams(jobs, board.shots, plan.saved)
            others = await self._other_videos(jobs, plan, upload=False) if self._is_reviewed else []
        report = self._report(board, [plan.outcome(shot, "a dry run") for shot in board.shots], seams)
        table = price_table([*plan.videos.values(), *others])
        get_run_logger().info("a dry run, nothing is spent:\n%s", table)
        for one in report.shots.videos:
            if one.is_in_bucket:
                get_run_logger().info("shot %d is in the bucket; to keep it: `keep: %s`", one.rows[0], one.key)
        await publish_prices("\n".join([table, "", *keys_to_keep(report.shots)]))
        return report

    async def make(self) -> StoryReport:
        """Make all shots, pay for each once, and join them.

        Raises:
            InvalidRequestError: The shots' media have problems; the error lists all of them.
            BudgetError: The story as a whole was refused; nothing was bought.
            BatchError: Shots are missing, or they could not be joined.
        """
        async with self.batch.location.open() as jobs:
            await jobs.records.check_bucket()
            if not self._is_reviewed:
                return await self._make_film(jobs, self.board)
            takes, board = await self._make_takes(jobs)
            if board is None:
                report = StoryReport(title=self.board.title, shots=BatchReport(videos=()), takes=takes)
                get_run_logger().info(report.summary, extra=RESULT)
                return report
            return await self._make_film(jobs, board, takes)

    @property
    def _is_reviewed(self) -> bool:
        return has_takes(self.board) or self.batch.review != "none" or bool(self.batch.quality_gates)

    async def _make_takes(self, jobs: VideoJobs) -> tuple[BatchReport, Storyboard | None]:
        """Make the takes of all shots. Return the story of those that were chosen, or None if it waits for a person.

        Raises:
            BatchError: A shot has no take.
        """
        steps = await self.batch.review_steps(jobs)
        first = first_takes(self.board, self.batch.drafts)
        plan = await self._plan(jobs, first)
        later = await self._other_videos(jobs, plan)
        admitted = await self._admit(jobs, [*plan.videos.values(), *later])
        lost_answers = await self._make_shots(jobs, first, plan, admitted.budget)
        made = BatchReport(videos=tuple(plan.outcomes[shot.number] for shot in first.shots))
        if lost_answers >= MOST_LOST_ANSWERS:
            raise batch_error(_missing_shots(StoryReport(title=self.board.title, shots=made)), made)
        groups = groups_of_shots(self.board, plan.requests, are_drafts=self.batch.drafts is not None)
        report, waiting = await make_reviewed(jobs, [*groups.values()], steps)
        if waiting:
            log_waiting(jobs, waiting)
            return report, None
        reviewed = {group.id: group for group in await with_reviews(jobs, [*groups.values()])}
        groups = {number: reviewed[group.id] for number, group in groups.items()}
        takes = chosen_takes(groups, report)
        missing = [shot for shot in first.shots if not shot.keep and shot.number not in takes]
        if missing:
            story = StoryReport(title=self.board.title, shots=made, takes=report)
            await self._show(jobs, story)
            raise batch_error(_missing_shots(story), report)
        saved = {one.first_key: one.key for one in report.videos if one.first_key}
        board = chosen_board(self.board, groups, takes, is_draft=self.batch.drafts is not None, fallbacks=saved)
        if not board.shots:
            raise batch_error(f"{self.board.title}: all shots were dropped, so there is no film", report)
        return report, board

    async def _other_videos(self, jobs: VideoJobs, plan: StoryPlan, *, upload: bool = True) -> list[PlannedVideo]:
        """Return what a story with takes may buy besides the first takes: the other takes, and after drafts the shots.

        The price of a take whose first frame is not known yet is that of the first take.
        """
        known = groups_of_shots(self.board, plan.requests)
        reviewed = await with_reviews(jobs, [*known.values()])
        groups = dict(zip(known, reviewed, strict=True))
        first = {request.key for request in plan.requests.values()}
        wanted = next_round(groups.values(), jobs.loova.models)
        others = [one for one in wanted.videos if one.request.key not in first]
        videos = await price_planned(jobs, others, max_paid_attempts=self.batch.max_paid_attempts)
        for shot in self.board.shots:
            planned = plan.videos[shot.number]
            if shot.number not in groups and not shot.keep:
                videos += [planned] * (int(shot.fields.get("takes", 1)) - 1)
        if self.batch.drafts is not None:
            chosen = {number: group.chosen for number, group in groups.items() if group.chosen or group.is_dropped}
            board = chosen_board(self.board, groups, chosen, is_draft=True)
            videos += (await self._plan(jobs, board, upload=upload)).videos.values() if board.shots else ()
        return videos

    async def _admit(self, jobs: VideoJobs, videos: list[PlannedVideo], spent: float = 0.0) -> Plan:
        """Admit videos as a whole. `spent` is what this run spent on other videos."""
        most = self.batch.max_credits
        return await admit(
            jobs,
            videos,
            max_credits=None if most is None else max(0.0, most - spent),
            keep_credits=self.batch.keep_credits,
        )

    async def _make_film(self, jobs: VideoJobs, board: Storyboard, takes: BatchReport | None = None) -> StoryReport:
        """Make the shots of a board, and join them. `takes` are the takes that they were chosen from."""
        logger = get_run_logger()
        plan = await self._plan(jobs, board)
        videos = list(plan.videos.values())
        keys = {planned.request.key for planned in videos if planned.request.is_prepared}
        spent = sum(one.credits_charged for one in (takes.videos if takes else ()) if one.key not in keys)
        admitted = await self._admit(jobs, videos, spent)
        logger.info(
            "%s: %d shots, %d are in the bucket, the others cost up to %s",
            redact(board.title, 80),
            len(videos),
            len(plan.saved),
            format_credits(admitted.price),
        )
        await self._make_shots(jobs, board, plan, admitted.budget)
        seams = await measure_seams(jobs, board.shots, plan.saved)
        outcomes = [plan.outcomes[shot.number] for shot in board.shots]
        report, problem = self._report(board, outcomes, seams, takes), None
        if len(plan.saved) == len(board.shots):
            try:
                film = await _join(
                    [plan.saved[shot.number] for shot in board.shots],
                    plan.film,
                    location=self.batch.location,
                    upload_options=self.batch.upload_options,
                )
                report = report.with_film(film.model_dump())
            except Exception as error:
                problem = error
        logger.info(report.summary, extra=RESULT)
        await self._show(jobs, report)
        if report.film is None:
            message = _join_failure(report, problem) if problem else _missing_shots(report)
            raise batch_error(message, report.shots) from problem
        return report

    async def _plan(self, jobs: VideoJobs, board: Storyboard, *, upload: bool = True) -> StoryPlan:
        preparing = MediaPreparer(jobs, self.batch.local, upload=upload)
        return await StoryPlan.of(jobs, board, preparing, max_paid_attempts=self.batch.max_paid_attempts)

    def _report(
        self,
        board: Storyboard,
        outcomes: list[VideoOutcome],
        seams: tuple[Seam, ...],
        takes: BatchReport | None = None,
    ) -> StoryReport:
        for seam in seams:
            get_run_logger().info("shot %d is kept: its seam has a distance of %.3f", seam.shot, seam.distance)
        return StoryReport(title=board.title, shots=BatchReport(videos=tuple(outcomes)), seams=seams, takes=takes)

    async def _make_shots(self, jobs: VideoJobs, board: Storyboard, plan: StoryPlan, budget: RunBudget) -> int:
        """Make the shots of a board, and return how many answers were lost."""
        slots = asyncio.Semaphore(max(1, await slot_count(self.batch.concurrency_limit)))
        location = self.batch.location
        prepare = partial(
            prepare_media, credentials=location.credentials, bucket=location.bucket, prefix=location.prefix
        )
        wanted = [planned.request for planned in plan.videos.values()]
        async with tagged(wanted), batch_progress(len(board.shots)) as count, task_group() as group:

            def notify(number: int, outcome: VideoOutcome) -> None:
                _log_shot(number, outcome)
                count(outcome)

            run = StoryRun(jobs, plan, budget, self.batch.steps(jobs), prepare, slots, notify)
            for chain in board.chains():
                group.create_task(run.run_chain(chain))
        return run.lost_answers

    async def _show(self, jobs: VideoJobs, report: StoryReport) -> None:
        moving = None
        try:
            if report.film:
                preview = await load_moving(jobs.records, jobs.records.key_of(report.film))
                moving = Picture(*preview) if preview else None
            both = (*report.shots.videos, *(report.takes.videos if report.takes else ()))
            pictures = await posters(jobs, BatchReport(videos=both))
        except Exception as error:
            get_run_logger().warning("the story's page has no pictures (%s)", redact(error))
            pictures = {}
        await publish_story(report, moving, pictures)


def _join_run_name() -> str:
    return f"join {counted(len(task_run.parameters['videos']), 'shot')}"


@task(
    name="join-shots",
    description="Join the shots of a story into one film in the bucket.",
    **NOT_CACHED | {"task_run_name": _join_run_name},
)
async def _join(
    videos: list[SavedVideo], options: FilmOptions, *, location: Location, upload_options: dict[str, Any] | None
) -> JoinedFilm:
    async with location.open() as jobs:
        return await join_shots(jobs, videos, options, upload_options=upload_options)


def _log_shot(number: int, outcome: VideoOutcome) -> None:
    log = get_run_logger().info if outcome.is_in_bucket else get_run_logger().warning
    result = outcome.video or outcome.reason
    log("shot %d, %s: %s, %s", number, outcome.name, outcome.outcome.replace("_", " "), result)


def _join_failure(report: StoryReport, problem: Exception) -> str:
    return (
        f"{report.summary}\nAll shots are paid for and in the bucket, but they could not be joined: "
        f"{redact(problem)}\nRun the same storyboard again: it joins them, and buys nothing"
    )


def _missing_shots(report: StoryReport) -> str:
    missing = [f"shot {one.rows[0]}, {one.line}" for one in report.shots.videos if not one.is_in_bucket]
    return "\n".join([report.summary, *first_lines(missing, 10)])


def _storyboard_name() -> str:
    return file_run_name("storyboard", "generate-storyboard")


@sync_or_async
@flow(name="generate-storyboard", flow_run_name=_storyboard_name)
async def generate_storyboard(
    storyboard: str,
    credentials: LoovaCredentials | None = None,
    bucket: S3Bucket | None = None,
    prefix: str = DEFAULT_PREFIX,
    dry_run: bool = False,
    max_credits: Annotated[float | None, Field(ge=0)] = None,
    keep_credits: Annotated[float, Field(ge=0)] = 0.0,
    max_wait: Annotated[float, Field(ge=0)] = MAX_WAIT,
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None,
    max_paid_attempts: Annotated[int, Field(ge=1)] = 1,
    upload_options: dict[str, Any] | None = None,
    concurrency_limit: str | None = None,
    preview: Preview | None = None,
    review: ReviewMode = "none",
    review_seconds: Annotated[float, Field(gt=0)] = REVIEW_SECONDS,
    draft: ModelName | None = None,
    draft_duration: Annotated[int, Field(ge=1)] | None = None,
    quality_gates: list[Any] | None = None,
    media_folder: str | None = None,
    videos: LoovaVideos | None = None,
) -> StoryReport:
    """Make a story of several shots and join them into one film. A shot may continue the shot before it.

    Each shot is paid once: if you run the storyboard again, it continues where the earlier run ended. If you change a
    shot, that shot and those that continue it are made again, up to a shot with `keep`. The storyboard may have options
    of the film: cross-fades, cards, a sound track and a loudness. They cost nothing.

    Args:
        storyboard: The shots: a local `.yaml` or `.json` file, or its `s3://` URI.
        credentials: The block with the Loova API key.
        bucket: The block of the bucket for job records, shots and films.
        prefix: The prefix in the bucket, below the block's own folder.
        dry_run: Show the price table and spend nothing.
        max_credits: The credits that this run may spend, a hard limit. None for no limit.
        keep_credits: The credits to keep in the account.
        max_wait: Seconds to wait for each shot.
        poll_seconds: The longest first pause between polls, in seconds.
        max_paid_attempts: How many times each shot may be bought in total, if Loova fails to make it.
        upload_options: boto3's `ExtraArgs` of an upload.
        concurrency_limit: The Prefect global concurrency limit. Its value is how many shots are made at the same time.
        preview: What the page of each shot shows: `moving` (256 KiB each in Prefect's database), `still`, or `none`.
        review: `suspend`: when the takes are in the bucket, the run is suspended until a person chooses in a form in
            the Prefect UI, and then goes on. A run that Prefect cannot suspend ends there: decide with
            `prefect-loova review`, and run it again. A chosen take stays, although the shot before may be another one.
        review_seconds: How long the person may take, in seconds. After that Prefect fails the run, and all takes stay.
        draft: A cheaper model. The takes are made with it, and after the review the chosen shots with their own.
        draft_duration: A shorter duration of the drafts, in seconds.
        quality_gates: What judges each take, before a person does; as in `generate_videos`.
        media_folder: The folder of the local files that the shots name. A storyboard in S3 may name local files only
            if you set it, and relative paths start there. In a local storyboard they start at its own folder.
        videos: The block to use in place of `credentials`, `bucket` and `prefix`.

    Returns:
        The outcome of each shot, and the film.

    Raises:
        InvalidRequestError: The storyboard has problems; the error lists all of them, by shot and field.
        BudgetError: The story as a whole was refused; nothing was bought.
        BatchError: Shots are missing, or they could not be joined.

    Example:
        ```python
        from pathlib import Path
        from prefect_aws import S3Bucket
        from prefect_loova import LoovaCredentials, generate_storyboard

        async def main() -> str | None:
            Path("boat.yaml").write_text("shots: [{prompt: a boat, duration: 4}, {prompt: fog, continue: true}]")
            credentials, bucket = await LoovaCredentials.aload("loova"), await S3Bucket.aload("loova")
            report = await generate_storyboard("boat.yaml", credentials, bucket, max_credits=200)
            return report.film
        ```
    """
    source = Manifest(storyboard, location_of(videos, credentials, bucket, prefix).bucket, what="storyboard")
    board = read_storyboard(await source.read(), storyboard, videos.request_defaults if videos else {})
    story = Story(board, Batch.from_parameters(locals(), source.local_files(media_folder)))
    return await (story.dry_run() if dry_run else story.make())
