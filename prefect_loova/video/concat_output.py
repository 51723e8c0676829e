"""Writes the mp4 file of joined videos to the local disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from av import AudioStream, Packet, VideoStream
from av.container import OutputContainer
from av.container import open as av_open
from av.error import FFmpegError
from av.video.reformatter import Colorspace

from prefect_loova.video.images import canvas_matrix

Layout = Literal["mono", "stereo"]
"""The channels of encoded sound."""

SAMPLE_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""The samples a second that are encoded."""

USUAL_SAMPLE_RATE = 48_000
"""The samples a second of sound whose own rate is none of `SAMPLE_RATES`, and of a film with options."""

# The number of threads changes the bytes, so it must not depend on the machine.
_PICTURE_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "2", "flags": "+bitexact"}
_BITS_PER_CHANNEL = 96_000
_TAGS = {Colorspace.ITU709: (1, 1, 1), Colorspace.ITU601: (6, 6, 6)}  # H.264's matrix, primaries and transfer


class Mp4Writer:
    """A new mp4, as a context manager. Its index comes first, and the same packets give the same bytes.

    Args:
        path: The file to write.
        options: More options for FFmpeg's muxer.

    Attributes:
        container: The container, to add streams to.

    Raises:
        OSError: The block ended, and the rest of the file cannot be written.
    """

    def __init__(self, path: Path, **options: str) -> None:
        container = av_open(path, "w", format="mp4", options={"movflags": "faststart", "fflags": "+bitexact"} | options)
        assert isinstance(container, OutputContainer)  # noqa: S101
        self.container = container

    def add_h264(self, size: tuple[int, int], fps: Fraction) -> VideoStream:
        """Add a video track for frames of `Canvas`: width and height in pixels, frames a second."""
        stream = self.container.add_stream("libx264", rate=fps, options=_PICTURE_OPTIONS)
        assert isinstance(stream, VideoStream)  # noqa: S101
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        encoder = stream.codec_context
        encoder.colorspace, encoder.color_primaries, encoder.color_trc = _TAGS[canvas_matrix(size)]
        encoder.color_range = 1
        return stream

    def add_aac(self, rate: int, layout: Layout) -> AudioStream:
        """Add an audio track for frames of planar floats: samples a second, channels."""
        stream = self.container.add_stream("aac", rate=rate, options={"flags": "+bitexact"})
        assert isinstance(stream, AudioStream)  # noqa: S101
        stream.codec_context.layout = layout
        stream.codec_context.format = "fltp"
        stream.codec_context.bit_rate = _BITS_PER_CHANNEL * (1 if layout == "mono" else 2)
        return stream

    def write(self, packets: Packet[Any] | Sequence[Packet[Any]]) -> None:
        """Write packets.

        Raises:
            OSError: They cannot be written, for example because the disk is full. No input video is at fault.
        """
        with _write_errors():
            self.container.mux(packets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error else nullcontext(), _write_errors():
            self.container.close()


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno, f"the joined video cannot be written: {error.strerror}") from None
