"""`prefect-loova review`: list the takes that wait for a person, or decide about those of one request."""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from prefect_loova._prefect.context import Location
from prefect_loova._sync import run_sync
from prefect_loova.batches.reviewed import decide_takes
from prefect_loova.cli.options import Where
from prefect_loova.cli.output import say
from prefect_loova.errors import InvalidRequestError, redact
from prefect_loova.jobs.reviews import find_review, open_reviews
from prefect_loova.models.reviews import Choice, Review


def review(
    group: Annotated[str | None, Parameter(help="the request, by its letters in the list (default: list all)")] = None,
    decision: Annotated[str | None, Parameter(help=", ".join(get_args(Choice)))] = None,
    take: Annotated[int | None, Parameter(help="the number of the take to choose, or of the new one")] = None,
    /,
    *,
    prompt: Annotated[str, Parameter(help="retake: another prompt")] = "",
    duration: Annotated[int | None, Parameter(help="retake: another duration, in seconds")] = None,
    who: Annotated[str | None, Parameter(help="who decides (default: your user name); it is stored")] = None,
    why: Annotated[str, Parameter(help="why; it is stored")] = "",
    where: Where = Where(),  # noqa: B008
) -> None:
    """List or decide. A decision costs nothing: run the same list again to make what was chosen.

    Exit codes: 0 listed or decided; 2 invalid input; 1 any other error.
    """
    if decision not in (None, *get_args(Choice)):
        rule = f"must be one of {', '.join(get_args(Choice))}"
        raise InvalidRequestError(f"decision: {redact(repr(decision), 120)} was given: {rule}")
    with where.open() as location:
        if group is None or decision is None:
            reviews = run_sync(_list(location, group))
        else:
            by: dict[str, Any] = {"who": who or getpass.getuser(), "why": why}
            wanted: dict[str, Any] = {"take": take, "prompt": prompt, "duration": duration}
            reviews = [run_sync(_decide(location, group, decision, **by, **wanted))]
            say(f"{reviews[0].group[:12]}: {decision}. Run the same list again to go on.")
    if where.json:
        print(json.dumps({"reviews": [one.model_dump(mode="json", exclude_none=True) for one in reviews]}))
    elif decision is None:
        print("\n\n".join(map(_describe, reviews)) or "No takes wait for a review.")


async def _list(location: Location, group: str | None) -> list[Review]:
    async with location.open() as jobs:
        return await open_reviews(jobs) if group is None else [await find_review(jobs, group)]


async def _decide(location: Location, group: str, decision: Any, **options: Any) -> Review:
    async with location.open() as jobs:
        return await decide_takes(jobs, await find_review(jobs, group), decision, **options)


def _describe(review: Review) -> str:
    lines = [f"{review.group[:12]}  {redact(review.request.get('prompt', ''), 80)}  {redact(review.label)}".rstrip()]
    for take in review.takes:
        other = "" if take.prompt == review.request.get("prompt") else f"  {redact(take.prompt, 80)}"
        lines.append(f"  take {take.take}: {take.video or 'not saved'}{other}")
    decided = review.decision
    if decided is not None:
        number = "" if decided.take is None else f" take {decided.take}"
        lines.append(f"  {decided.what}{number}, decided by {redact(decided.who, 80)}")
    return "\n".join(lines)
