"""Small videos in which each frame shows its number, and tools to read pictures with Pillow."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

FPS = 24

Planes = Callable[[int], tuple[bytes, bytes, bytes]]


def luma(number: int) -> int:
    """Return the brightness of a frame. For 100 frames, neighbours differ by more than an encoder's error."""
    return 20 + 2 * number


def grey(luma_: float) -> float:
    """Return Pillow's value of a brightness: JPEG uses 0 to 255, video 16 to 235."""
    return (luma_ - 16) * 255 / 219


def film(
    frames: int,
    size: tuple[int, int] = (64, 48),
    *,
    paint: Callable[[av.VideoFrame, int], None] | None = None,
    rotated: int | None = None,
    mirrored: bool = False,
    sar: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    movflags: str = "",
    colorspace: int | None = None,
    transfer: int | None = None,
    primaries: int | None = None,
    sound_seconds: int = 0,
    container: str = "mp4",
    codec: str = "libx264",
    **options: str,
) -> bytes:
    """Return a video of 24 frames a second. By default each frame is one grey, the `luma` of its number.

    Args:
        frames: The number of frames.
        size: Width and height.
        paint: Draws a frame with a number.
        rotated: Degrees counter-clockwise in the display matrix.
        mirrored: Flipped from left to right in the display matrix.
        sar: The sample aspect ratio.
        pix_fmt: The pixel format.
        times: The presentation time of each frame, in 24ths of a second.
        movflags: Flags of FFmpeg's mp4 muxer.
        colorspace: The matrix coefficients in the stream, as numbered by H.264.
        transfer: The transfer characteristics in the stream.
        primaries: The colour primaries in the stream.
        sound_seconds: The length of a silent audio stream in seconds.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        options: Options of the encoder.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        with av.open(path, "w", format=container, options={"movflags": movflags} if movflags else {}) as output:
            stream = output.add_stream(codec, rate=FPS, options={"crf": "8", "preset": "veryfast"} | options)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            sound = output.add_stream("aac", rate=8000) if sound_seconds else None
            if rotated is not None or mirrored:
                stream.set_display_rotation(rotated or 0, hflip=mirrored)
            if sar:
                stream.codec_context.sample_aspect_ratio = sar
            if colorspace is not None:
                stream.codec_context.colorspace = colorspace
            if transfer is not None:
                stream.codec_context.color_trc = transfer
            if primaries is not None:
                stream.codec_context.color_primaries = primaries
            for number in range(frames):
                frame = av.VideoFrame(*size, pix_fmt)
                (paint or flat)(frame, number)
                frame.pts, frame.time_base = times[number] if times else number, Fraction(1, FPS)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
            if sound is not None:
                for packet in silence(sound, sound_seconds):
                    output.mux(packet)
        return path.read_bytes()


def sound(seconds: int) -> bytes:
    """Return an mp4 with only an audio stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000)
        for packet in silence(stream, seconds):
            output.mux(packet)
    return file.getvalue()


def silence(stream: av.AudioStream, seconds: int) -> Iterator[list[av.Packet]]:
    for start in range(0, 8000 * seconds, 1000):
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1000)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.sample_rate = start, 8000
        yield stream.encode(frame)
    yield stream.encode(None)


def fill(frame: av.VideoFrame, colour: tuple[int, int, int]) -> None:
    """Fill a frame with one colour (Y, U, V)."""
    for plane, value in zip(frame.planes, colour, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)


def flat(frame: av.VideoFrame, number: int) -> None:
    """Fill a frame with the grey of its number."""
    fill(frame, (luma(number), 128, 128))


def bright_corner(frame: av.VideoFrame, number: int) -> None:
    """Paint a frame black, with a white quarter at the top left."""
    fill(frame, (16, 128, 128))
    plane = frame.planes[0]
    pixels = bytearray(plane)
    for row in range(plane.height // 2):
        pixels[row * plane.line_size : row * plane.line_size + plane.width // 2] = b"\xeb" * (plane.width // 2)
    plane.update(bytes(pixels))


def noise(frame: av.VideoFrame, number: int) -> None:
    """Fill a frame with random noise, which does not compress."""
    for index, plane in enumerate(frame.planes):
        plane.update(random.Random(3 * number + index).randbytes(plane.buffer_size))


def opened(content: bytes) -> Image.Image:
    """Open a picture with Pillow."""
    return Image.open(io.BytesIO(content))


def moving_frames(content: bytes) -> list[Image.Image]:
    """Return the frames of an animation as RGB pictures."""
    animation = opened(content)
    frames = []
    for number in range(animation.n_frames):
        animation.seek(number)
        frames.append(animation.convert("RGB"))
    return frames


def brightness(picture: Image.Image, x: float = 0.5, y: float = 0.5) -> int:
    """Return the grey value at a point; `x` and `y` are from 0 to 1."""
    value = picture.convert("L").getpixel((int(x * picture.width), int(y * picture.height)))
    assert isinstance(value, int)
    return value
