"""Writes the mp4 file of joined videos to the local disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from av import Packet
from av.container import OutputContainer
from av.container import open as av_open
from av.error import FFmpegError


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
