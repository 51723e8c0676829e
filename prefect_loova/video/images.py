"""Rotates and scales decoded frames, and encodes them as JPEG, PNG, animated WebP or GIF (PyAV).

Every function is pure and holds one small graph or encoder at a time. A *picture* is an upright frame with square
pixels, in yuv420p with BT.601 colours, as JPEG and WebP use them.
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

RotationFilters = tuple[tuple[str, str], ...]
"""The names and arguments of the FFmpeg filters that turn a frame upright, in order."""

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
# Without these flags the result depends on the processor, and colours are off by several steps.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def rotation_filters(frame: VideoFrame) -> RotationFilters:
    """Return the filters that turn a decoded frame upright, by its display matrix. Only right angles count."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ()
    right_x, right_y, _, down_x, down_y, *_ = struct.unpack_from("9i", bytes(matrix))
    if abs(right_y) + abs(down_x) > abs(right_x) + abs(down_y):
        direction = {(True, False): "clock", (False, True): "cclock", (True, True): "cclock_flip"}
        return (("transpose", f"dir={direction.get((right_y > 0, down_x > 0), 'clock_flip')}"),)
    return tuple((flip, "") for flip, negative in (("hflip", right_x < 0), ("vflip", down_y < 0)) if negative)


def swaps_axes(rotation: RotationFilters) -> bool:
    """Return whether a rotation swaps width and height."""
    return any(name == "transpose" for name, _ in rotation)


def fit(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return the largest size of this ratio in a square of `long_side` pixels, at most the given size."""
    scale = min(Fraction(1), Fraction(long_side, max(width, height)))
    return max(2, round(width * scale)), max(2, round(height * scale))


def scale(frame: VideoFrame, size: tuple[int, int], rotation: RotationFilters = ()) -> VideoFrame:
    """Return a picture of exactly this size.

    Args:
        frame: A decoded frame, or a picture.
        size: Width and height in pixels, after the rotation.
        rotation: The rotation to apply.
    """
    # Full-size frames never enter a graph: graphs are reference cycles, which keep their memory until the garbage
    # collector runs.
    small = _to_yuv(frame, _unrotated(size, rotation), Colorspace.ITU601, Interpolation.AREA)
    return _filter([small], rotation)[0] if rotation else small


class Canvas:
    """Draws the frames of a video at one size: upright, with black bars where the shape differs.

    Args:
        size: Width and height of the result, in pixels, both even.
        display_size: Width and height of the video in a player.
        rotation: The rotation of the video.
    """

    def __init__(self, size: tuple[int, int], display_size: tuple[int, int], rotation: RotationFilters) -> None:
        width, height = size
        factor = min(Fraction(width, display_size[0]), Fraction(height, display_size[1]))
        # No bars of less than two pixels: these come from rounded sizes.
        inner_width, inner_height = (
            whole if whole - part * factor < 2 else max(2, round(part * factor / 2) * 2)
            for whole, part in zip(size, display_size, strict=True)
        )
        self._unrotated_size = _unrotated((inner_width, inner_height), rotation)
        left, top = (width - inner_width) // 4 * 2, (height - inner_height) // 4 * 2
        bars = ("pad", f"{width}:{height}:{left}:{top}:black")
        self._filters = (*rotation, bars) if (inner_width, inner_height) != size else rotation
        self._matrix = canvas_matrix(size)
        self._graph: Graph | None = None
        self._frame_count = 0

    def draw(self, frame: VideoFrame) -> VideoFrame:
        """Return a decoded frame in yuv420p, with limited range and `canvas_matrix`. May return the frame itself."""
        flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        inner = _to_yuv(frame, self._unrotated_size, self._matrix, flags)
        if not self._filters:
            return inner
        if self._graph is None:
            self._graph = _chain(inner, self._filters)
        _push(self._graph, inner, self._frame_count)
        self._frame_count += 1
        drawn = self._graph.pull()
        assert isinstance(drawn, VideoFrame)  # noqa: S101
        return drawn


def canvas_matrix(size: tuple[int, int]) -> Colorspace:
    """Return the colour matrix of a `Canvas` of this size, which is also what players assume without a tag."""
    return Colorspace.ITU709 if min(size) >= 720 else Colorspace.ITU601


def colour_properties(frame: VideoFrame) -> tuple[Colorspace, ColorRange]:
    """Return the colour matrix and the range that a player assumes for a decoded frame."""
    untagged = canvas_matrix((frame.width, frame.height))
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return _MATRICES.get(int(frame.colorspace), untagged), ColorRange.JPEG if full else ColorRange.MPEG


def png(frame: VideoFrame, size: tuple[int, int], rotation: RotationFilters, *, with_alpha: bool = False) -> bytes:
    """Encode a decoded frame as a PNG, in 8-bit RGB.

    Args:
        frame: A decoded frame.
        size: Width and height in pixels, after the rotation.
        rotation: The rotation to apply.
        with_alpha: Whether to keep the transparency that the frame may have.
    """
    has_alpha = with_alpha and (frame.format.has_palette or any(one.is_alpha for one in frame.format.components))
    width, height = _unrotated(size, rotation)
    matrix, colour_range = colour_properties(frame)
    rgb = frame.reformat(
        width,
        height,
        "rgba" if has_alpha else "rgb24",
        src_colorspace=matrix,
        src_color_range=colour_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
        threads=1,
    )
    return _encode(_filter([rgb], rotation)[0] if rotation else rgb, "png", {"pred": "mixed"})


def rgb(frame: VideoFrame, size: tuple[int, int]) -> bytes:
    """Return the pixels of a frame in RGB at this size, without padding: 3 bytes each, row by row."""
    flags = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    scaled = frame.reformat(*size, "rgb24", interpolation=flags)
    plane, width = scaled.planes[0], 3 * size[0]
    pixels = bytes(plane)
    return b"".join(pixels[row * plane.line_size :][:width] for row in range(size[1]))


def sheet(pictures: Sequence[VideoFrame]) -> VideoFrame:
    """Return one picture with all of these, which have one size, in a grid that is as square as possible."""
    columns = next(side for side in count(1) if side * side >= len(pictures))
    rows = -(-len(pictures) // columns)
    return _filter(pictures, (("tile", f"layout={columns}x{rows}:padding=0:color=black"),))[0]


def tiled(frames: Sequence[VideoFrame], columns: int, rows: int, size: tuple[int, int]) -> VideoFrame:
    """Return the picture that tiles of one size make row by row, cropped to this size at the right and the bottom."""
    crop = ("crop", f"{size[0]}:{size[1]}:0:0")
    return _filter(frames, (("tile", f"layout={columns}x{rows}"), crop))[0]


def jpeg(picture: VideoFrame, quantizer: int) -> bytes:
    """Encode a picture as a JPEG. The quantizer goes from 2 (best) to 31 (smallest)."""
    full = picture.reformat(
        format="yuvj420p",
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return _encode(full, "mjpeg", {"qmin": str(quantizer), "qmax": str(quantizer)})


def webp(pictures: Sequence[VideoFrame], rate: Fraction, quality: int) -> bytes:
    """Encode pictures of one size as an animated WebP that loops forever.

    Args:
        pictures: The pictures in order.
        rate: Pictures a second.
        quality: From 0 (smallest) to 100 (best).
    """
    return _encode_animation(pictures, "webp", "libwebp_anim", rate, {"quality": str(quality)})


def gif(pictures: Sequence[VideoFrame], rate: Fraction) -> bytes:
    """Encode pictures of one size as an animated GIF that loops forever, with the best 256 colours for them."""
    graph, source = _graph(pictures[0])
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return _encode_animation(_run(graph, pictures), "gif", "gif", rate, {})


def _encode(frame: VideoFrame, codec: str, options: dict[str, str]) -> bytes:
    """Encode one frame as an image."""
    encoder = CodecContext.create(codec, "w")
    assert isinstance(encoder, VideoCodecContext)  # noqa: S101
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, frame.format.name
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.options = options | {"flags": "+bitexact"}
    frame.pts, frame.time_base = 0, Fraction(1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _encode_animation(
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


def _to_yuv(frame: VideoFrame, size: tuple[int, int], matrix: Colorspace, flags: Interpolation) -> VideoFrame:
    """Convert a frame to yuv420p of limited range."""
    source_matrix, source_range = colour_properties(frame)
    return frame.reformat(
        *size,
        "yuv420p",
        src_colorspace=source_matrix,
        dst_colorspace=matrix,
        src_color_range=source_range,
        dst_color_range=ColorRange.MPEG,
        interpolation=flags,
    )


def _unrotated(size: tuple[int, int], rotation: RotationFilters) -> tuple[int, int]:
    """Return a size as it was before the rotation."""
    return (size[1], size[0]) if swaps_axes(rotation) else size


def _filter(frames: Sequence[VideoFrame], filters: Sequence[tuple[str, str]]) -> list[VideoFrame]:
    return _run(_chain(frames[0], filters), frames)


def _chain(frame: VideoFrame, filters: Sequence[tuple[str, str]]) -> Graph:
    graph, source = _graph(frame)
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in filters), graph.add("buffersink"))
    graph.configure()
    return graph


def _graph(frame: VideoFrame) -> tuple[Graph, FilterContext]:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    return graph, source


def _run(graph: Graph, frames: Iterable[VideoFrame]) -> list[VideoFrame]:
    for number, frame in enumerate(frames):
        _push(graph, frame, number)
    graph.push(None)
    pictures: list[VideoFrame] = []
    while True:
        try:
            picture = graph.pull()
        except (BlockingIOError, EOFError):
            return pictures
        assert isinstance(picture, VideoFrame)  # noqa: S101
        pictures.append(picture)


def _push(graph: Graph, frame: VideoFrame, number: int) -> None:
    """Push a frame into a graph, with its number as the timestamp. Restore the timestamp of the caller's frame."""
    pts, frame.pts = frame.pts, number
    graph.push(frame)
    frame.pts = pts
