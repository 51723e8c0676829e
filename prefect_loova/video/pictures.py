"""Decodes the first picture of an image of any type that is accepted or converted (PyAV)."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import NamedTuple

from av import CodecContext, Packet, VideoFrame
from av.error import EOFError
from av.video.codeccontext import VideoCodecContext

from prefect_loova.models.media_types import CONVERTIBLE
from prefect_loova.video.decoder import MAX_IMAGE_PIXELS
from prefect_loova.video.heif import heif_picture, is_sequence
from prefect_loova.video.image_headers import first_webp_picture, is_animated, is_cmyk, orientation
from prefect_loova.video.images import RotationFilters, swaps_axes

DECODERS = {
    "image/png": "png",
    "image/jpeg": "mjpeg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
}
"""FFmpeg's decoder of each media type."""

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""Options for a decoder that accepts no errors."""

ANIMATION = "it is an animation, and Loova does not document how it uses one"

one_image = threading.Lock()
"""Hold it while a picture is in memory: the pixels of one image may take 280 MB."""

_HEIF = frozenset(name for name in CONVERTIBLE if name.startswith("image/"))
_BY_EXIF: dict[int, RotationFilters] = {
    2: (("hflip", ""),),
    3: (("hflip", ""), ("vflip", "")),
    4: (("vflip", ""),),
    5: (("transpose", "dir=cclock_flip"),),
    6: (("transpose", "dir=clock"),),
    7: (("transpose", "dir=clock_flip"),),
    8: (("transpose", "dir=cclock"),),
}


class Picture(NamedTuple):
    """The first picture of an image.

    Attributes:
        frame: The picture, as it is stored.
        rotation: The rotation that turns it upright.
    """

    frame: VideoFrame
    rotation: RotationFilters

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture when it is upright, in pixels."""
        width, height = self.frame.width, self.frame.height
        return (height, width) if swaps_axes(self.rotation) else (width, height)


def first_picture(content: bytes, media_type: str, options: dict[str, str] | None = None) -> Picture | None:
    """Decode the first picture of an image. Return None if it has none.

    Args:
        content: The image.
        media_type: Its media type, one of `DECODERS` or `CONVERTIBLE`.
        options: Options for FFmpeg's decoder.

    Raises:
        DecodeError: A HEIC or AVIF is not supported.
        FFmpegError: It cannot be decoded.
    """
    if media_type in _HEIF:
        return Picture(*heif_picture(content))
    if media_type == "image/webp":
        content = first_webp_picture(content)
    decoder = CodecContext.create(DECODERS[media_type], "r")
    assert isinstance(decoder, VideoCodecContext)  # noqa: S101
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_IMAGE_PIXELS)} | (options or {})
    frames = decoder.decode(Packet(content))
    with suppress(EOFError):
        frames += decoder.decode(None)
    return Picture(frames[0], _BY_EXIF.get(orientation(content, media_type), ())) if frames else None


def image_traits(content: bytes, media_type: str, picture: Picture | None) -> tuple[str, ...]:
    """Return what not every host of Seedance 2.0 takes of an image, as clauses for a message.

    Args:
        content: The image.
        media_type: Its media type.
        picture: Its first picture, if it was decoded.
    """
    bits = max((one.bits for one in picture.frame.format.components), default=0) if picture else 0
    clauses = {
        f"it is {media_type}": media_type in _HEIF,
        ANIMATION: is_sequence(content) if media_type in _HEIF else is_animated(content, media_type),
        "it is in CMYK": is_cmyk(content, media_type),
        f"it has {bits} bits a channel": bits > 8,
        "its EXIF data rotates or mirrors it": orientation(content, media_type) > 1,
    }
    return tuple(clause for clause, is_so in clauses.items() if is_so)
