"""`prefect-loova story`: make the shots of a story, and join them into one film."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_loova._prefect.manifest_files import Manifest
from prefect_loova._sync import run_sync
from prefect_loova.batches.storyboard import read_storyboard
from prefect_loova.cli.console import console
from prefect_loova.cli.options import Draft, DryRun, KeepCredits, MaxCredits, MediaFolder, PollSeconds, Review, Where
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import to_disk
from prefect_loova.flows.storyboard import generate_storyboard


def story(
    storyboard: Annotated[str, Parameter(name="FILE", help="a .yaml or .json file, or its s3:// URI")],
    /,
    *,
    dry_run: DryRun = False,
    max_credits: MaxCredits = None,
    keep_credits: KeepCredits = 0.0,
    media_folder: MediaFolder = None,
    review: Review = False,
    draft: Draft = None,
    poll_seconds: PollSeconds = None,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Make the film, and print its location. If you run it again, it continues, and pays for no shot twice.

    Exit codes: 0 the film is in the bucket; 2 invalid input; 4 shots are missing, and the message says why; 6 over
    budget, and nothing was submitted; 1 any other error.
    """
    path: Path | None = None
    with console(shows_steps=False), where.open() as location:
        # Report errors in the storyboard before a run, and perhaps a Prefect server, starts.
        read_storyboard(run_sync(Manifest(storyboard, location.bucket, what="storyboard").read()), storyboard)
        need_server()
        report = generate_storyboard(
            storyboard,
            credentials=location.credentials,
            bucket=location.bucket,
            prefix=location.prefix,
            dry_run=dry_run,
            max_credits=max_credits,
            keep_credits=keep_credits,
            poll_seconds=where.first_pause(poll_seconds),
            media_folder=media_folder,
            review="suspend" if review else "none",
            draft=draft,
        )
        if where.simulate and report.film and report.sha256:
            name = f"{Path(storyboard).stem}-{report.sha256[:8]}.mp4"
            path = to_disk(report.film, location.bucket, where.state / "videos" / name)
    line = f"{report.shots.left_to_buy}; a dry run, nothing was spent" if dry_run else report.summary
    print(report.model_dump_json() if where.json else line)
    if path is not None and not where.json:
        print(f"Simulated: the film is a test picture. Open it on this machine:\n{path}")
