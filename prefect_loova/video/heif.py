"""Decodes the picture of a HEIC or AVIF (PyAV): FFmpeg decodes its items, and its boxes say how they make one picture.

Phones store a photo as a grid of tiles, and its rotation beside it (ISO/IEC 23008-12). Images derived in other ways,
such as overlays, are not supported.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from av import VideoFrame, VideoStream

from prefect_loova.video.decoder import MAX_IMAGE_PIXELS, DecodeError, open_container
from prefect_loova.video.images import RotationFilters, tiled

_MAX_TILES = 1024
_MAX_FILTERS = 3  # half a turn, which is two, and a mirror
_ROTATIONS: dict[int, RotationFilters] = {  # quarter turns counter-clockwise
    1: (("transpose", "dir=cclock"),),
    2: (("hflip", ""), ("vflip", "")),
    3: (("transpose", "dir=clock"),),
}


@dataclass
class _Boxes:
    """What the `meta` box says.

    Attributes:
        primary: The id of the image to show.
        kinds: The type of each item.
        tiles: The items of each grid, in order.
        properties: All properties, in order: type and body.
        uses: The numbers of each item's properties, from 1, in the order in which they apply.
        data: The content of the `idat` box.
        places: For each item with one extent: where its data is (0 file, 1 `idat`), offset and length.
    """

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    tiles: dict[int, list[int]] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    uses: dict[int, list[int]] = field(default_factory=dict)
    data: bytes = b""
    places: dict[int, tuple[int, int, int]] = field(default_factory=dict)


def heif_picture(content: bytes) -> tuple[VideoFrame, RotationFilters]:
    """Return the primary image of a HEIC or AVIF, and the rotation that turns it upright.

    Raises:
        DecodeError: It has none, or one that is not supported.
        FFmpegError: It cannot be decoded.
    """
    try:
        boxes = _read(content)
        rotation = _rotation(boxes)
        if boxes.kinds.get(boxes.primary) == b"grid":
            return _grid(content, boxes), rotation
    except (LookupError, struct.error):
        raise DecodeError("its boxes cannot be read") from None
    if boxes.kinds.get(boxes.primary) not in (b"hvc1", b"av01", None):
        raise DecodeError(f"its image is derived in a way that is not supported ({boxes.kinds[boxes.primary]!r})")
    return _items(content, [boxes.primary] if boxes.primary else None)[0], rotation


def is_sequence(content: bytes) -> bool:
    """Return whether a HEIC or AVIF has more than one picture to show: it has a track, as a video has."""
    return any(name == b"moov" for name, _ in _children(content))


def _grid(content: bytes, boxes: _Boxes) -> VideoFrame:
    source, offset, length = boxes.places[boxes.primary]
    grid = (boxes.data if source else content)[offset : offset + length]
    flags, rows, columns = grid[1], grid[2] + 1, grid[3] + 1
    width, height = struct.unpack_from(">II" if flags & 1 else ">HH", grid, 4)
    numbers = boxes.tiles.get(boxes.primary, [])
    if len(numbers) != rows * columns or len(numbers) > _MAX_TILES or not 0 < width * height <= MAX_IMAGE_PIXELS:
        raise DecodeError(f"its grid of {rows} x {columns} tiles cannot be used")
    frames = _items(content, numbers)
    first = frames[0]
    if any(
        (one.width, one.height, one.format.name) != (first.width, first.height, first.format.name) for one in frames
    ):
        raise DecodeError("the tiles of its grid differ in size")
    if first.width * columns < width or first.height * rows < height:
        raise DecodeError("the tiles of its grid do not fill its picture")
    return tiled(frames, columns, rows, (width, height))


def _items(content: bytes, numbers: list[int] | None) -> list[VideoFrame]:
    """Decode items, or without numbers the first picture of an image sequence."""
    with open_container(io.BytesIO(content), "mp4") as container:
        streams = {stream.id: stream for stream in container.streams.video}
        chosen = [streams.get(number) for number in numbers] if numbers else [*container.streams.video][:1]
        wanted = [stream for stream in chosen if isinstance(stream, VideoStream)]
        if not wanted or len(wanted) != len(chosen):
            raise DecodeError("its image has no data")
        # The tiles at the right and the bottom go beyond the picture.
        if (pixels := sum(one.width * one.height for one in wanted)) > 2 * MAX_IMAGE_PIXELS:
            raise DecodeError(f"it has {pixels:,} pixels, which is too large")
        for stream in wanted:
            stream.codec_context.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}
            stream.codec_context.thread_count = 1
        frames = dict[int, VideoFrame]()
        for packet in container.demux(*dict.fromkeys(wanted)):
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    frames.setdefault(packet.stream.index, frame)
        if any(stream.index not in frames for stream in wanted):
            raise DecodeError("a part of its image cannot be decoded")
        return [frames[stream.index] for stream in wanted]


def _rotation(boxes: _Boxes) -> RotationFilters:
    rotation: RotationFilters = ()
    for number in boxes.uses.get(boxes.primary, []):
        name, body = boxes.properties[number - 1] if number else (b"", b"")
        if name == b"irot":
            rotation += _ROTATIONS.get(body[0] & 3, ())
        elif name == b"imir":
            rotation += (("hflip" if body[0] & 1 else "vflip", ""),)
    if len(rotation) > _MAX_FILTERS:
        raise DecodeError("it is rotated more than once")
    return rotation


def _read(content: bytes) -> _Boxes:
    boxes = _Boxes()
    meta = next((body for name, body in _children(content) if name == b"meta"), b"")
    for name, body in _children(meta[4:]):
        version = body[0] if body else 0
        if name == b"pitm":
            boxes.primary = _number(body, 4, 4 if version else 2)
        elif name == b"iinf":
            for _, entry in _children(body[8 if version else 6 :]):
                wide = 4 if entry[0] > 2 else 2
                boxes.kinds[_number(entry, 4, wide)] = entry[6 + wide : 10 + wide]
        elif name == b"iref":
            _read_references(boxes, body, 4 if version else 2)
        elif name == b"idat":
            boxes.data = body
        elif name == b"iprp":
            _read_properties(boxes, body)
        elif name == b"iloc":
            _read_places(boxes, body)
    return boxes


def _read_references(boxes: _Boxes, body: bytes, wide: int) -> None:
    for name, reference in _children(body[4:]):
        if name == b"dimg":
            count = _number(reference, wide, 2)
            at = range(wide + 2, wide + 2 + count * wide, wide)
            boxes.tiles[_number(reference, 0, wide)] = [_number(reference, one, wide) for one in at]


def _read_properties(boxes: _Boxes, body: bytes) -> None:
    for name, part in _children(body):
        if name == b"ipco":
            boxes.properties = [*_children(part)]
        elif name == b"ipma":
            wide, long = (4 if part[0] else 2), part[3] & 1
            at = 8
            for _ in range(_number(part, 4, 4)):
                item, count = _number(part, at, wide), part[at + wide]
                at += wide + 1
                for _ in range(count):
                    number = _number(part, at, 2) & 0x7FFF if long else part[at] & 0x7F
                    boxes.uses.setdefault(item, []).append(number)
                    at += 2 if long else 1


def _read_places(boxes: _Boxes, body: bytes) -> None:
    version = body[0]
    offset_size, length_size, base_size = body[4] >> 4, body[4] & 15, body[5] >> 4
    index_size = body[5] & 15 if version else 0
    wide = 4 if version > 1 else 2
    at = 6 + wide
    for _ in range(_number(body, 6, wide)):
        item, at = _number(body, at, wide), at + wide
        method = _number(body, at, 2) & 15 if version else 0
        at += 4 if version else 2
        base, at = _number(body, at, base_size), at + base_size
        count, at = _number(body, at, 2), at + 2
        if count:
            offset = _number(body, at + index_size, offset_size)
            length = _number(body, at + index_size + offset_size, length_size)
            boxes.places[item] = method, base + offset, length
        at += count * (index_size + offset_size + length_size)


def _children(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the boxes in some content: type and body."""
    at = 0
    while at + 8 <= len(content):
        size, name, start = _number(content, at, 4), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = _number(content, at + 8, 8), at + 16
        end = at + size if size else len(content)
        if end < start:
            return
        yield name, content[start:end]
        at = end


def _number(content: bytes, at: int, size: int) -> int:
    if at + size > len(content):
        raise IndexError
    return int.from_bytes(content[at : at + size])
