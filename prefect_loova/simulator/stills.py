"""Stills from reference media: decoded by PyAV, turned upright, and scaled to fill the frame of a video.

The decoder is chosen by the first bytes, never by a name. It refuses pictures of more than `MAX_PIXELS`.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av import VideoFrame

MAX_PIXELS = 1 << 26

_DECODERS = {
    b"\xff\xd8\xff": "mjpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
_FULL_RANGE = 2
_LIMITS = {"max_pixels": str(MAX_PIXELS)}


class UndecodableError(Exception):
    """A medium gives no still. The message follows the name of the medium."""


@dataclass(frozen=True)
class Still:
    """A picture in yuv420p, with the colour matrix of a video of its size. Width and height are even."""

    width: int
    height: int
    planes: tuple[bytes, bytes, bytes]

    def pack(self) -> bytes:
        """Return the compressed pixels, without loss, for `unpack`."""
        return zlib.compress(b"".join(self.planes), 1)

    @classmethod
    def unpack(cls, width: int, height: int, packed: bytes) -> Still:
        """Return the still that `pack` compressed."""
        pixels = zlib.decompress(packed)
        luma, chroma = width * height, width * height // 4
        return cls(width, height, (pixels[:luma], pixels[luma : luma + chroma], pixels[luma + chroma :]))

    def resized(self, width: int, height: int) -> Still:
        """Return this still for a video of another size."""
        if (self.width, self.height) == (width, height):
            return self
        return _fill(self.frame(), width, height, untagged=_video_matrix(self.width, self.height))

    def frame(self) -> VideoFrame:
        """Return the still as a PyAV frame."""
        from av import VideoFrame  # noqa: PLC0415

        frame = VideoFrame(self.width, self.height, "yuv420p")
        for plane, pixels in zip(frame.planes, self.planes, strict=True):
            gap = bytes(plane.line_size - plane.width)
            lines = range(0, len(pixels), plane.width)
            plane.update(b"".join(pixels[start : start + plane.width] + gap for start in lines))
        return frame


def image_decoder(head: bytes) -> str | None:
    """Return the name of FFmpeg's decoder for an image with these first bytes; None for other content."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((decoder for magic, decoder in _DECODERS.items() if head.startswith(magic)), None)


def still_of_image(content: bytes, width: int, height: int) -> Still:
    """Return an image, or the first picture of an animation, scaled to fill the frame of a video.

    Raises:
        UndecodableError: It is damaged, or has too many pixels.
    """
    import av  # noqa: PLC0415

    decoder: Any = av.CodecContext.create(image_decoder(content[:16]) or "", "r")
    decoder.options, decoder.thread_count = _LIMITS, 1
    try:
        frames = decoder.decode(av.Packet(content)) or decoder.decode(None)
    except (av.FFmpegError, EOFError) as error:
        raise UndecodableError("could not be decoded") from error
    if not frames:
        raise UndecodableError("could not be decoded")
    # Untagged images are BT.601 at any size.
    return _fill(frames[0], width, height, untagged="ITU601")


def still_of_video(content: bytes, width: int, height: int) -> Still:
    """Return the first frame of an mp4 or mov, scaled to fill the frame of a video.

    Raises:
        UndecodableError: It is damaged, has no picture, or has too many pixels.
    """
    import av  # noqa: PLC0415

    try:
        with av.open(io.BytesIO(content), "r", format="mp4", options=_LIMITS) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise UndecodableError("has no picture")
            stream.codec_context.options = _LIMITS
            frame = next(container.decode(stream))
            return _fill(
                frame,
                width,
                height,
                untagged=_video_matrix(frame.width, frame.height),
                aspect=stream.sample_aspect_ratio or Fraction(1),
            )
    except (av.FFmpegError, StopIteration) as error:
        raise UndecodableError("could not be decoded") from error


def _video_matrix(width: int, height: int) -> str:
    """Return the colour matrix that players assume for an untagged video: BT.709 for HD, else BT.601."""
    return "ITU709" if min(width, height) >= 720 else "ITU601"


def _fill(frame: VideoFrame, width: int, height: int, *, untagged: str, aspect: Fraction = Fraction(1)) -> Still:
    """Turn a frame upright, scale it to cover this size, and crop it to its centre."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation  # noqa: PLC0415

    turns = round(frame.rotation / 90) % 4
    across, down = (height, width) if turns % 2 else (width, height)
    scale = max(across / (frame.width * aspect), Fraction(down, frame.height))
    wide = max(across, round(frame.width * aspect * scale / 2) * 2)
    high = max(down, round(frame.height * scale / 2) * 2)
    if wide * high > MAX_PIXELS:
        raise UndecodableError("is too long and narrow")
    tagged = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}.get(int(frame.colorspace), untagged)
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    large = frame.reformat(
        wide,
        high,
        "yuv420p",
        src_colorspace=Colorspace[tagged],
        dst_colorspace=Colorspace[_video_matrix(width, height)],
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    planes = []
    for plane, half in zip(large.planes, (1, 2, 2), strict=True):
        pixels, line = memoryview(plane), plane.line_size
        # Crop whole pixels of the chroma planes, so that the colours do not shift.
        left, top = (wide - across) // 4 * 2 // half, (high - down) // 4 * 2 // half
        lines = range(top * line + left, (top + down // half) * line, line)
        cropped = b"".join(pixels[start : start + across // half] for start in lines)
        planes.append(_rotate(cropped, across // half, turns))
    return Still(width, height, (planes[0], planes[1], planes[2]))


def _rotate(pixels: bytes, width: int, turns: int) -> bytes:
    """Rotate the pixels of a plane counter-clockwise, by quarter turns."""
    for _ in range(turns):
        pixels, width = b"".join(pixels[column::width] for column in reversed(range(width))), len(pixels) // width
    return pixels
