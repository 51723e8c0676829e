"""What the headers of an image say: size, rotation by EXIF, CMYK, animation.

Nothing here raises for damaged content: a header that cannot be read says nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from prefect_loova.video.truncation import gif_pictures

SIDEWAYS = 5
"""The first EXIF orientation that swaps width and height."""

_WIDTH, _HEIGHT, _PHOTOMETRIC, _ORIENTATION = 256, 257, 262, 274  # tags of TIFF 6.0
_SEPARATED = 5  # CMYK
_NUMBERS = {3: "H", 4: "I"}  # SHORT and LONG
_CMYK_COMPONENTS = 4
_OLD_BMP = 12  # the length of the header of OS/2, whose sizes have 16 bits
_FRAMES_OF_JPEG = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF = b"Exif\0\0"


def orientation(content: bytes, media_type: str) -> int:
    """Return the EXIF orientation of a JPEG, PNG, WebP or TIFF, from 1 to 8. 1 is upright."""
    with suppress(IndexError, struct.error):
        value = _tiff_tag(_exif(content, media_type), _ORIENTATION)
        return value if value is not None and 1 <= value <= 8 else 1
    return 1


def header_size(content: bytes, media_type: str) -> tuple[int, int] | None:
    """Return width and height of an image as it is stored, in pixels, or None if its first bytes lack them."""
    size: tuple[int | None, ...] = ()
    with suppress(IndexError, struct.error):
        match media_type:
            case "image/png":
                size = struct.unpack_from(">II", content, 16)
            case "image/gif":
                size = struct.unpack_from("<HH", content, 6)
            case "image/bmp" if content[14] != _OLD_BMP:
                size = struct.unpack_from("<ii", content, 18)
            case "image/tiff":
                size = _tiff_tag(content, _WIDTH), _tiff_tag(content, _HEIGHT)
            case "image/jpeg":
                size = struct.unpack_from(">HH", _jpeg_frame(content), 1)[::-1]
            case "image/webp":
                size = _webp_size(content)
    width, height = (abs(one or 0) for one in size or (0, 0))
    return (width, height) if width and height else None


def is_cmyk(content: bytes, media_type: str) -> bool:
    """Return whether the picture of a JPEG or TIFF is in CMYK."""
    with suppress(IndexError, struct.error):
        if media_type == "image/jpeg":
            return _jpeg_frame(content)[5:6] == bytes([_CMYK_COMPONENTS])
        return media_type == "image/tiff" and _tiff_tag(content, _PHOTOMETRIC) == _SEPARATED
    return False


def is_animated(content: bytes, media_type: str) -> bool:
    """Return whether a GIF, PNG or WebP is an animation."""
    with suppress(IndexError):
        if media_type == "image/gif":
            return len(gif_pictures(content)) > 1
        if media_type == "image/png":
            return b"acTL" in content[: max(0, content.find(b"IDAT"))]
        return media_type == "image/webp" and content[12:16] == b"VP8X" and bool(content[20] & 0x02)
    return False


def first_webp_picture(content: bytes) -> bytes:
    """Return the first picture of an animated WebP as a WebP of its own. FFmpeg decodes no animated WebP.

    Any other content is returned unchanged, also an animation whose first picture does not fill its canvas.
    """
    chunks = dict(reversed([*_chunks(content, 12, "<")]))
    canvas, frame = chunks.get(b"VP8X", b"")[4:10], chunks.get(b"ANMF", b"")
    if not frame or frame[:6] != bytes(6) or frame[6:12] != canvas:
        return content
    picture = frame[16:]
    if picture[:4] == b"ALPH":
        picture = b"VP8X\x0a\0\0\0\x10\0\0\0" + canvas + picture
    return b"RIFF" + (len(picture) + 4).to_bytes(4, "little") + b"WEBP" + picture


def without_exif(png: bytes) -> bytes:
    """Return a PNG without its EXIF data. FFmpeg's encoder copies it, so an upright copy would be rotated again."""
    kept = [(name, body) for name, body in _chunks(png, 8, ">") if name != b"eXIf"]
    parts = [len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4) for name, body in kept]
    return png[:8] + b"".join(parts)


def _exif(content: bytes, media_type: str) -> bytes:
    """Return the EXIF data of an image, which is a TIFF without a picture."""
    if media_type == "image/tiff":
        return content
    if media_type == "image/jpeg":
        bodies = (body for marker, body in _segments(content) if marker == 0xE1 and body.startswith(_EXIF))
        return next(bodies, b"").removeprefix(_EXIF)
    if media_type == "image/png":
        return next((body for name, body in _chunks(content, 8, ">") if name == b"eXIf"), b"")
    if media_type == "image/webp":
        return next((body for name, body in _chunks(content, 12, "<") if name == b"EXIF"), b"").removeprefix(_EXIF)
    return b""


def _jpeg_frame(content: bytes) -> bytes:
    """Return the header of a JPEG's picture: bits, height, width and the number of components."""
    return next((body for marker, body in _segments(content) if marker in _FRAMES_OF_JPEG), b"")


def _webp_size(content: bytes) -> tuple[int, ...]:
    name, body = next(_chunks(content, 12, "<"), (b"", b""))
    if name == b"VP8X":
        return tuple(int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    if name == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return tuple(one & 0x3FFF for one in struct.unpack_from("<HH", body, 6)) if name == b"VP8 " else ()


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of a JPEG before its picture: marker and body."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        if jpeg[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(jpeg[at + 2 : at + 4])
        yield jpeg[at + 1], jpeg[at + 4 : at + 2 + length]
        at += 2 + max(2, length)


def _chunks(content: bytes, start: int, order: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG (length first, checksum last) or a RIFF file: name and body."""
    is_png, at = order == ">", start
    while at + 8 <= len(content):
        name, size = content[at : at + 4], content[at + 4 : at + 8]
        if is_png:
            name, size = size, name
        length = int.from_bytes(size, "big" if is_png else "little")
        yield name, content[at + 8 : at + 8 + length]
        at += 8 + length + (4 if is_png else length % 2)


def _tiff_tag(tiff: bytes, wanted: int) -> int | None:
    """Return the number that a tag of the first directory of a TIFF has."""
    if tiff[:2] not in (b"II", b"MM"):
        return None
    order = "<" if tiff[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(count):
        at = start + 2 + 12 * entry
        tag, number_type = struct.unpack_from(f"{order}HH", tiff, at)
        if tag == wanted and number_type in _NUMBERS:
            return int(struct.unpack_from(f"{order}{_NUMBERS[number_type]}", tiff, at + 8)[0])
    return None
