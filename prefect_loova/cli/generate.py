"""`prefect-loova generate`: make one video."""

from __future__ import annotations

import json
from typing import Annotated, get_args

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_loova.cli.console import console
from prefect_loova.cli.options import SECONDS, PollSeconds, Where, number
from prefect_loova.cli.output import say
from prefect_loova.cli.server import need_server
from prefect_loova.cli.simulation import to_disk
from prefect_loova.errors import InvalidRequestError
from prefect_loova.flows.video import generate_video
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.models.prices import MODELS, FunctionMode, Model, Ratio
from prefect_loova.models.request import VideoRequest
from prefect_loova.models.results import SavedVideo

REPORTED = ("state", "task_id", "video", "record", "size_bytes", "sha256", "credits_cost", "reused")


def generate(
    prompt: Annotated[str, Parameter(help="what the video shows")],
    /,
    *,
    # Texts without choices, because the request reports all errors together.
    model: Annotated[str | None, Parameter(help=f"{', '.join(get_args(Model))}, or one of the block's own")] = None,
    function_mode: Annotated[str | None, Parameter(help=" or ".join(get_args(FunctionMode)))] = None,
    ratio: Annotated[str | None, Parameter(help=f"{', '.join(get_args(Ratio))} (default: 16:9)")] = None,
    duration: Annotated[str | None, Parameter(help="seconds of video, 4 to 15 (default: 5)")] = None,
    image: Annotated[list[str] | None, Parameter(help="an image: URL, s3:// URI or file; may be repeated")] = None,
    video: Annotated[list[str] | None, Parameter(help="a reference video, likewise")] = None,
    audio: Annotated[list[str] | None, Parameter(help="a reference audio, likewise")] = None,
    take: Annotated[str | None, Parameter(help="a new number buys another video")] = None,
    max_wait: Annotated[float, SECONDS, Parameter(help="longest wait in seconds (4 hours)")] = MAX_WAIT,
    poll_seconds: PollSeconds = None,
    where: Where = Where(),  # noqa: B008
) -> None:
    """Make the video, and print its location.

    Exit codes: 0 saved; 2 invalid input; 3 in doubt; 4 rejected by Loova, or the task failed; 5 still running when the
    wait ended (run it again to continue); 6 over the budget of the day; 1 any other error.
    """
    request = _request(
        prompt=prompt,
        model=model,
        function_mode=function_mode,
        ratio=ratio,
        duration=None if duration is None else number(duration),
        image_urls=image,
        video_urls=video,
        audio_urls=audio,
        take=None if take is None else number(take),
    )
    if where.credentials is None:
        request.check_model(MODELS)  # only a block has models of its own
    with console(), where.open() as location:
        need_server()
        saved = generate_video(
            request,
            credentials=location.credentials,
            bucket=location.bucket,
            prefix=location.prefix,
            max_wait=max_wait,
            poll_seconds=where.first_pause(poll_seconds),
        )
        path = None
        if where.simulate:
            name = request.name.replace(" ", "-").replace(":", "x")
            path = to_disk(saved.video, location.bucket, where.state / "videos" / f"{name}-{saved.key[:8]}.mp4")
    _print(saved, None if path is None else str(path), as_json=where.json)


def _request(**given: object) -> VideoRequest:
    try:
        return VideoRequest.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None


def _print(saved: SavedVideo, path: str | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: getattr(saved, name) for name in REPORTED}))
        if path is not None:
            say(path)
        return
    cost = "cost not named" if saved.credits_cost is None else f"{saved.credits_cost:g} credits"
    paid = "paid by an earlier run" if saved.reused else "paid now"
    print(f"{saved.video}\n{saved.size_bytes:,} bytes, {cost}, {paid}, Loova task {saved.task_id}")
    if path is not None:
        print(f"Simulated: the video is a test picture. Open it on this machine:\n{path}")
