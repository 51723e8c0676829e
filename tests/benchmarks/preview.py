"""What the previews of one video cost: seconds, memory over an idle process, requests to S3, and bytes of each picture.

    make bench-preview
    make bench-preview ARGS="--ffmpeg /path/to/ffmpeg"

The video is 15 s of 1080p, 24 frames a second: the simulator's film, or grain, which compresses badly, in SDR or HDR.
Each measurement is a process of its own; the memory is the peak of its resident set, and that over what it was with
everything imported. Where there is an `ffmpeg` command, the same pictures are made by it, all by one command that
decodes once, of a local file. And the share of the whole run: the same flow where they have to be made and where they
are there.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.filter import Graph

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"  # before Prefect reads it

from prefect_loova import VideoRequest, generate_video
from prefect_loova.simulator.render import render
from prefect_loova.simulator.s3 import EmbeddedS3, s3_client
from prefect_loova.store.reader import S3File
from prefect_loova.video.thumbnails import make_previews
from tests.benchmarks.environment import peak_mib, place, rss_mib, simulator
from tests.benchmarks.report import finish

RUNS = 3
SECONDS, FPS = 15, 24


def grain(*, is_hdr: bool = False) -> bytes:
    """Coloured bars that move, under noise; in 10 bits of PQ, if it is to be HDR."""
    pix_fmt = "yuv420p10le" if is_hdr else "yuv420p"
    file, graph = io.BytesIO(), Graph()
    steps = [("testsrc2", f"size=1920x1080:rate={FPS}"), ("noise", "alls=8:allf=t"), ("format", pix_fmt)]
    graph.link_nodes(*(graph.add(*step) for step in steps), graph.add("buffersink")).configure()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, pix_fmt
        if is_hdr:
            encoder = stream.codec_context
            encoder.colorspace, encoder.color_primaries, encoder.color_trc = 9, 9, 16  # BT.2020 and PQ
        for number in range(SECONDS * FPS):
            frame = graph.vpull()
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def measured(path: Path, endpoint: str, access_key: str, secret_key: str, bucket: str) -> dict[str, Any]:
    """In a process of its own: previews of a video in S3."""
    s3 = s3_client(endpoint, access_key, secret_key)
    requests: list[object] = []
    s3.meta.events.register("before-send.s3.GetObject", lambda **_: requests.append(1))
    s3.get_object(Bucket=bucket, Key=path.name, Range="bytes=0-0")["Body"].read()
    idle = rss_mib()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that importing made
    requests.clear()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        with S3File(s3, bucket, path.name) as video:
            made = make_previews(video)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds_median": round(sorted(seconds)[RUNS // 2], 2),
        "over_idle_mib": round(peak_mib() - idle, 1),
        "peak_mib": round(peak_mib(), 1),
        "get_requests": len(requests) // RUNS,
        "bytes": {name: len(getattr(made, name)) for name in ("poster", "contact_sheet", "thumbnail", "moving")},
        "moving_type": made.moving_type,
    }


def by_command(ffmpeg: str, path: Path) -> dict[str, Any]:
    """The same pictures by ffmpeg, one command that decodes once; the bounds on bytes are not kept."""
    middle = f"trim=start={SECONDS / 2},select=eq(n\\,0)"
    graph = (
        f"split=4[a][b][c][d];[a]{middle}[poster];[b]fps=9/{SECONDS},scale=320:-1,tile=3x3[sheet];"
        f"[c]{middle},scale=240:-1[thumbnail];[d]fps=27/{SECONDS},settb=AVTB,setpts=PTS/5,scale=320:-1[moving]"
    )
    one = ["-frames:v", "1", "-q:v", "4"]
    files = {"poster": "poster.jpg", "sheet": "sheet.jpg", "thumbnail": "thumbnail.jpg", "moving": "moving.webp"}
    webp = ["-r", "9", "-c:v", "libwebp_anim", "-quality", "75", "-loop", "0"]
    arguments: list[object] = ["-i", path, "-filter_complex", graph]
    for name, file in files.items():
        arguments += ["-map", f"[{name}]", *(webp if name == "moving" else one), file]
    seconds, largest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(RUNS):
            started = time.perf_counter()
            with subprocess.Popen([ffmpeg, "-v", "error", "-y", *map(str, arguments)], cwd=folder) as command:
                while command.poll() is None:
                    largest = max(largest, peak_mib(command.pid))
                    time.sleep(0.01)
            if command.returncode:
                raise SystemExit(f"ffmpeg: exit code {command.returncode}")
            seconds.append(time.perf_counter() - started)
        sizes = {name: (Path(folder) / file).stat().st_size for name, file in files.items()}
    return {"seconds_median": round(sorted(seconds)[RUNS // 2], 2), "peak_mib": round(largest, 1), "bytes": sizes}


def in_own_process(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def in_a_run(s3: EmbeddedS3) -> dict[str, Any]:
    """What making the previews adds to a run of `generate_video`: a video that is there, without them and with them.

    The generation is left out: the simulator draws on the same processors.
    """
    process, base_url = simulator("--generation-seconds", "1", "--short-side", "1080")
    with_them, without = [], []
    try:
        for take in range(RUNS):
            request = VideoRequest(prompt="share", duration=SECONDS, take=take)
            for kept in (None, with_them, without):  # bought without pictures; they are made; they are there
                started = time.perf_counter()
                preview = "moving" if kept is not None else "none"
                asyncio.run(generate_video(request, **place(base_url, s3), preview=preview))  # type: ignore[arg-type]
                if kept is not None:
                    kept.append(time.perf_counter() - started)
    finally:
        process.terminate()
    seconds = statistics.median(with_them) - statistics.median(without)
    return {"seconds": round(seconds, 2), "share_of_a_run_of_2_minutes": round(seconds / 120, 4)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ffmpeg", default=shutil.which("ffmpeg"))
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--command", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(Path(arguments.measure[0]), *arguments.measure[1:])))
        return
    if arguments.command:
        print(json.dumps(by_command(arguments.command[0], Path(arguments.command[1]))))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder) / "s3") as s3:
        client = s3_client(s3.endpoint_url, s3.access_key, s3.secret_key)
        films = {
            "simulated": render("preview", "16:9", SECONDS, 1080),
            "grain": grain(),
            "grain in HDR": grain(is_hdr=True),
        }
        for name, content in films.items():
            path = Path(folder) / f"{name.replace(' ', '-')}.mp4"
            path.write_bytes(content)
            client.put_object(Bucket=s3.bucket, Key=path.name, Body=content)
            results[name] = {
                "video_mib": round(len(content) / 1024**2, 1),
                "prefect_loova": in_own_process(
                    "--measure", path, s3.endpoint_url, s3.access_key, s3.secret_key, s3.bucket
                ),
            }
            if arguments.ffmpeg and name != "grain in HDR":
                results[name]["ffmpeg_command"] = in_own_process("--command", arguments.ffmpeg, path)
        results["in_a_run"] = in_a_run(s3)
    report(results, arguments.ffmpeg)


def report(results: dict[str, Any], ffmpeg: str | None) -> None:
    """Ours beside ffmpeg's commands, where there are any."""
    rows: list[list[str | float | int | None]] = []
    for name in ("simulated", "grain", "grain in HDR"):
        ours, theirs = results[name]["prefect_loova"], results[name].get("ffmpeg_command")
        size = f"{results[name]['video_mib']} MiB"
        rows.append(
            [f"{name}, {size}: ours", ours["seconds_median"], None, ours["over_idle_mib"], ours["peak_mib"], _kib(ours)]
        )
        if theirs:
            ratio = ours["seconds_median"] / theirs["seconds_median"]
            rows.append(
                [f"{name}: ffmpeg command", theirs["seconds_median"], ratio, None, theirs["peak_mib"], _kib(theirs)]
            )
    share = results["in_a_run"]
    rows.append(["in a run of generate_video, beside generation", share["seconds"], None, None, None, None])
    finish(
        "preview",
        f"The four pictures of {SECONDS} s of 1080p; medians of {RUNS}",
        ["", "seconds", "ours / theirs", "over idle MiB", "peak MiB", "KiB of pictures"],
        rows,
        aims={},
        figures=results,
        packages=["av"],
        tools={"ffmpeg": _first_line(ffmpeg)} if ffmpeg else None,
    )


def _kib(made: dict[str, Any]) -> int:
    return round(sum(made["bytes"].values()) / 1024)


def _first_line(ffmpeg: str) -> str:
    return subprocess.run([ffmpeg, "-version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


if __name__ == "__main__":
    main()
