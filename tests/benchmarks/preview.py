"""What the previews of one video cost: seconds, memory over an idle process, requests to S3, and bytes of each picture.

    make bench-preview
    make bench-preview ARGS="--ffmpeg /path/to/ffmpeg"

The video is 15 s of 1080p, 24 frames a second: the simulator's film, in which each frame depends on the one before, or
grain, which compresses badly: with the B-frames of x264's defaults, or of keyframes only, in SDR or HDR. Each
measurement is a process of its own; the memory is the peak of its resident set, and that over what it was with
everything imported.

The alternatives: the same pictures where every frame is decoded, as in the first versions, in turns with ours in one
process, with the structural similarity (SSIM) of the pictures; and the `ffmpeg` command, if there is one, which decodes
once, of a local file. Then several videos, one after the other and at once. And the share of the whole run: the same
flow where they have to be made and where they are there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
from av.filter import Graph
from av.video.frame import PictureType
from PIL import ImageSequence

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"  # before Prefect reads it

from prefect_loova import VideoRequest, generate_video
from prefect_loova.simulator.render import render
from prefect_loova.simulator.s3 import EmbeddedS3, s3_client
from prefect_loova.store.reader import S3File
from prefect_loova.video.decoder import TimeLimit, VideoFile, open_video
from prefect_loova.video.thumbnails import MOVING_BYTES, Previews, _make, make_previews
from tests.benchmarks.environment import peak_mib, place, rss_mib, simulator
from tests.benchmarks.report import finish
from tests.support.films import opened
from tests.support.odd_media import frame_of

RUNS = 3
TURNS = 5
PICTURES = ("poster", "contact_sheet", "thumbnail", "moving")
SECONDS, FPS = 15, 24


def grain(*, b_frames: bool, is_hdr: bool = False) -> bytes:
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
            # The source marks each frame as a keyframe, and x264 obeys.
            frame.pict_type = PictureType.NONE if b_frames else PictureType.I
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def decoding_every_frame(video: VideoFile) -> Previews:
    """The same pictures by the way of the first versions, which the package takes only if the shorter one fails."""
    with open_video(video, TimeLimit(60)) as reader:
        return _make(reader, MOVING_BYTES, decode_all=True)


WAYS = {"ours": make_previews, "every frame": decoding_every_frame}


def compared(path: Path) -> dict[str, Any]:
    """In a process of its own: our way and that of the first versions, in turns, of a video in memory."""
    content = path.read_bytes()
    costs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    made: dict[str, Previews] = {way: make(io.BytesIO(content)) for way, make in WAYS.items()}  # warms up
    for _ in range(TURNS):
        for way, make in WAYS.items():
            started, cpu = time.perf_counter(), time.process_time()
            make(io.BytesIO(content))
            costs[way].append((time.perf_counter() - started, time.process_time() - cpu))
    pairs = [[getattr(one, name) for one in made.values()] for name in PICTURES]
    return {
        "ssim": round(min(ssim(one, other) for one, other in pairs), 4),
        "same_bytes": all(one == other for one, other in pairs),
    } | {
        way: {
            "seconds_median": round(statistics.median(seconds for seconds, _ in taken), 3),
            "cpu_seconds_median": round(statistics.median(cpu for _, cpu in taken), 3),
        }
        for way, taken in costs.items()
    }


def ssim(one: bytes, other: bytes) -> float:
    """The structural similarity of two pictures, by FFmpeg: of the least similar frames, if they move."""
    graph, least = Graph(), 1.0
    frames = [_frames(content) for content in (one, other)]
    first = frames[0][0]
    sources = [
        graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, FPS))
        for _ in frames
    ]
    measure, sink = graph.add("ssim"), graph.add("buffersink")
    for number, source in enumerate(sources):
        source.link_to(measure, 0, number)
    measure.link_to(sink)
    graph.configure()
    for number, pair in enumerate(zip(*frames, strict=True)):
        for source, frame in zip(sources, pair, strict=True):
            frame.pts = number
            source.push(frame)
        least = min(least, float(graph.vpull().metadata["lavfi.ssim.All"]))
    return least


def _frames(picture: bytes) -> list[av.VideoFrame]:
    images = ImageSequence.Iterator(opened(picture))
    return [frame_of(image.convert("RGB")).reformat(format="yuv444p") for image in images]


def at_once(paths: list[Path]) -> dict[str, Any]:
    """In a process of its own: the pictures of several videos, one after the other, as a batch makes them, and by
    processes that are already started."""
    contents = [path.read_bytes() for path in paths]
    count = min(3, os.cpu_count() or 1)
    pools: dict[str, Callable[[], Executor]] = {
        "one by one": lambda: ThreadPoolExecutor(1),
        f"{count} at once": lambda: ThreadPoolExecutor(count),
        f"{count} processes": lambda: ProcessPoolExecutor(count, get_context("spawn")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(RUNS):
        for name, pool in pools.items():
            with pool() as decoders:
                list(decoders.map(time.sleep, [0.5] * count))  # until all are started
                started = time.perf_counter()
                list(decoders.map(_pictures, contents))
                seconds[name].append(time.perf_counter() - started)
    return {"videos": len(paths), "seconds": {name: round(statistics.median(one), 2) for name, one in seconds.items()}}


def _pictures(video: bytes) -> int:
    return len(make_previews(io.BytesIO(video)).moving)


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
        "bytes": {name: len(getattr(made, name)) for name in PICTURES},
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
                generate_video(request, **place(base_url, s3), preview=preview)  # type: ignore[arg-type]
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
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--at-once", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--command", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(Path(arguments.measure[0]), *arguments.measure[1:])))
    elif arguments.compare:
        print(json.dumps(compared(arguments.compare)))
    elif arguments.at_once:
        print(json.dumps(at_once(arguments.at_once)))
    elif arguments.command:
        print(json.dumps(by_command(arguments.command[0], Path(arguments.command[1]))))
    else:
        measure_all(arguments.ffmpeg)


def measure_all(ffmpeg: str | None) -> None:
    results: dict[str, Any] = {"films": {}}
    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder) / "s3") as s3:
        client = s3_client(s3.endpoint_url, s3.access_key, s3.secret_key)
        films = {
            "simulated": render("preview", "16:9", SECONDS, 1080),
            "grain, B-frames": grain(b_frames=True),
            "grain, keyframes": grain(b_frames=False),
            "grain in HDR, keyframes": grain(b_frames=False, is_hdr=True),
        }
        paths: list[Path] = []
        for name, content in films.items():
            path = Path(folder) / f"{len(paths)}.mp4"
            paths.append(path)
            path.write_bytes(content)
            client.put_object(Bucket=s3.bucket, Key=path.name, Body=content)
            results["films"][name] = {
                "video_mib": round(len(content) / 1024**2, 1),
                "prefect_loova": in_own_process(
                    "--measure", path, s3.endpoint_url, s3.access_key, s3.secret_key, s3.bucket
                ),
                "compared": in_own_process("--compare", path),
            }
            if ffmpeg and "HDR" not in name:
                results["films"][name]["ffmpeg_command"] = in_own_process("--command", ffmpeg, path)
        results["at_once"] = in_own_process("--at-once", *paths[:2], *paths[:2])
        results["in_a_run"] = in_a_run(s3)
    report(results, ffmpeg)


def report(results: dict[str, Any], ffmpeg: str | None) -> None:
    """Ours beside a full decode, and beside ffmpeg's command, where there is one."""
    rows: list[list[str | float | int | None]] = []
    aims: dict[str, bool] = {}
    for name, film in results["films"].items():
        from_s3, both, theirs = film["prefect_loova"], film["compared"], film.get("ffmpeg_command")
        ours, whole = both["ours"], both["every frame"]
        seconds, cpu = (ours[what] / whole[what] for what in ("seconds_median", "cpu_seconds_median"))
        memory = [from_s3["over_idle_mib"], from_s3["peak_mib"], _kib(from_s3)]
        rows += [
            [
                f"{name}, {film['video_mib']} MiB: ours, from S3",
                from_s3["seconds_median"],
                None,
                None,
                None,
                None,
                *memory,
            ],
            ["- ours, from memory", *ours.values(), None, None, both["ssim"], None, None, None],
            ["- every frame decoded", *whole.values(), seconds, cpu, None, None, None, None],
        ]
        if theirs:
            ratio = from_s3["seconds_median"] / theirs["seconds_median"]
            sizes = [None, theirs["peak_mib"], _kib(theirs)]
            rows.append(["- ffmpeg command", theirs["seconds_median"], None, ratio, None, None, *sizes])
        aims[f"{name}: at most half of the seconds of decoding every frame"] = seconds <= 0.5
        aims[f"{name}: at most half of the processor time of decoding every frame"] = cpu <= 0.5
        aims[f"{name}: the pictures have an SSIM of at least 0.98 to those"] = both["ssim"] >= 0.98
    batch, share = results["at_once"], results["in_a_run"]
    rows += [[f"{batch['videos']} videos, {name}", taken, *[None] * 7] for name, taken in batch["seconds"].items()]
    rows.append(["in a run of generate_video, beside generation", share["seconds"], *[None] * 7])
    finish(
        "preview",
        f"The four pictures of {SECONDS} s of 1080p; medians of {RUNS}, from memory of {TURNS}",
        ["", "seconds", "CPU s", "ours / theirs", "CPU", "SSIM", "over idle MiB", "peak MiB", "KiB of pictures"],
        rows,
        aims=aims,
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
