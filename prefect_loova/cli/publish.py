"""`prefect-loova publish`: copy chosen videos to names of your own, with a manifest and a gallery page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_loova._prefect.context import Location
from prefect_loova.batches.publish import MANIFEST_CSV, MANIFEST_JSON, PAGE
from prefect_loova.batches.publish_names import NAME, check_template
from prefect_loova.cli.console import console
from prefect_loova.cli.options import LINK_SECONDS, Where
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import to_disk
from prefect_loova.flows.publish import MAX_LINK_SECONDS, LinkKind, publish_videos
from prefect_loova.models.published import PublishedVideos


def publish(
    *keys: Annotated[str, Parameter(name="KEY", help="requests' keys, or unique beginnings of them")],
    report: Annotated[str, Parameter(help="a batch's report (.report.csv): its saved videos")] = "",
    to: Annotated[str, Parameter(help="s3://BUCKET/PREFIX/ (default: _published/ below the prefix)")] = "",
    name: Annotated[str, Parameter(help=f"template of the names ({NAME})")] = NAME,
    links: Annotated[LinkKind, Parameter(show_choices=False, help="of the page: relative or presigned")] = "relative",
    link_seconds: Annotated[
        int, LINK_SECONDS, Parameter(help="of presigned links (default: 7 days)")
    ] = MAX_LINK_SECONDS,
    overwrite: Annotated[bool, Parameter(help="replace objects with other content")] = False,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Copy the videos within S3, and print the gallery page.

    Exit codes: 0 published; 2 invalid input, and nothing was copied; 1 any other error.
    """
    check_template(name)
    path: Path | None = None
    with console(shows_steps=False), where.open() as location:
        need_server()
        published = publish_videos(
            keys,
            to,
            name,
            location.credentials,
            location.bucket,
            prefix=location.prefix,
            report=report,
            links=links,
            link_seconds=link_seconds,
            overwrite=overwrite,
        )
        if where.simulate:
            path = _to_disk(location, published, where.state / "published")
    print(published.model_dump_json() if where.json else published.summary)
    if path is not None and not where.json:
        print(f"Simulated: the videos are test pictures. Open the page on this machine:\n{path}")


def _to_disk(location: Location, published: PublishedVideos, folder: Path) -> Path:
    """Put a simulated collection on the disk, and return the path of its page."""
    names = [name for video in published.videos for name in (video.name, video.poster) if name]
    for name in [*names, MANIFEST_CSV, MANIFEST_JSON]:
        to_disk(f"{published.to}{name}", location.bucket, folder / name)
    return to_disk(published.page, location.bucket, folder / PAGE)
