"""The file that films are joined into, on this machine's disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from av import Packet
from av.container import OutputContainer
from av.container import open as av_open
from av.error import FFmpegError


def new_mp4(path: Path, **options: str) -> OutputContainer:
    """A new mp4, with its index in front and nothing in it that differs from time to time.

    Args:
        path: Where to write.
        options: Further ones of FFmpeg's muxer.
    """
    output = av_open(path, "w", format="mp4", options={"movflags": "faststart", "fflags": "+bitexact"} | options)
    assert isinstance(output, OutputContainer)  # noqa: S101
    return output


def write(output: OutputContainer, packets: Packet[Any] | Sequence[Packet[Any]]) -> None:
    """Write packets to it.

    Raises:
        OSError: They cannot be written, as on a full disk. It is no fault of a film that is being read.
    """
    try:
        output.mux(packets)
    except FFmpegError as error:
        raise OSError(error.errno, f"the joined film cannot be written: {error.strerror}") from None


def close(output: OutputContainer) -> None:
    """Write what is left, and the index.

    Raises:
        OSError: As `write` does.
    """
    try:
        output.close()
    except FFmpegError as error:
        raise OSError(error.errno, f"the joined film cannot be written: {error.strerror}") from None
