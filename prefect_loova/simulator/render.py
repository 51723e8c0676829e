"""Renders the simulator's videos: a slow aurora with three discs. Each task has its own colours.

A reference picture is shown alone for a moment; then the aurora replaces it from the top, row by row.

The same arguments give the same bytes, so a video can be downloaded in parts, or again after a restart. Rendering takes
about 0.1 s of CPU for each second of a 480-pixel video.
"""

from __future__ import annotations

import colorsys
import io
import math
import random
import threading
from bisect import bisect_right
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from prefect_loova.simulator.stills import Still

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

FPS = 24
HELD = 6
"""How many frames show a reference picture alone."""
WIPE = 18
"""How many frames the aurora takes to replace it, if its part of the video is long enough."""
_GRID = 27  # The aurora is drawn with one point for about 27 pixels, and scaled up, which makes it smooth.
_lock = threading.Lock()


def size_of(ratio: str, short_side: int) -> tuple[int, int]:
    """Return width and height in pixels: even, in exactly this ratio, the shorter one close to `short_side`."""
    wide, high = (int(part) for part in ratio.split(":"))
    wide, high = wide // math.gcd(wide, high), high // math.gcd(wide, high)
    scale = max(2, round(short_side / min(wide, high) / 2) * 2)
    return wide * scale, high * scale


def render(
    seed: str,
    ratio: str,
    duration: int,
    short_side: int,
    opening: tuple[Still, ...] = (),
    closing: Still | None = None,
) -> bytes:
    """Render an mp4 (H.264, 24 frames a second).

    Args:
        seed: Decides the colours and the paths of the aurora and the discs.
        ratio: Width to height, such as `16:9`.
        duration: The length, in seconds.
        short_side: The shorter side, in pixels.
        opening: Pictures of the video's size. Each opens a part of the video; all parts are equally long.
        closing: The picture that ends the video.
    """
    with _lock:  # Two at a time are not faster, and the second may find its video in the cache.
        return _render(seed, ratio, duration, short_side, opening, closing)


@lru_cache(maxsize=32)
def _render(
    seed: str, ratio: str, duration: int, short_side: int, opening: tuple[Still, ...], closing: Still | None
) -> bytes:
    import av  # noqa: PLC0415

    width, height = size_of(ratio, short_side)
    frames = duration * FPS
    scene = _Scene(seed, width, height, frames)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # A picture may be passed from video to video, and must not lose much quality each time.
        crf = "20" if opening or closing else "24"
        # One thread: the bytes must not depend on the machine. Stitchable: the parameter sets do not depend on the
        # quality, so that videos can be joined by copying.
        options = {"preset": "superfast", "crf": crf, "threads": "1", "bf": "0", "x264-params": "stitchable=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        small = av.VideoFrame(scene.columns, scene.rows, "yuv444p")
        for number in range(frames):
            for plane, pixels in zip(small.planes, scene.aurora(number), strict=True):
                gap = bytes(plane.line_size - scene.columns)
                lines = range(0, len(pixels), scene.columns)
                plane.update(b"".join(pixels[start : start + scene.columns] + gap for start in lines))
            frame = small.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            for index, plane in enumerate(frame.planes):
                scene.discs(plane, index, number)
            _draw_reference(frame, number, frames, opening, closing)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _draw_reference(
    frame: VideoFrame, number: int, frames: int, opening: tuple[Still, ...], closing: Still | None
) -> None:
    """Draw the reference picture of a frame over it, without the top rows that the aurora has replaced."""
    left = frames - 1 - number
    if closing and left < HELD + WIPE:
        _draw(frame, closing, max(0, left - HELD + 1), WIPE)
    elif opening:
        starts = [index * frames // len(opening) for index in range(len(opening) + 1)]
        index = bisect_right(starts, number) - 1
        passed, wipe = number - starts[index], min(WIPE, starts[index + 1] - starts[index] - HELD)
        if passed < HELD + wipe:
            _draw(frame, opening[index], max(0, passed - HELD + 1), wipe)


def _draw(frame: VideoFrame, still: Still, step: int, steps: int) -> None:
    for plane, pixels in zip(frame.planes, still.planes, strict=True):
        target, line, width = memoryview(plane), plane.line_size, plane.width
        for row in range(plane.height * step // steps, plane.height):
            target[row * line : row * line + width] = pixels[row * width : (row + 1) * width]


class _Scene:
    """The aurora and the discs. A frame depends only on the seed and its number."""

    def __init__(self, seed: str, width: int, height: int, frames: int) -> None:
        draw = random.Random(seed)
        self._frames = frames
        self.columns, self.rows = max(8, width // _GRID), max(8, height // _GRID)
        hue = draw.random()
        stops = [
            _yuv(hue, 0.75, 0.16),
            _yuv(hue + 0.08, 0.70, 0.50),
            _yuv(hue + draw.uniform(0.15, 0.30), 0.60, 0.80),
            _yuv(hue + draw.uniform(0.40, 0.60), 0.45, 0.95),
        ]
        self._colours = [
            bytes(_blend([stop[plane] for stop in stops], step / 255) for step in range(256)) for plane in range(3)
        ]
        self._waves = [
            (draw.uniform(0.6, 1.6), draw.choice((-1, 1)) * draw.uniform(0.15, 0.45), draw.random()) for _ in range(3)
        ]
        self._discs = [
            (
                _yuv(hue + turn, 0.35, 0.97),
                draw.uniform(0.06, 0.13),
                [(draw.choice((1, 2)), draw.random()) for _ in range(2)],
            )
            for turn in (0.5, 0.62, 0.38)
        ]

    def aurora(self, number: int) -> list[bytes]:
        """Return the three planes of a small frame."""
        time = number / FPS
        across, down, both = (
            [
                42.5 * (1 + math.sin(math.tau * (waves * position / max(count, 1) + speed * time + phase)))
                for position in range(count)
            ]
            for (waves, speed, phase), count in zip(
                self._waves, (self.columns, self.rows, self.columns + self.rows), strict=True
            )
        )
        height = bytes(
            int(across[x] + down[y] + both[x + y]) for y, x in product(range(self.rows), range(self.columns))
        )
        return [height.translate(colours) for colours in self._colours]

    def discs(self, plane: VideoPlane, index: int, number: int) -> None:
        """Draw the discs into a plane of a frame. Each disc follows a closed path once in the video."""
        pixels, line, width, height = memoryview(plane), plane.line_size, plane.width, plane.height
        for colour, size, (right, up) in self._discs:
            radius = size * min(width, height)
            turns = [math.sin(math.tau * (speed * number / self._frames + phase)) for speed, phase in (right, up)]
            x = width / 2 + turns[0] * (width / 2 - radius) * 0.9
            y = height / 2 + turns[1] * (height / 2 - radius) * 0.9
            fill = bytes([colour[index]]) * width
            for row in range(max(0, math.ceil(y - radius)), min(height, math.floor(y + radius) + 1)):
                half = math.sqrt(max(0.0, radius * radius - (row - y) ** 2))
                start, stop = max(0, round(x - half)), min(width, round(x + half))
                if start < stop:
                    pixels[row * line + start : row * line + stop] = fill[: stop - start]


def _yuv(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return round(16 + 219 * luma), round(128 + 126.4 * (blue - luma)), round(128 + 159.7 * (red - luma))


def _blend(stops: list[int], where: float) -> int:
    position = where * (len(stops) - 1)
    before = min(int(position), len(stops) - 2)
    return round(stops[before] + (stops[before + 1] - stops[before]) * (position - before))
