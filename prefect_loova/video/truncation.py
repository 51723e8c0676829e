"""Finds images that are cut short, by their structure. Decoders differ in how much of this they notice."""

from __future__ import annotations

import struct

_TIFF_SIZES = {3: "H", 4: "I"}
_TIFF_PARTS = {273: 279, 324: 325}  # the tags with offsets and with sizes, of strips and of tiles


def is_truncated(media_type: str, content: bytes) -> bool:
    """Return whether an image is certainly cut short. False also means unknown.

    Args:
        media_type: The media type of the image.
        content: The whole file.
    """
    try:
        match media_type:
            case "image/jpeg":  # no end marker after the start of the last scan
                return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
            case "image/webp":
                return int.from_bytes(content[4:8], "little") + 8 > len(content)
            case "image/bmp":
                return int.from_bytes(content[2:6], "little") > len(content)
            case "image/gif":
                pictures = gif_pictures(content)
                return not pictures or not all(pictures)
            case "image/png":
                return b"IEND" not in content
            case "image/tiff":
                return _is_tiff_truncated(content)
    except (IndexError, struct.error):
        return True
    return False


def gif_pictures(content: bytes) -> list[bool]:
    """Return for each picture of a GIF, in order, whether it is complete."""
    pictures: list[bool] = []
    at = 13 + _gif_table(content[10])
    while at < len(content) and content[at] in (0x21, 0x2C):
        is_picture = content[at] == 0x2C
        at += 11 + _gif_table(content[at + 9]) if is_picture else 2
        while at < len(content) and content[at]:
            at += 1 + content[at]
        if is_picture:
            pictures.append(at < len(content))
        at += 1
    return pictures


def _gif_table(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _is_tiff_truncated(content: bytes) -> bool:
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(count):
        at = start + 2 + 12 * entry
        tag, number_type, number = struct.unpack_from(f"{order}HHI", content, at)
        if number_type in _TIFF_SIZES and tag in {*_TIFF_PARTS, *_TIFF_PARTS.values()}:
            form = f"{order}{number}{_TIFF_SIZES[number_type]}"
            offset = at + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(f"{order}I", content, at + 8)[0]
            if offset + struct.calcsize(form) > len(content):
                return True
            tags[tag] = struct.unpack_from(form, content, offset)
    return any(
        offset + size > len(content)
        for offsets, sizes in _TIFF_PARTS.items()
        for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False)
    )
