"""Media that not every host of Seedance 2.0 takes. Each shows red and green on top and blue below, if it is upright."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

SIZE = (480, 360)
LEFT, RIGHT, BOTTOM = (200, 30, 30), (30, 160, 30), (30, 30, 200)
_ORIENTATION = 274


def upright(size: tuple[int, int] = SIZE) -> Image.Image:
    image = Image.new("RGB", size, LEFT)
    image.paste(RIGHT, (size[0] // 2, 0, *size))
    image.paste(BOTTOM, (0, size[1] // 2, *size))
    return image


def is_upright(image: Image.Image) -> bool:
    """Whether a picture is as it was made, apart from an encoder's error."""
    points = [(image.width // 4 * x, image.height // 4 * y) for x, y in ((1, 1), (3, 1), (1, 3))]
    colours = [image.convert("RGB").getpixel(point) for point in points]
    return image.size == SIZE and all(
        isinstance(is_, tuple) and all(abs(one - other) <= 24 for one, other in zip(is_, wanted, strict=True))
        for is_, wanted in zip(colours, (LEFT, RIGHT, BOTTOM), strict=True)
    )


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _animated(kind: str) -> bytes:
    return _saved(upright(), kind, save_all=True, append_images=[upright().rotate(180)])


def rotated_by_exif(kind: str, orientation: int = 6) -> bytes:
    """An image that is stored otherwise than a player shows it."""
    stored: dict[int, Image.Transpose] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright().transpose(stored[orientation])
    if kind == "TIFF":
        return _saved(image, kind, tiffinfo={_ORIENTATION: orientation})
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return _saved(image, kind, exif=exif)


def png_of_16_bits() -> bytes:
    """A PNG in RGB. Pillow writes 16 bits in grey only."""
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *SIZE, "rgb48be", Fraction(1)
    frame = frame_of(upright()).reformat(format="rgb48be")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def frame_of(image: Image.Image) -> av.VideoFrame:
    frame = av.VideoFrame(*image.size, "rgb24")
    gap = bytes(frame.planes[0].line_size - 3 * image.width)
    rows = (image.crop((0, y, image.width, y + 1)).tobytes() for y in range(image.height))
    frame.planes[0].update(b"".join(row + gap for row in rows))
    return frame


def heic(*, turns: int = 0, tiles: tuple[int, int] | None = None) -> bytes:
    """A HEIC (ISO/IEC 23008-12), which neither Pillow nor FFmpeg writes.

    Args:
        turns: The quarter turns counter-clockwise that a player makes.
        tiles: Columns and rows of the grid that the picture is cut into.
    """
    stored = upright().rotate(-90 * turns, expand=True)
    columns, rows = tiles or (1, 1)
    wide, high = -(-stored.width // columns // 2) * 2, -(-stored.height // rows // 2) * 2
    wide, high = max(wide, 64), max(high, 64)
    canvas = Image.new("RGB", (wide * columns, high * rows))
    canvas.paste(stored)
    corners = [(x * wide, y * high) for y in range(rows) for x in range(columns)]
    parts = [_hevc(canvas.crop((x, y, x + wide, y + high))) for x, y in corners]
    count = len(parts)
    grid = count + 1
    primary = grid if tiles else 1
    properties = [
        _box(b"hvcC", parts[0][0]),
        _box(b"ispe", struct.pack(">III", 0, wide, high)),
        _box(b"ispe", struct.pack(">III", 0, *stored.size)),
        _box(b"irot", bytes([turns])),
    ]
    uses = {item: [1, 2] for item in range(1, count + 1)} | ({grid: [3]} if tiles else {})
    uses[primary].append(4)
    items = [(item, b"hvc1") for item in range(1, count + 1)] + ([(grid, b"grid")] if tiles else [])
    descriptor = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *stored.size)
    infos = b"".join(_box(b"infe", struct.pack(">IHH", 0x02000000, item, 0) + kind + b"\0") for item, kind in items)
    associations = struct.pack(">II", 0, len(uses)) + b"".join(
        struct.pack(">HB", item, len(used)) + bytes(used) for item, used in uses.items()
    )

    def file(start: int) -> tuple[bytes, int]:
        places, at = b"", start
        for item, (_, data) in enumerate(parts, 1):
            places += struct.pack(">HHHHII", item, 0, 0, 1, at, len(data))
            at += len(data)
        if tiles:
            places += struct.pack(">HHHHII", grid, 1, 0, 1, 0, len(descriptor))
        meta = b"".join(
            [
                _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
                _box(b"pitm", struct.pack(">IH", 0, primary)),
                _box(b"iloc", struct.pack(">IBBH", 0x01000000, 0x44, 0, len(items)) + places),
                _box(b"iinf", struct.pack(">IH", 0, len(items)) + infos),
                _box(b"iprp", _box(b"ipco", b"".join(properties)) + _box(b"ipma", associations)),
            ]
        )
        if tiles:
            links = struct.pack(">HH", grid, count) + b"".join(struct.pack(">H", item) for item in range(1, count + 1))
            meta += _box(b"iref", bytes(4) + _box(b"dimg", links)) + _box(b"idat", descriptor)
        head = _box(b"ftyp", b"heic\0\0\0\0mif1heic") + _box(b"meta", bytes(4) + meta)
        return head + _box(b"mdat", b"".join(data for _, data in parts)), len(head) + 8

    return file(file(0)[1])[0]


def _hevc(image: Image.Image) -> tuple[bytes, bytes]:
    """One picture in HEVC: the configuration record, and the data with lengths, as an mp4 has them."""
    options = {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=1", "preset": "ultrafast", "crf": "8"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx265", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = *image.size, "yuv420p"
        frame = frame_of(image).reformat(format="yuv420p", dst_colorspace=5)
        frame.pts = 0
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(io.BytesIO(file.getvalue())) as made:
        stream = made.streams.video[0]
        record = bytes(stream.codec_context.extradata or b"")
        return record, bytes(next(packet for packet in made.demux(stream) if packet.size))


def _box(name: bytes, body: bytes) -> bytes:
    return (len(body) + 8).to_bytes(4) + name + body


def video(*, sound: str | None = "aac", times: list[int] | None = None, turns: int = 0, seconds: float = 2.0) -> bytes:
    """A video of 24 frames a second.

    Args:
        sound: FFmpeg's encoder of its sound.
        times: When each frame is shown, in 24ths of a second.
        turns: The quarter turns counter-clockwise that a player makes.
        seconds: Its length, without `times`.
    """
    image = upright().rotate(-90 * turns, expand=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        with av.open(path, "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "12", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = *image.size, "yuv420p"
            if turns:
                stream.set_display_rotation(90 * turns)
            track = output.add_stream(sound, rate=48_000) if sound else None
            for pts in times or range(round(24 * seconds)):
                frame = frame_of(image)
                frame.pts, frame.time_base = pts, Fraction(1, 24)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
            if track:
                _add_sound(output, track, seconds)
        return path.read_bytes()


def audio(container: str, codec: str, seconds: float = 2.0) -> bytes:
    """Audio of one tone, with its index first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio"
        options = {"movflags": "faststart"} if container == "ipod" else {}
        with av.open(path, "w", format=container, options=options) as output:
            _add_sound(output, output.add_stream(codec, rate=48_000), seconds)
        return path.read_bytes()


def _add_sound(output: av.container.OutputContainer, track: av.AudioStream, seconds: float) -> None:
    size = track.codec_context.frame_size or 1024
    resampler = av.AudioResampler(track.codec_context.format.name, "stereo", 48_000, frame_size=size)
    written = 0
    while written < round(48_000 * seconds):
        count = min(1024, round(48_000 * seconds) - written)
        frame = av.AudioFrame("s16", "stereo", count)
        waves = b"".join(struct.pack("<hh", *2 * [9000 if n // 50 % 2 else -9000]) for n in range(count))
        frame.planes[0].update(waves.ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = 48_000, written, Fraction(1, 48_000)
        written += count
        for piece in resampler.resample(frame):
            output.mux(track.encode(piece))
    for piece in resampler.resample(None):
        output.mux(track.encode(piece))
    output.mux(track.encode(None))


MAKERS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "heic": ("image", "image/heic", heic),
    "rotated heic": ("image", "image/heic", lambda: heic(turns=1)),
    "heic of tiles": ("image", "image/heic", lambda: heic(turns=3, tiles=(3, 2))),
    "avif": ("image", "image/avif", lambda: _saved(upright(), "AVIF")),
    "rotated avif": ("image", "image/avif", lambda: rotated_by_exif("AVIF")),
    "cmyk jpeg": ("image", "in CMYK", lambda: _saved(upright().convert("CMYK"), "JPEG", quality=95)),
    "cmyk tiff": ("image", "in CMYK", lambda: _saved(upright().convert("CMYK"), "TIFF")),
    "16-bit png": ("image", "16 bits a channel", png_of_16_bits),
    "animated avif": ("image", "image/avif", lambda: _animated("AVIF")),
    "animated gif": ("image", "an animation", lambda: _animated("GIF")),
    "animated png": ("image", "an animation", lambda: _animated("PNG")),
    "animated webp": ("image", "an animation", lambda: _animated("WEBP")),
    **{
        f"rotated {kind}": ("image", "EXIF data rotates", lambda kind=kind: rotated_by_exif(kind))
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    },
    "vfr video": ("video", "frame rate varies", lambda: video(times=[*range(20), *range(30, 50)])),
    "rotated video": ("video", "metadata rotates", lambda: video(turns=1)),
    "video with Opus": ("video", "sound is Opus", lambda: video(sound="libopus")),
    "video with ALAC": ("video", "sound is ALAC", lambda: video(sound="alac")),
    "Opus": ("audio", "Opus", lambda: audio("ogg", "libopus")),
    "ALAC": ("audio", "ALAC", lambda: audio("ipod", "alac")),
}
"""By name: the kind, what a message says of it, and how to make it."""
