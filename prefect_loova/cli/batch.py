"""`prefect-loova batch`: make the videos of a list."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_loova._prefect.context import Location
from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._sync import run_sync
from prefect_loova.batches.manifest import read_manifest
from prefect_loova.batches.templates import PromptTemplate
from prefect_loova.cli.console import console
from prefect_loova.cli.options import Draft, DryRun, KeepCredits, MaxCredits, MediaFolder, PollSeconds, Review, Where
from prefect_loova.cli.output import say
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import to_disk
from prefect_loova.errors import BatchError
from prefect_loova.flows.batch import generate_from_manifest
from prefect_loova.models.reports import BatchReport


def batch(
    manifest: Annotated[str, Parameter(name="FILE", help="a .csv, .jsonl or .yaml file, or its s3:// URI")],
    /,
    *,
    dry_run: DryRun = False,
    max_credits: MaxCredits = None,
    keep_credits: KeepCredits = 0.0,
    stop_at_budget: Annotated[bool, Parameter(help="over budget: make as many as fit, not none")] = False,
    no_wait: Annotated[bool, Parameter(help="queue the videos; `prefect-loova collect` does the rest")] = False,
    media_folder: MediaFolder = None,
    review: Review = False,
    draft: Draft = None,
    prompt_template: Annotated[str, Parameter(help="a prompt with columns in braces, '{product} at {place}'")] = "",
    poll_seconds: PollSeconds = None,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Make the videos, and print the report.

    Exit codes: 0 all videos are in the bucket; 2 invalid input; 4 some videos are missing, and the report says why; 6
    over budget, and nothing was submitted; 1 any other error.
    """
    with console(shows_steps=False), where.open() as location:
        # Report errors in the list before a run, and perhaps a Prefect server, starts. The flow reads the list again.
        template = PromptTemplate.of(prompt_template, None)
        read_manifest(run_sync(Manifest(manifest, location.bucket).read()), manifest, template=template)
        need_server()
        report: BatchReport | None = None
        try:
            report = generate_from_manifest(
                manifest,
                credentials=location.credentials,
                bucket=location.bucket,
                prefix=location.prefix,
                dry_run=dry_run,
                max_credits=max_credits,
                keep_credits=keep_credits,
                over_budget="stop" if stop_at_budget else "refuse",
                wait=not no_wait,
                media_folder=media_folder,
                prompt_template=prompt_template,
                review="suspend" if review else "none",
                draft=draft,
                poll_seconds=where.first_pause(poll_seconds),
            )
        except BatchError as error:
            report = error.report
            raise
        finally:
            if where.simulate and report is not None:
                _to_disk(where, location, report)
    line = f"{report.left_to_buy}; a dry run, nothing was spent" if dry_run else report.summary
    print(report.model_dump_json() if where.json else line)


def _to_disk(where: Where, location: Location, report: BatchReport) -> None:
    """Put the videos of a simulated batch on the disk, where a person can open them."""
    folder = where.state / "videos"
    saved = [one for one in report.videos if one.is_in_bucket and one.video]
    for one in saved:
        name = one.name.replace(" ", "-").replace(":", "x")
        to_disk(str(one.video), location.bucket, folder / f"{name}-{one.key[:8]}.mp4")
    if saved:
        say(f"Simulated: the videos are test pictures. Open them on this machine: {folder.resolve()}")
