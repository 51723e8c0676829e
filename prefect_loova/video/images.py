"""Pictures out of decoded frames: turned, scaled, and encoded as JPEG, PNG, animated WebP or GIF, by PyAV.

Every function is pure and holds one small graph or encoder at a time. A *picture* here is a frame in yuv420p with
BT.601 colours, as JPEG and WebP both have them, upright and with square pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import count
from typing import Any

from av import CodecContext, VideoFrame, VideoStream
from av.container import OutputContainer
from av.container import open as av_open
from av.error import BlockingIOError, EOFError
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation

Steps = Sequence[tuple[str, str]]
"""Filters and their arguments, in order."""

_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_FULL_RANGE = 2
# Without these the result depends on the processor, and colours are off by several steps.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def rotation(frame: VideoFrame) -> Steps:
    """What brings a decoded frame upright, by the display matrix of its container. Only right angles count."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ()
    right_x, right_y, _, down_x, down_y, *_ = struct.unpack_from("9i", bytes(matrix))
    if abs(right_y) + abs(down_x) > abs(right_x) + abs(down_y):
        direction = {(True, False): "clock", (False, True): "cclock", (True, True): "cclock_flip"}
        return [("transpose", f"dir={direction.get((right_y > 0, down_x > 0), 'clock_flip')}")]
    return [(flip, "") for flip, negative in (("hflip", right_x < 0), ("vflip", down_y < 0)) if negative]


def swaps_axes(steps: Steps) -> bool:
    """Whether these turns swap width and height."""
    return any(name == "transpose" for name, _ in steps)


def fitted(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height that fit a square of `long_side` pixels, never larger than they were."""
    scale = min(Fraction(1), Fraction(long_side, max(width, height)))
    return max(2, round(width * scale)), max(2, round(height * scale))


def scaled(frame: VideoFrame, size: tuple[int, int], steps: Steps = ()) -> VideoFrame:
    """A picture of exactly this size.

    Args:
        frame: A decoded frame, or a picture.
        size: Width and height in pixels, after the turns.
        steps: The turns.
    """
    width, height = reversed(size) if swaps_axes(steps) else size
    matrix, colour_range = colours(frame)
    # No graph for whole frames: graphs are reference cycles, and keep their memory until the garbage is collected.
    small = frame.reformat(
        width,
        height,
        "yuv420p",
        src_colorspace=matrix,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=colour_range,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.AREA,
    )
    return _filtered([small], steps)[0] if steps else small


class Canvas:
    """Brings the frames of a film to one size: upright, and fitted between black bars.

    Args:
        size: Width and height of what is made, in pixels, both even.
        shown: Width and height of the film as a player shows it.
        steps: Its turns.
    """

    def __init__(self, size: tuple[int, int], shown: tuple[int, int], steps: Steps) -> None:
        width, height = size
        scale = min(Fraction(width, shown[0]), Fraction(height, shown[1]))
        # Bars of less than two pixels are none: sizes are rounded.
        inner = [
            whole if whole - part * scale < 2 else max(2, round(part * scale / 2) * 2)
            for whole, part in zip(size, shown, strict=True)
        ]
        self._lying = swaps_axes(steps)
        self._inner = inner[0], inner[1]
        bars = [("pad", f"{width}:{height}:{(width - inner[0]) // 4 * 2}:{(height - inner[1]) // 4 * 2}:black")]
        self._steps = [*steps, *(bars if self._inner != size else [])]
        self._matrix = canvas_matrix(size)
        self._graph: Graph | None = None
        self._drawn = 0

    def drawn(self, frame: VideoFrame) -> VideoFrame:
        """A decoded frame in yuv420p, in the limited range of `canvas_matrix`; itself, where it is that already."""
        width, height = reversed(self._inner) if self._lying else self._inner
        matrix, colour_range = colours(frame)
        fitted_frame = frame.reformat(
            width,
            height,
            "yuv420p",
            src_colorspace=matrix,
            dst_colorspace=self._matrix,
            src_color_range=colour_range,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        )
        if not self._steps:
            return fitted_frame
        if self._graph is None:
            self._graph = _chain(fitted_frame, self._steps)
        # It may be the decoded frame itself, which keeps its time.
        pts, fitted_frame.pts = fitted_frame.pts, self._drawn
        self._drawn += 1
        self._graph.push(fitted_frame)
        fitted_frame.pts = pts
        made = self._graph.pull()
        assert isinstance(made, VideoFrame)  # noqa: S101
        return made


def canvas_matrix(size: tuple[int, int]) -> Colorspace:
    """The matrix of what a `Canvas` of this size makes, and what a player takes for it without a tag."""
    return Colorspace.ITU709 if min(size) >= 720 else Colorspace.ITU601


def colours(frame: VideoFrame) -> tuple[Colorspace, ColorRange]:
    """The matrix and the range that a player takes for a decoded frame."""
    # Without a tag, HD is BT.709 and the rest is BT.601: players agree on that.
    untagged = Colorspace.ITU709 if min(frame.width, frame.height) >= 720 else Colorspace.ITU601
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return _MATRICES.get(int(frame.colorspace), untagged), ColorRange.JPEG if full else ColorRange.MPEG


def png(frame: VideoFrame, size: tuple[int, int], steps: Steps) -> bytes:
    """A PNG of a decoded frame, in RGB of 8 bits: nothing is lost but what RGB has no place for.

    Args:
        frame: A decoded frame.
        size: Width and height in pixels, after the turns.
        steps: The turns.
    """
    width, height = reversed(size) if swaps_axes(steps) else size
    matrix, colour_range = colours(frame)
    rgb = frame.reformat(
        width,
        height,
        "rgb24",
        src_colorspace=matrix,
        src_color_range=colour_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
        threads=1,
    )
    upright = _filtered([rgb], steps)[0] if steps else rgb
    encoder = CodecContext.create("png", "w")
    assert isinstance(encoder, VideoCodecContext)  # noqa: S101
    encoder.width, encoder.height, encoder.pix_fmt = upright.width, upright.height, "rgb24"
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.options = {"pred": "mixed", "flags": "+bitexact"}
    upright.pts, upright.time_base = 0, Fraction(1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(upright), *encoder.encode(None)])


def sheet(pictures: Sequence[VideoFrame]) -> VideoFrame:
    """One picture with all of these, which are of one size, in rows of as many as there are rows, or one more."""
    columns = next(side for side in count(1) if side * side >= len(pictures))
    rows = -(-len(pictures) // columns)
    return _filtered(pictures, [("tile", f"layout={columns}x{rows}:padding=0:color=black")])[0]


def jpeg(picture: VideoFrame, quantizer: int) -> bytes:
    """A JPEG; the quantizer goes from 2 (best) to 31 (smallest)."""
    encoder = CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)  # noqa: S101
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuvj420p"
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.options = {"qmin": str(quantizer), "qmax": str(quantizer), "flags": "+bitexact"}
    full = picture.reformat(
        format="yuvj420p",
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    full.pts, full.time_base = 0, Fraction(1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(full), *encoder.encode(None)])


def webp(pictures: Sequence[VideoFrame], rate: Fraction, quality: int) -> bytes:
    """An animated WebP that loops for ever, of pictures of one size.

    Args:
        pictures: In order.
        rate: Pictures a second.
        quality: From 0 (smallest) to 100 (best).
    """
    return _animated(pictures, "webp", "libwebp_anim", rate, {"quality": str(quality)})


def gif(pictures: Sequence[VideoFrame], rate: Fraction) -> bytes:
    """An animated GIF that loops for ever, of pictures of one size, with the 256 colours that suit them best."""
    graph, source = _graph(pictures[0])
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return _animated(_run(graph, pictures), "gif", "gif", rate, {})


def _animated(
    pictures: Sequence[VideoFrame], container: str, codec: str, rate: Fraction, options: dict[str, str]
) -> bytes:
    file = io.BytesIO()
    with av_open(file, "w", format=container, options={"loop": "0"}) as output:
        assert isinstance(output, OutputContainer)  # noqa: S101
        stream = output.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)  # noqa: S101
        first = pictures[0]
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base = number, 1 / rate
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue()


def _filtered(frames: Sequence[VideoFrame], steps: Steps) -> list[VideoFrame]:
    return _run(_chain(frames[0], steps), frames)


def _chain(frame: VideoFrame, steps: Steps) -> Graph:
    graph, source = _graph(frame)
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in steps), graph.add("buffersink"))
    graph.configure()
    return graph


def _graph(frame: VideoFrame) -> tuple[Graph, FilterContext]:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    return graph, source


def _run(graph: Graph, frames: Iterable[VideoFrame]) -> list[VideoFrame]:
    for number, frame in enumerate(frames):
        pts, frame.pts = frame.pts, number
        graph.push(frame)
        frame.pts = pts
    graph.push(None)
    made: list[VideoFrame] = []
    while True:
        try:
            picture = graph.pull()
        except (BlockingIOError, EOFError):
            return made
        assert isinstance(picture, VideoFrame)  # noqa: S101
        made.append(picture)
