"""Make one video on Loova and save it in a bucket. Use it as a flow or as a command.

A deployment of `generate_video` has a form in the Prefect UI. As a command:

    python flows/generate_video.py "A futuristic city at sunset" --bucket my-bucket
    python flows/generate_video.py "A futuristic city at sunset" --simulate

If you run the same request again, you do not pay again.

Exit codes: 0 saved; 2 invalid input; 3 in doubt; 4 rejected by Loova, or the task failed; 5 still running when the wait
ended (run it again to continue); 6 over the budget of the day; 1 any other error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import get_args

from pydantic import ValidationError

from prefect_loova import SavedVideo, VideoRequest, generate_video
from prefect_loova.command import Parser, Place, number, place, run, say, seconds, simulated, to_disk
from prefect_loova.errors import InvalidRequestError
from prefect_loova.jobs.context import MAX_WAIT
from prefect_loova.models.prices import Model
from prefect_loova.models.request import FunctionMode, Ratio

REPORTED = ("state", "task_id", "video", "record", "size_bytes", "sha256", "credits_cost", "reused")


def parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog="generate_video.py", description="Make one video on Loova and save it in a bucket.")
    parser.add_argument("prompt", help="what the video shows")
    # Without `choices`, because the request reports all errors together.
    parser.add_argument("--model", metavar="M", help=f"{' or '.join(get_args(Model))} (default: the first)")
    parser.add_argument(
        "--function-mode", metavar="F", help=f"{' or '.join(get_args(FunctionMode))} (default: the first)"
    )
    parser.add_argument("--ratio", metavar="R", help=f"{', '.join(get_args(Ratio))} (default: 16:9)")
    parser.add_argument("--duration", metavar="N", type=number, help="seconds of video, 4 to 15 (default: 5)")
    parser.add_argument(
        "--image", metavar="M", action="append", default=[], help="an image: a URL, s3:// URI or file; may be repeated"
    )
    parser.add_argument("--video", metavar="M", action="append", default=[], help="a reference video, likewise")
    parser.add_argument("--audio", metavar="M", action="append", default=[], help="a reference audio, likewise")
    parser.add_argument("--take", metavar="N", type=number, help="a new number buys another video")
    parser.add_argument(
        "--max-wait",
        metavar="SECONDS",
        type=seconds,
        default=MAX_WAIT,
        help="longest wait, in seconds (default: 4 hours)",
    )
    parser.add_argument("--poll-seconds", metavar="S", type=seconds, help="the first pause between polls (default: 20)")
    parser.add_place()
    return parser


def request_of(args: argparse.Namespace) -> VideoRequest:
    """Return the request that the arguments describe."""
    given = {
        "prompt": args.prompt,
        "model": args.model,
        "function_mode": args.function_mode,
        "ratio": args.ratio,
        "duration": args.duration,
        "image_urls": args.image,
        "video_urls": args.video,
        "audio_urls": args.audio,
        "take": args.take,
    }
    try:
        return VideoRequest(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None


async def make(args: argparse.Namespace, request: VideoRequest, where: Place) -> SavedVideo:
    """Run the flow with the arguments."""
    return await generate_video(
        request,
        credentials=where.credentials,
        bucket=where.bucket,
        prefix=args.prefix,
        max_wait=args.max_wait,
        poll_seconds=args.poll_seconds or (1.0 if args.simulate else 20.0),
    )


def main(args: argparse.Namespace) -> None:
    """Make the video, and print its location."""
    request = request_of(args)
    path = None
    if args.simulate:
        with simulated(args.state) as where:
            saved = asyncio.run(make(args, request, where))
            name = request.name.replace(" ", "-").replace(":", "x")
            path = to_disk(saved.video, where.bucket, args.state / "videos" / f"{name}-{saved.key[:8]}.mp4")
    else:
        saved = asyncio.run(make(args, request, asyncio.run(place(args))))
    if args.json:
        print(json.dumps({name: getattr(saved, name) for name in REPORTED}))
        if path is not None:
            say(str(path))
        return
    cost = "cost not named" if saved.credits_cost is None else f"{saved.credits_cost:g} credits"
    paid = "paid by an earlier run" if saved.reused else "paid now"
    print(f"{saved.video}\n{saved.size_bytes:,} bytes, {cost}, {paid}, Loova task {saved.task_id}")
    if path is not None:
        print(f"Simulated: the video is a test picture. Open it on this machine:\n{path}")


if __name__ == "__main__":
    sys.exit(run(main, parser(), sys.argv[1:]))
